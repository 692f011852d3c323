"""What is exported gives the scores of the model in memory, and is refused where it does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from swift_core import TrainingArguments
from swift_core.errors import SwiftError, UserError
from swift_core.resuming import new_run
from swift_reranker import exports, probing
from swift_reranker.collator import feature_of
from swift_reranker.exports import WRITERS
from swift_reranker.reranker import load_reranker, sigmoid
from swift_reranker.scoring import score_lists

Built = tuple[Any, Any, TrainingArguments]
Build = Callable[..., Built]

QUERY = "what is a cat"
DOCUMENTS = ["a cat is a small animal", "rain fell", "the bank raised rates " * 200, "x"]
KINDS = {
    "encoder": ("bert", {"max_length": 40}),
    "head": ("qwen", {"scoring": "head", "max_length": 90}),
    "generative": ("qwen", {"scoring": "generative", "max_length": 500}),
}


@pytest.fixture
def build_kind(build: Build, request: pytest.FixtureRequest) -> Callable[..., Built]:
    """A model of one of the kinds."""

    def made(kind: str, **options: Any) -> Built:
        folder, given = KINDS[kind]
        return build(request.getfixturevalue(folder), **{**given, **options})

    return made


def write(format: str, folder: Path, built: Built) -> dict[str, Any]:
    model, collator, args = built
    folder.mkdir()
    return dict(WRITERS[format](folder, model, collator, args, new_run(args)))


def raw_scores(built: Built) -> np.ndarray:
    model, collator, _ = built
    return score_lists(model, collator, [feature_of(collator.pairs.of_list(QUERY, DOCUMENTS))])[0]


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("kind", KINDS)
def test_cross_encoder_and_our_own_loader_give_the_scores_of_the_model(
    kind: str, lora: bool, build_kind: Build, tmp_path: Path
) -> None:
    built = build_kind(kind, use_lora=lora, lora_rank=2)
    expected = raw_scores(built)
    assert np.ptp(expected) > 0.1
    details = write("hf", tmp_path / "hf", built)
    assert details["reload_difference"] < 1e-4
    assert details["scoring"] == ("generative" if kind == "generative" else "head")
    np.testing.assert_array_equal(raw_scores(built), expected)  # the model in memory was not touched
    found = load_reranker(tmp_path / "hf").score(QUERY, DOCUMENTS)
    np.testing.assert_allclose(found.scores, sigmoid(expected), atol=1e-4)
    assert found.cut == [False, False, True, False]
    sentence_transformers = pytest.importorskip("sentence_transformers")
    pytest.importorskip("sentence_transformers.base")
    assert details["cross_encoder_difference"] < 1e-3
    encoder = sentence_transformers.CrossEncoder(str(tmp_path / "hf"), device="cpu")
    ranked = encoder.rank(QUERY, DOCUMENTS)
    assert [entry["corpus_id"] for entry in ranked] == np.argsort(-expected).tolist()
    if lora:
        with built[0].disable_adapter():
            assert np.abs(raw_scores(built) - expected).max() > 1e-2


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_names_the_familys_own_class_and_holds_what_others_read(
    kind: str, build_kind: Build, tmp_path: Path
) -> None:
    built = build_kind(kind)
    tokenizer = built[1].tokenizer
    before = (tokenizer.model_max_length, tokenizer.chat_template)
    write("hf", tmp_path / "hf", built)
    assert (tokenizer.model_max_length, tokenizer.chat_template) == before
    saved = AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert (saved.model_max_length, saved.padding_side) == (KINDS[kind][1]["max_length"], "right")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    name = {
        "encoder": "BertForSequenceClassification",
        "head": "Qwen3ForSequenceClassification",
        "generative": "Qwen3ForCausalLM",
    }[kind]
    assert config["architectures"] == [name]
    assert not [key for key in config if "attn_implementation" in key]
    auto = AutoModelForCausalLM if kind == "generative" else AutoModelForSequenceClassification
    assert type(auto.from_pretrained(tmp_path / "hf")).__module__.startswith("transformers.")
    settings = json.loads((tmp_path / "hf" / "reranker.json").read_text())
    assert settings["max_length"] == KINDS[kind][1]["max_length"]
    names = {path.name for path in (tmp_path / "hf").iterdir()}
    assert names >= {"README.md", "model.safetensors", "tokenizer.json", "config_sentence_transformers.json"}
    assert ("chat_template.jinja" in names) == (kind != "encoder")
    source = str(built[2].core.model_name_or_path)
    assert not any(source in path.read_text() for path in (tmp_path / "hf").glob("*.json"))


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_that_is_not_the_model_is_refused(
    kind: str, build_kind: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = build_kind(kind)
    check = exports.check_hf

    def tampered(folder: Path, *rest: Any) -> float:
        weights = load_file(folder / "model.safetensors")
        changed = next(name for name in weights if name.endswith(("value.weight", "v_proj.weight")))
        weights[changed] = weights[changed].roll(1, 0)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return check(folder, *rest)

    monkeypatch.setattr(exports, "check_hf", tampered)
    with pytest.raises(SwiftError, match="gives other scores than the model in memory: they differ by"):
        write("hf", tmp_path / "hf", built)


def test_a_difference_that_is_no_number_is_refused(build_kind: Build, tmp_path: Path) -> None:
    model, collator, _ = build_kind("encoder")
    probes = probing.Probes(model, collator)
    fine = probes.expected[:, None]
    bad = fine.copy()
    bad[1] = np.nan
    for found in ([fine, bad], [bad, fine], [fine[:2]]):
        with pytest.raises(SwiftError, match="must not be used"):
            probes.check(tmp_path, "it", found)
    assert probes.check(tmp_path, "it", [fine]) == 0
    # Two logits are compared by their difference.
    assert probes.check(tmp_path, "it", [np.concatenate([fine + 1, np.ones_like(fine)], axis=1)]) < 1e-6


def test_probes_hold_documents_that_are_cut_and_queries_that_fit(build_kind: Build) -> None:
    model, collator, _ = build_kind("encoder", query_max_length=2)
    probes = probing.Probes(model, collator)
    lengths = [len(document) for _, document in probes.pairs]
    assert max(lengths) > 1000 and min(lengths) == 0
    with pytest.raises(UserError, match="leave no room for a document"):
        probing.Probes(*build_kind("generative", max_length=30)[:2])


def test_a_causal_model_that_cross_encoder_pads_wrongly_is_still_one_of_transformers(
    build: Build, qwen: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "gpt2"
    AutoTokenizer.from_pretrained(qwen).save_pretrained(folder)
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "gpt2", vocab_size=400, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    built = build(folder, scoring="generative", max_length=500)
    details = write("hf", tmp_path / "hf", built)
    assert details["cross_encoder_difference"] is None
    assert "counts positions from the left" in details["cross_encoder_unchecked"]
    assert not (tmp_path / "hf" / "modules.json").exists()
    assert "CrossEncoder" not in (tmp_path / "hf" / "README.md").read_text()
    found = load_reranker(tmp_path / "hf").score(QUERY, DOCUMENTS).scores
    np.testing.assert_allclose(found, sigmoid(raw_scores(built)), atol=1e-4)


def test_a_template_that_ends_with_the_padding_token_is_for_onnx_only(
    build_kind: Build, tmp_path: Path
) -> None:
    built = build_kind("head", template="{query}|{document}<|end|>")
    with pytest.raises(UserError, match=r"ends with '<\|end\|>', which is also the padding token"):
        write("hf", tmp_path / "hf", built)


@pytest.mark.parametrize("kind", ["head", "generative"])
def test_half_precision(kind: str, build_kind: Build, tmp_path: Path) -> None:
    built = build_kind(kind, model_dtype="bfloat16")
    details = write("hf", tmp_path / "hf", built)
    assert details["reload_difference"] < 1
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
