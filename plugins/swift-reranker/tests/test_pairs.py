"""Only documents are cut, and what the pairs of a list share is kept once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from swift_core.errors import UserError
from swift_reranker.pairs import PairEncoding, TokenLists
from swift_reranker.template import DECODER, QWEN3_RERANKER, Template

QUERY = "what is a cat"
DOCUMENTS = ["a cat is a small animal", "the bank raised rates", "", "a cat 猫"]


def encoding(folder: Path, **options: Any) -> PairEncoding:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return PairEncoding(tokenizer=tokenizer, **{"max_length": 1000, **options})


def whole(found: TokenLists) -> list[list[int]]:
    return [[*found.prefix, *row] for row in found.rows]


def test_an_encoder_reads_pairs_as_its_tokenizer_makes_them(bert: Path) -> None:
    pairs = encoding(bert, max_length=24)
    found = pairs.of_list(QUERY, DOCUMENTS)
    expected = pairs.tokenizer([QUERY] * 4, DOCUMENTS, truncation="only_second", max_length=24, padding=False)
    assert found.rows == expected["input_ids"]
    assert found.types == expected["token_type_ids"]
    assert found.prefix == []
    assert found.cut == [True, True, False, False]
    assert found.lengths == [24, 24, 13, 18]


@pytest.mark.parametrize("text", [QWEN3_RERANKER, DECODER], ids=["qwen3", "decoder"])
def test_a_decoder_reads_the_template_as_one_text(qwen: Path, text: str) -> None:
    template = Template(text)
    pairs = encoding(qwen, template=template, instruction="look it up")
    found = pairs.of_list(QUERY, DOCUMENTS)
    before, after = template.parts(QUERY, "look it up")
    expected = [pairs.tokenizer(f"{before}{document}{after}")["input_ids"] for document in DOCUMENTS]
    assert whole(found) == expected
    assert len(found.prefix) >= len(pairs.tokenizer(before)["input_ids"]) - 1
    assert all(found.rows)
    assert not any(found.cut)
    assert found.computed == len(found.prefix) + sum(map(len, found.rows)) < sum(found.lengths)


def test_equal_documents_keep_a_token_of_their_own(qwen: Path) -> None:
    found = encoding(qwen, template=Template(DECODER)).of_list(QUERY, ["same", "same"])
    assert [len(row) for row in found.rows] == [1, 1]
    assert encoding(qwen, template=Template(DECODER)).of_list(QUERY, ["alone"]).prefix == []


def test_a_long_document_loses_its_end_and_nothing_else_does(qwen: Path) -> None:
    pairs = encoding(qwen, template=Template(DECODER))
    tokenizer, document = pairs.tokenizer, "the moon is far away " * 30
    before, after = pairs.template.parts(QUERY, "")  # type: ignore[union-attr]
    head, tail = tokenizer(before)["input_ids"], tokenizer(after)["input_ids"]
    room = len(head) + len(tail) + 10
    (ids,) = whole(encoding(qwen, template=Template(DECODER), max_length=room).of_list(QUERY, [document]))
    assert len(ids) == room
    assert ids[-len(tail) :] == tail
    assert ids[: len(head) - 1] == head[:-1]
    kept = tokenizer.decode(ids)
    assert kept.startswith(before) and kept.endswith(after)
    assert document.startswith(kept[len(before) : -len(after)])


def test_what_follows_a_cut_document_is_whole_where_a_token_joins_it_with_the_end() -> None:
    made = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(r" ?\w+|\.\n|."), "isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator([".\n"] * 50, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made)
    document = "the cat sat. " * 9 + "It slept."
    text = Template(DECODER).render("q", document)
    assert ".Ċ" in tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])
    pairs = PairEncoding(tokenizer=tokenizer, max_length=60, template=Template(DECODER))
    (ids,) = whole(pairs.of_list("q", [document]))
    assert len(ids) == 60
    assert tokenizer.decode(ids) == Template(DECODER).render("q", "the cat sat. the cat sat. the ")


@pytest.mark.parametrize("family", ["bert", "qwen"])
def test_a_query_that_leaves_no_room_is_an_error_and_can_be_cut(
    family: str, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(family)
    more: dict[str, Any] = {} if family == "bert" else {"template": Template(DECODER)}
    query = "who won the match " * 20
    with pytest.raises(
        ValueError, match=r"^query: .* of max_length 60, which leaves no room .* query_max_length"
    ):
        encoding(folder, max_length=60, **more).of_list(query, ["the red team"])
    found = encoding(folder, max_length=60, query_max_length=8, **more).of_list(query, ["red", "red " * 60])
    assert found.cut == [False, True]
    text = encoding(folder).tokenizer.decode(whole(found)[0])
    assert query[:7] in text and query not in text


def test_a_tokenizer_of_another_model_is_told(bert: Path) -> None:
    with pytest.raises(UserError, match="the model knows 10: they do not belong together"):
        encoding(bert, vocabulary=10).of_list(QUERY, ["a cat"])
