"""Folders that CrossEncoder and plain transformers load, with the scores of each pair alone and unpadded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from swift_core.errors import SwiftError, UserError
from swift_reranker import st_folder
from swift_reranker.st_folder import (
    Answers,
    check_cross_encoder,
    cross_encoder_faults,
    vllm_overrides,
    write_cross_encoder,
)
from swift_reranker.template import (
    DECODER,
    QWEN3_INSTRUCTION,
    QWEN3_RERANKER,
    Template,
    closing_ids,
)

LIMIT = 44
LONG = "the old river runs under seven bridges and through the town. " * 9
PAIRS = [
    ("what is a cat", "a cat is a small animal."),
    ("q", ""),
    ("who won the match yesterday", LONG),
    ("密码忘了 {怎么办}?", "yes"),
    (LONG[:130], LONG[5:]),
    ("the town", "no. " * 30),
    ("the town", "seven bridges.\n"),
]
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
DECODER_SIZES = {**SIZES, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 1024}
STARTS = {"bert": ("[CLS]", "[SEP]"), "modernbert": ("[CLS]", "[SEP]")}


def byte_tokenizer(*special: str) -> PreTrainedTokenizerFast:
    """Bytes and words; a full stop with a newline is one token, as real vocabularies have it."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?\w+|\.\n|."), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([text for pair in PAIRS for text in pair] + ["yes", "no", ".\n"] * 50, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made)


def encoder_of(kind: str) -> tuple[Any, PreTrainedTokenizerFast]:
    first, last = STARTS.get(kind, ("<s>", "</s>"))
    tokenizer = byte_tokenizer(first, "[PAD]", last, "[UNK]", "[MASK]")  # the padding token of RoBERTa is 1
    number = {token: tokenizer.convert_tokens_to_ids(token) for token in (first, last)}
    types = kind == "bert"
    middle = last if kind in STARTS else f"{last} {last}"
    second = ":1" if types else ""
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        pair=f"{first} $A {middle} $B{second} {last}{second}",
        special_tokens=list(number.items()),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        pad_token="[PAD]",
        cls_token=first,
        sep_token=last,
        bos_token=first,
        eos_token=last,
        unk_token="[UNK]",
        mask_token="[MASK]",
        model_input_names=["input_ids", *(["token_type_ids"] if types else []), "attention_mask"],
    )
    name = {"bert": "Bert", "roberta": "Roberta", "xlm-roberta": "XLMRoberta", "modernbert": "ModernBert"}[
        kind
    ]
    config = getattr(transformers, f"{name}Config")(
        **SIZES,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        max_position_embeddings=LIMIT + (2 if "roberta" in kind else 0),
        type_vocab_size=2 if types else 1,
        num_labels=1,
        **({"cls_token_id": 0, "sep_token_id": 2, "bos_token_id": 0, "eos_token_id": 2}),
    )
    torch.manual_seed(0)
    return spread(getattr(transformers, f"{name}ForSequenceClassification")(config)), tokenizer


def decoder_of(kind: str, task: str) -> tuple[Any, PreTrainedTokenizerFast]:
    tokenizer = byte_tokenizer("<|end|>", "<|pad|>", "<|im_start|>", "<|im_end|>", "<s>")
    # It gives token types, as tokenizers without a class of their own do.
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, pad_token="<|pad|>", eos_token="<|end|>"
    )
    name = {"qwen3": "Qwen3", "llama": "Llama", "gpt2": "GPT2"}[kind]
    auto = getattr(transformers, f"AutoModelFor{task}")
    sizes = DECODER_SIZES if kind != "gpt2" else {"n_embd": 32, "n_layer": 2, "n_head": 4}
    config = getattr(transformers, f"{name}Config")(
        **sizes, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, num_labels=1
    )
    torch.manual_seed(0)
    return spread(auto.from_config(config)), tokenizer


