"""Scores are those of transformers' own classes, whatever is shared, padded, adapted or reloaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from swift_core import TrainingArguments
from swift_core.batching import pad_batch
from swift_core.errors import UserError
from swift_core.flat import state_of
from swift_reranker import hooks
from swift_reranker.scoring import pair_scores, score_lists

Build = Callable[..., tuple[Any, Any, TrainingArguments]]

SIZES = {
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 2048,
}
CAUSAL: dict[str, dict[str, Any]] = {
    "qwen3": {},
    "qwen2": {},
    "llama": {},
    "mistral": {"sliding_window": None},
    "gemma": {},
    "gemma2": {"final_logit_softcapping": 2.0, "attn_logit_softcapping": None, "sliding_window": 64},
    "granite": {"logits_scaling": 3.0},
    "cohere": {"logit_scale": 0.25},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4},
    "phi": {},
}


def encoded(collator: Any, lists: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [collator.encode({"scores": None, **entry}) for entry in lists]


def whole_rows(features: Sequence[dict[str, Any]]) -> list[torch.Tensor]:
    return [torch.tensor([*f["prefix"], *row]) for f in features for row in f["rows"]]


def family(name: str, folder: Path, tokenizer: Path) -> Path:
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **{**SIZES, "pad_token_id": 0, **CAUSAL[name]})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def test_an_encoder_gives_the_logits_of_its_own_class(build: Build, bert: Path, lists: list[Any]) -> None:
    model, collator, _ = build(bert)
    features = encoded(collator, lists)
    inputs = pad_batch(whole_rows(features), pad_token_id=0)
    kinds = [torch.tensor(row) for feature in features for row in feature["types"]]
    inputs["token_type_ids"] = pad_batch(kinds, pad_token_id=0)["input_ids"]
    with torch.no_grad():
        expected = model(**inputs).logits[:, 0]
        found = pair_scores(model, collator(features))
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["qwen3", "llama", "gpt2"])
def test_a_decoder_with_a_head_reads_the_last_token(
    build: Build, qwen: Path, lists: list[Any], tmp_path: Path, name: str
) -> None:
    model, collator, _ = build(family(name, tmp_path / name, qwen), scoring="head")
    features = encoded(collator, lists)
    assert all(feature["prefix"] for feature in features)
    with torch.no_grad():
        found = pair_scores(model, collator(features))
        expected = torch.cat([model(input_ids=row[None]).logits[:, 0] for row in whole_rows(features)])
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", list(CAUSAL))
def test_a_causal_model_judges_by_two_rows_of_its_vocabulary(
    build: Build, qwen: Path, lists: list[Any], tmp_path: Path, name: str
) -> None:
    folder = family(name, tmp_path / name, qwen)
    model, collator, _ = build(folder, scoring="generative")
    features = encoded(collator, lists)
    with torch.no_grad():
        found = pair_scores(model, collator(features))
        last = torch.cat([model(input_ids=row[None]).logits[:, -1] for row in whole_rows(features)])
    tokenizer = collator.tokenizer
    yes, no = (tokenizer.convert_tokens_to_ids(token) for token in ("yes", "no"))
    expected = last[:, yes] - last[:, no]
    assert expected.std() > 0.005
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("scoring", ["head", "generative"])
def test_gradients_with_a_shared_prefix_are_those_of_whole_rows(
    build: Build, qwen: Path, lists: list[Any], scoring: str
) -> None:
    model, collator, _ = build(qwen, scoring=scoring)
    features = encoded(collator, lists)
    unshared = [{**f, "prefix": [], "rows": [[*f["prefix"], *row] for row in f["rows"]]} for f in features]
    gradients = []
    for made in (features, unshared):
        model.zero_grad()
        hooks.compute_loss(model, collator(made), build(qwen, scoring=scoring)[2]).loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 10
    assert state_of(model).rung is not None and state_of(model).rung.name == "FLAT"
    for with_parents, without in zip(*gradients, strict=True):
        torch.testing.assert_close(with_parents, without, atol=1e-5, rtol=1e-4)


def test_only_two_rows_of_the_vocabulary_are_computed(build: Build, qwen: Path, lists: list[Any]) -> None:
    model, collator, _ = build(qwen, scoring="generative")
    called: list[Any] = []
    model.lm_head.register_forward_hook(lambda *_: called.append(1))
    pair_scores(model, collator(encoded(collator, lists)))
    assert called == []


@pytest.mark.parametrize(("fixture", "scoring"), [("bert", "head"), ("qwen", "head"), ("qwen", "generative")])
def test_what_is_saved_scores_the_same_when_loaded(
    build: Build,
    make_args: Any,
    lists: list[Any],
    tmp_path: Path,
    request: Any,
    fixture: str,
    scoring: str,
) -> None:
    model, collator, _ = build(request.getfixturevalue(fixture), scoring=scoring)
    features = encoded(collator, lists)
    expected = score_lists(model, collator, features)
    model.save_pretrained(tmp_path / "saved")
    collator.save_pretrained(tmp_path / "saved")
    args = make_args(tmp_path / "saved")
    again = hooks.make_collator(args)
    assert again.settings == collator.settings
    found = score_lists(hooks.make_model(args, again), again, features)
    for a, b in zip(found, expected, strict=True):
        assert abs(a - b).max() < 1e-5


@pytest.mark.parametrize(("fixture", "scoring"), [("bert", "head"), ("qwen", "head"), ("qwen", "generative")])
def test_an_adapter_scores_the_same_when_loaded(
    make_args: Any, lists: list[Any], tmp_path: Path, request: Any, fixture: str, scoring: str
) -> None:
    args = make_args(request.getfixturevalue(fixture), scoring=scoring, use_lora=True)
    collator = hooks.make_collator(args)
    model: Any = hooks.make_model(args, collator)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.2)
    features = encoded(collator, lists)
    expected = score_lists(model, collator, features)
    model.save_pretrained(tmp_path / "adapter")
    collator.save_pretrained(tmp_path / "adapter")
    for use_lora in (True, False):
        again_args = make_args(tmp_path / "adapter", use_lora=use_lora)
        again = hooks.make_collator(again_args)
        found = score_lists(hooks.make_model(again_args, again), again, features)
        for a, b in zip(found, expected, strict=True):
            assert abs(a - b).max() < 1e-5
    assert max(values.std() for values in expected) > 1e-3


def test_a_trained_cross_encoder_keeps_its_head_and_others_get_a_new_one(
    make_args: Any, bert: Path, tmp_path: Path
) -> None:
    heads = {}
    for labels in (1, 3):
        folder = tmp_path / str(labels)
        AutoTokenizer.from_pretrained(bert).save_pretrained(folder)
        plain = AutoModelForSequenceClassification.from_pretrained(bert, num_labels=labels)
        plain.save_pretrained(folder)
        args = make_args(folder)
        model: Any = hooks.make_model(args, hooks.make_collator(args))
        assert model.classifier.weight.shape[0] == 1
        heads[labels] = (model.classifier.weight, plain.classifier.weight)
    assert torch.equal(*heads[1])
    assert not torch.equal(heads[3][0][0], heads[3][1][0])


def test_long_lists_are_scored_in_parts(
    build: Build, qwen: Path, monkeypatch: pytest.MonkeyPatch, lists: list[Any]
) -> None:
    model, collator, _ = build(qwen, scoring="generative")
    features = encoded(collator, lists)
    expected = score_lists(model, collator, features)
    monkeypatch.setattr("swift_reranker.scoring._CPU_TOKENS", 60)
    found = score_lists(model, collator, features)
    for a, b in zip(found, expected, strict=True):
        assert abs(a - b).max() < 1e-5


@pytest.mark.parametrize(
    ("fixture", "options", "message"),
    [
        (
            "bert",
            {"scoring": "generative"},
            "true_token: expected one token|causal language model",
        ),
        ("bert", {"template": "{query} {document}"}, "template: an encoder reads pairs"),
        ("bert", {"true_token": "yes"}, "true_token: has no effect with scoring=head"),
        ("bert", {"instruction": "x"}, "instruction: the template has no place"),
        (
            "qwen",
            {"scoring": "generative", "true_token": "maybe so"},
            "true_token: expected one token",
        ),
        ("qwen", {"scoring": "generative", "true_token": ""}, "true_token: expected one token .* found ''"),
        ("qwen", {"scoring": "generative", "false_token": "yes"}, "false_token: expected another token"),
        ("bert", {"max_length": 65}, "max_length: the model takes at most 64 tokens, found 65"),
    ],
)
def test_what_can_not_be_is_refused_before_training(
    make_args: Any, request: Any, fixture: str, options: dict[str, Any], message: str
) -> None:
    args = make_args(request.getfixturevalue(fixture), **options)
    with pytest.raises(UserError, match=message):
        hooks.make_model(args, hooks.make_collator(args))


def test_an_empty_instruction_is_not_replaced(make_args: Any, qwen: Path, tmp_path: Path) -> None:
    collator = hooks.make_collator(make_args(qwen, scoring="generative", instruction=""))
    assert collator.pairs.instruction == collator.settings.instruction == ""
    ids = collator.pairs.of_list("q", ["d"]).rows[0]
    assert "<Instruct>: \n" in collator.tokenizer.decode(ids)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
def test_lora_on_the_vocabulary_head_is_refused(make_args: Any, qwen: Path) -> None:
    args = make_args(qwen, scoring="generative", use_lora=True, lora_target_modules=["q_proj", "lm_head"])
    with pytest.raises(UserError, match="lora_target_modules must leave it out"):
        hooks.make_model(args, hooks.make_collator(args))
