"""Token ids of texts, pairs and conversations, and what becomes of those that are too long."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import processors
from transformers import AutoTokenizer

from swift_cls.texts import TextEncoding
from swift_core.preparation import prepare_task

LONG = " ".join(f"{word}" for word in "abcdefghijklmnopqrst")


def encoding(folder: Path, max_length: int = 12, long_text: Any = "truncate") -> TextEncoding:
    return TextEncoding(AutoTokenizer.from_pretrained(folder), max_length, long_text, None)


def words(made: TextEncoding, chunk: list[int]) -> str:
    return made.tokenizer.decode(chunk)


def test_a_cut_text_keeps_its_end_token(bert: Path) -> None:
    made = encoding(bert)
    tokens = made.of_text(LONG)
    assert words(made, tokens.chunks[0]) == "[CLS] a b c d e f g h i j [SEP]"
    assert tokens.cut
    assert not made.of_text("a b").cut


def test_head_and_tail_leave_the_middle_out(bert: Path) -> None:
    made = encoding(bert, long_text="head_tail")
    assert words(made, made.of_text(LONG).chunks[0]) == "[CLS] a b m n o p q r s t [SEP]"


def test_chunks_hold_every_token_once_and_are_of_one_length(bert: Path) -> None:
    made = encoding(bert, long_text="chunk_mean", max_length=9)
    chunks = made.of_text(LONG).chunks
    assert [words(made, chunk) for chunk in chunks] == [
        "[CLS] a b c d e f [SEP]",
        "[CLS] g h i j k l m [SEP]",
        "[CLS] n o p q r s t [SEP]",
    ]


def test_pairs_are_encoded_as_the_tokenizer_means_them_and_the_longer_text_is_cut(bert: Path) -> None:
    made = encoding(bert, max_length=10)
    tokens = made.of_text(LONG, "x y")
    assert words(made, tokens.chunks[0]) == "[CLS] a b c d e [SEP] x y [SEP]"
    assert tokens.types == [0] * 7 + [1] * 3
    assert tokens.cut
    assert not made.of_text("a", "b").cut


def test_pairs_of_a_tokenizer_without_separator_are_kept_apart(qwen: Path) -> None:
    made = encoding(qwen, max_length=16)
    assert words(made, made.of_text("ab", "cd").chunks[0]) == "ab\ncd"
    whole = words(made, made.of_text("q" * 40, "z" * 4).chunks[0])
    assert whole.endswith("\nzzzz")
    assert len(made.of_text("q" * 40, "z" * 40).chunks[0]) == 16


def test_an_end_token_that_pads_is_left_out_as_transformers_does(ending_tokenizer: Any) -> None:
    ending_tokenizer.pad_token = ending_tokenizer.eos_token
    made = TextEncoding(ending_tokenizer, 8, "truncate", None)
    assert ending_tokenizer.pad_token_id in ending_tokenizer("ab")["input_ids"]
    assert ending_tokenizer.pad_token_id not in made.of_text("ab").chunks[0]
    assert ending_tokenizer.pad_token_id not in made.of_text("ab " * 40).chunks[0]


def test_of_a_pair_too_the_last_token_is_what_transformers_reads(ending_tokenizer: Any) -> None:
    ending_tokenizer.pad_token = ending_tokenizer.eos_token
    end = ending_tokenizer.pad_token_id
    ending_tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <|end|>", pair="$A <|end|> $B <|end|>", special_tokens=[("<|end|>", end)]
    )
    made = TextEncoding(ending_tokenizer, 40, "truncate", None)
    chunk = made.of_text("ab", "cd").chunks[0]
    assert ending_tokenizer("ab", "cd")["input_ids"] == [*chunk, end]
    assert end in chunk and chunk[-1] != end


def test_conversations_go_through_the_chat_template(qwen: Path) -> None:
    made = encoding(qwen, max_length=64)
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
    assert words(made, made.of_messages(talk).chunks[0]) == "hi\nyes"
    made.tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    assert words(made, made.of_messages(talk).chunks[0]) == "<user>hi<assistant>yes"


def test_only_what_is_said_in_a_conversation_is_read(qwen: Path) -> None:
    made = encoding(qwen, max_length=64)
    parts = [{"type": "text", "text": "hi"}, {"type": "text", "text": "you"}]
    talk = [{"role": "user", "content": parts}, {"role": "assistant", "content": None}]
    assert words(made, made.of_messages(talk).chunks[0]).strip() == "hi\nyou"
    made.tokenizer.chat_template = "{{ raise_exception('no system here') }}"
    with pytest.raises(ValueError, match=r"^messages: .*refuses them: no system here"):
        made.of_messages(talk)


@pytest.mark.parametrize(
    "talk",
    [
        [{"role": "user", "content": [{"type": "image"}]}],
        [],
        "text",
        [{"role": "user"}],
        [{"role": "user", "content": " "}],
    ],
)
def test_what_is_no_conversation_is_refused(qwen: Path, talk: Any) -> None:
    with pytest.raises(ValueError, match=r"^messages: expected"):
        encoding(qwen).of_messages(talk)


def test_a_csv_file_has_lists_of_labels_as_json(tmp_path: Path, bert: Path, make_args: Any) -> None:
    from swift_core.preparation import prepare_task

    (tmp_path / "train.csv").write_text(
        'text,label\na b,"[""x"", ""y""]"\nc,[]\nd e,"[""x""]"\n', encoding="utf-8"
    )
    ready = prepare_task(make_args(bert, dataset=str(tmp_path / "train.csv")))
    assert ready.collator.known_labels.problem == "multi_label"
    assert ready.train.features["targets"][:] == [[0.0, 1.0], [], [0.0]]


def test_a_question_with_a_sentence_is_a_pair(bert: Path, make_args: Any) -> None:
    rows = [{"question": f"who {n}", "sentence": "it was she", "label": n % 2} for n in range(4)]
    made = prepare_task(make_args(bert), rows).train
    assert made is not None
    assert (made.records[1]["text"], made.records[1]["text_pair"]) == ("who 1", "it was she")