def spread(model: Any) -> Any:
    """The model with larger weights: else all pairs get nearly the same score."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(8)
    return model.eval()


def pair_rows(tokenizer: Any, middle: int, limit: int) -> list[dict[str, list[int]]]:
    """Both texts with their special tokens; of the document as much as there is room for."""
    rows = []
    for query, document in PAIRS:
        one, two = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (query, document))
        first = [tokenizer.cls_token_id, *one, *[tokenizer.sep_token_id] * middle]
        second = [*two[: limit - len(first) - 1], tokenizer.sep_token_id]
        rows.append({"input_ids": first + second})
        if "token_type_ids" in tokenizer.model_input_names:
            rows[-1]["token_type_ids"] = [0] * len(first) + [1] * len(second)
    return rows


def text_rows(tokenizer: Any, template: Template, instruction: str, limit: int) -> list[dict[str, list[int]]]:
    closing = closing_ids(tokenizer, template, instruction)
    rows = []
    for query, document in PAIRS:
        text = template.render(query, document, instruction)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        rows.append({"input_ids": ids if len(ids) < limit else [*ids[: limit - len(closing)], *closing]})
    return rows


def scores(model: Any, rows: list[dict[str, list[int]]], answers: Answers | None = None) -> np.ndarray:
    """Raw scores [K], each row alone."""
    found = []
    for row in rows:
        with torch.no_grad():
            logits = model(**{name: torch.tensor([ids]) for name, ids in row.items()}).logits[0].float()
        found.append(logits[0] if answers is None else logits[-1, answers.true] - logits[-1, answers.false])
    return np.array(found, dtype=np.float64)


def answers_of(tokenizer: Any) -> Answers:
    return Answers(*tokenizer.convert_tokens_to_ids(["yes", "no"]))


def files(folder: Path) -> set[str]:
    return {path.suffix for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta", "modernbert"])
def test_encoders(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers.base")
    model, tokenizer = encoder_of(kind)
    before = tokenizer.model_max_length
    write_cross_encoder(tmp_path, model, tokenizer, max_length=LIMIT)
    assert tokenizer.model_max_length == before
    rows = pair_rows(tokenizer, 1 if kind in STARTS else 2, LIMIT)
    assert max(len(row["input_ids"]) for row in rows) == LIMIT
    # The library's own way would cut some of the queries too.
    own = tokenizer(*map(list, zip(*PAIRS, strict=True)), truncation="longest_first", max_length=LIMIT)
    assert own["input_ids"] != [row["input_ids"] for row in rows]
    expected = scores(model, rows)
    assert np.ptp(expected) > 0.1
    assert check_cross_encoder(tmp_path, expected, PAIRS) < 1e-4
    plain = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    np.testing.assert_allclose(scores(plain, rows), expected, rtol=1e-5)
    assert files(tmp_path) == {".json", ".safetensors"}


@pytest.mark.parametrize("text", [DECODER, "{query}|{document}", '{"q": "{query}", "type": "{document}"}'])
@pytest.mark.parametrize("kind", ["qwen3", "llama", "gpt2"])
def test_decoders_with_a_head(kind: str, text: str, tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers.base")
    model, tokenizer = decoder_of(kind, "SequenceClassification")
    template = Template(text)
    limit = LIMIT + 30
    write_cross_encoder(tmp_path, model, tokenizer, max_length=limit, template=template)
    rows = text_rows(tokenizer, template, "", limit)
    assert max(len(row["input_ids"]) for row in rows) == limit
    expected = scores(model, rows)
    assert np.ptp(expected) > 0.1
    assert check_cross_encoder(tmp_path, expected, PAIRS) < 1e-3
    plain = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    reloaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    batch = reloaded([template.render(*pair) for pair in PAIRS[:2]], padding=True, return_tensors="pt")
    with torch.no_grad():
        np.testing.assert_allclose(plain(**batch).logits[:, 0], expected[:2], atol=1e-4)


@pytest.mark.parametrize(("text", "instruction"), [(QWEN3_RERANKER, QWEN3_INSTRUCTION), (DECODER, "")])
@pytest.mark.parametrize("kind", ["qwen3", "llama"])
def test_generative(kind: str, text: str, instruction: str, tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers.base")
    model, tokenizer = decoder_of(kind, "CausalLM")
    template, answers = Template(text), answers_of(tokenizer)
    limit = len(tokenizer(template.render("", "", instruction))["input_ids"]) + 60
    write_cross_encoder(
        tmp_path,
        model,
        tokenizer,
        max_length=limit,
        template=template,
        instruction=instruction,
        answers=answers,
    )
    rows = text_rows(tokenizer, template, instruction, limit)
    assert max(len(row["input_ids"]) for row in rows) == limit
    expected = scores(model, rows, answers)
    assert np.ptp(expected) > 0.1
    assert check_cross_encoder(tmp_path, expected, PAIRS) < 1e-3
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    np.testing.assert_allclose(scores(plain, rows, answers), expected, atol=1e-4)


@pytest.mark.parametrize("generative", [False, True])
def test_every_length_is_cut_at_the_same_token(generative: bool, tmp_path: Path) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    model, tokenizer = decoder_of("qwen3", "CausalLM" if generative else "SequenceClassification")
    template = Template(DECODER)
    answers = answers_of(tokenizer) if generative else None
    write_cross_encoder(tmp_path, model, tokenizer, max_length=99, template=template, answers=answers)
    encoder = sentence_transformers.CrossEncoder(str(tmp_path), device="cpu", local_files_only=True)
    shortest = max(
        len(tokenizer(template.render(query, ""), add_special_tokens=False)["input_ids"])
        for query, _ in PAIRS
    )
    for limit in range(shortest + 2, 150, 7):
        encoder[0].tokenizer.model_max_length = limit
        batch = encoder.preprocess([list(pair) for pair in PAIRS])
        found = [
            ids[mask == 1].tolist()
            for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
        ]
        assert found == [row["input_ids"] for row in text_rows(tokenizer, template, "", limit)]
        assert "token_type_ids" not in batch


def test_a_query_that_leaves_no_room_is_refused_by_the_tokenizer_of_pairs(tmp_path: Path) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    model, tokenizer = encoder_of("bert")
    write_cross_encoder(tmp_path, model, tokenizer, max_length=LIMIT)
    encoder = sentence_transformers.CrossEncoder(str(tmp_path), device="cpu", local_files_only=True)
    with pytest.raises(Exception, match="Truncation error"):
        encoder.predict([(LONG, "a cat")])


def test_users_get_numbers_from_0_to_1_and_may_ask_with_another_instruction(tmp_path: Path) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    model, tokenizer = decoder_of("qwen3", "CausalLM")
    template, answers = Template(QWEN3_RERANKER), answers_of(tokenizer)
    given: dict[str, Any] = {"max_length": 1024, "template": template, "answers": answers}
    for activation, squash in (("Sigmoid", lambda x: 1 / (1 + np.exp(-x))), ("Identity", lambda x: x)):
        folder = tmp_path / activation
        write_cross_encoder(folder, model, tokenizer, instruction="Find cats", activation=activation, **given)
        encoder = sentence_transformers.CrossEncoder(str(folder), device="cpu", local_files_only=True)
        expected = squash(scores(model, text_rows(tokenizer, template, "Find cats", 1024), answers))
        np.testing.assert_allclose(encoder.predict(PAIRS), expected, atol=1e-3)
        np.testing.assert_allclose(encoder.predict(PAIRS[0]), expected[0], atol=1e-3)
        other = squash(scores(model, text_rows(tokenizer, template, "Find dogs", 1024), answers))
        np.testing.assert_allclose(encoder.predict(PAIRS, prompt="Find dogs"), other, atol=1e-3)
        ranked = encoder.rank("the town", ["no. no.", "seven bridges"])
        assert ranked[0]["score"] >= ranked[1]["score"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_of_16_bits_stay_so(dtype: torch.dtype, tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers.base")
    model, tokenizer = decoder_of("qwen3", "CausalLM")
    model, template, answers = model.to(dtype), Template(DECODER), answers_of(tokenizer)
    write_cross_encoder(tmp_path, model, tokenizer, max_length=200, template=template, answers=answers)
    expected = scores(model, text_rows(tokenizer, template, "", 200), answers)
    assert check_cross_encoder(tmp_path, expected, PAIRS) is not None
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")


def test_a_start_token_of_the_template_is_one_token(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers.base")
    model, tokenizer = decoder_of("llama", "SequenceClassification")
    template = Template(f"<s>{DECODER}")
    rows = text_rows(tokenizer, template, "", 200)
    assert rows[0]["input_ids"][0] == tokenizer.convert_tokens_to_ids("<s>")
    write_cross_encoder(tmp_path, model, tokenizer, max_length=200, template=template)
    check_cross_encoder(tmp_path, scores(model, rows), PAIRS)


def test_a_folder_with_other_scores_is_told(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers.base")
    model, tokenizer = encoder_of("bert")
    write_cross_encoder(tmp_path, model, tokenizer, max_length=LIMIT)
    expected = scores(model, pair_rows(tokenizer, 1, LIMIT))
    for wrong in (expected + 0.01, expected * np.nan):
        with pytest.raises(SwiftError, match="CrossEncoder gives other scores"):
            check_cross_encoder(tmp_path, wrong, PAIRS)


def test_without_sentence_transformers_nothing_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(st_folder, "find_spec", lambda name: None)
    with pytest.warns(UserWarning, match="was not checked: sentence-transformers 6 or later"):
        assert check_cross_encoder(tmp_path, np.zeros(1), PAIRS[:1]) is None


def test_models_that_cross_encoder_would_read_wrongly(tmp_path: Path) -> None:
    template = Template(DECODER)
    model, tokenizer = decoder_of("gpt2", "CausalLM")
    answers = answers_of(tokenizer)
    with pytest.raises(UserError, match="GPT2LMHeadModel counts positions from the left, padding included"):
        write_cross_encoder(tmp_path, model, tokenizer, max_length=99, template=template, answers=answers)
    assert not list(tmp_path.iterdir())
    (fault,) = cross_encoder_faults(model, tokenizer, template=None, answers=answers)
    assert "template: expected one" in fault

    model, tokenizer = decoder_of("qwen3", "SequenceClassification")
    (fault,) = cross_encoder_faults(model, tokenizer, template=Template(f"{DECODER}<|pad|>"), answers=None)
    assert "ends with '<|pad|>', which is also the padding token" in fault
    model.config.pad_token_id = 7
    (fault,) = cross_encoder_faults(model, tokenizer, template=template, answers=None)
    assert "expected pad_token_id 1" in fault
    assert "found 7" in fault
    tokenizer.pad_token = None
    model.config.num_labels = 3
    faults = cross_encoder_faults(model, tokenizer, template=template, answers=None)
    assert [fault.split(":")[0] for fault in faults] == ["model", "tokenizer"]


def test_what_vllm_is_told() -> None:
    model, tokenizer = decoder_of("qwen3", "CausalLM")
    answers = answers_of(tokenizer)
    assert vllm_overrides(model, tokenizer, answers) == {
        "architectures": ["Qwen3ForSequenceClassification"],
        "classifier_from_token": ["no", "yes"],
        "is_original_qwen3_reranker": True,
    }
    assert vllm_overrides(model, tokenizer, None) is None
    model, tokenizer = decoder_of("llama", "CausalLM")
    assert vllm_overrides(model, tokenizer, answers_of(tokenizer)) is None
