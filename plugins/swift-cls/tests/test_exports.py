"""What is exported gives the logits of the model in memory, and is refused where it does not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from swift_cls import exports, probing
from swift_cls.collator import Decision
from swift_cls.deciding import probabilities
from swift_cls.exports import WRITERS
from swift_cls.predicting import predict, unlabelled
from swift_core.errors import SwiftError, UserError
from swift_core.resuming import new_run

Build = Callable[..., Any]

TEXTS = ["the match ended two to one", "ab", "stocks fell again " * 30, "x"]
NAMES = ("a", "b", "c")


def write(format: str, folder: Path, built: Any) -> dict[str, Any]:
    model, collator, args = built
    folder.mkdir()
    return dict(WRITERS[format](folder, model, collator, args, new_run(args)))


def logits(built: Any, texts: list[str] = TEXTS) -> np.ndarray:
    model, collator, _ = built
    return predict(model, collator, [unlabelled(collator.texts.of_text(text)) for text in texts])


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("name", ["bert", "qwen"])
def test_a_pipeline_gives_labels_and_scores_of_the_model(
    name: str, lora: bool, build_classifier: Build, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    built = build_classifier(request.getfixturevalue(name), *NAMES, max_length=20, use_lora=lora, lora_rank=2)
    details = write("hf", tmp_path / "hf", built)
    assert details["reload_difference"] < 1e-5
    assert (details["problem"], details["labels"]) == ("single_label", list(NAMES))
    ours = probabilities(logits(built), "single_label", Decision())
    assert len({*ours.argmax(1)}) > 1
    classify = pipeline("text-classification", model=str(tmp_path / "hf"), top_k=None)
    for batch_size in (1, 4):
        found = classify(TEXTS, truncation=True, batch_size=batch_size)
        for row, entries in zip(ours, found, strict=True):
            scores = {entry["label"]: entry["score"] for entry in entries}
            np.testing.assert_allclose([scores[name] for name in NAMES], row, atol=1e-5)
    if lora:
        with built[0].disable_adapter():
            assert np.abs(logits(built) - np.log(ours)).max() > 1e-2
    assert not list((tmp_path / "hf").glob("adapter*"))


def test_a_folder_holds_what_plain_transformers_needs(
    bert: Path, build_classifier: Build, tmp_path: Path
) -> None:
    built = build_classifier(bert, *NAMES, max_length=20)
    tokenizer = built[1].tokenizer
    write("hf", tmp_path / "hf", built)
    saved = AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert (saved.model_max_length, saved.padding_side) == (20, "right")
    assert tokenizer.model_max_length == 64  # the one in memory is as it was
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "hf")
    assert type(plain).__name__ == "BertForSequenceClassification"
    assert plain.config.id2label == {0: "a", 1: "b", 2: "c"}
    settings = json.loads((tmp_path / "hf" / "classification.json").read_text())
    assert (settings["labels"], settings["max_length"]) == (list(NAMES), 20)
    names = {path.name for path in (tmp_path / "hf").iterdir()}
    assert names >= {"README.md", "config.json", "model.safetensors", "tokenizer.json"}
    assert not any(str(bert) in path.read_text() for path in (tmp_path / "hf").glob("*.json"))


def test_several_labels_and_scores(bert: Path, build_classifier: Build, tmp_path: Path) -> None:
    several = build_classifier(bert, *NAMES, problem="multi_label")
    write("hf", tmp_path / "several", several)
    classify = pipeline("text-classification", model=str(tmp_path / "several"), top_k=None)
    ours = probabilities(logits(several), "multi_label", Decision())
    for row, entries in zip(ours, classify(TEXTS, truncation=True), strict=True):
        scores = {entry["label"]: entry["score"] for entry in entries}
        np.testing.assert_allclose([scores[name] for name in NAMES], row, atol=1e-5)
    score = build_classifier(bert, problem="regression")
    assert write("hf", tmp_path / "score", score)["labels"] == []
    classify = pipeline("text-classification", model=str(tmp_path / "score"))
    found = [entry["score"] for entry in classify(TEXTS, truncation=True)]
    np.testing.assert_allclose(found, logits(score)[:, 0], atol=1e-5)


def test_an_export_that_is_not_the_model_is_refused(
    bert: Path, build_classifier: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = build_classifier(bert, *NAMES, max_length=20)
    check = exports.check_hf

    def tampered(folder: Path, *rest: Any) -> float:
        from safetensors.torch import save_file

        weights = load_file(folder / "model.safetensors")
        weights["classifier.weight"][0, 0] += 0.5
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return check(folder, *rest)

    def longer(folder: Path, *rest: Any) -> float:
        path = folder / "tokenizer_config.json"
        path.write_text(path.read_text().replace('"model_max_length": 20', '"model_max_length": 21'))
        return check(folder, *rest)

    for number, change in enumerate((tampered, longer)):
        monkeypatch.setattr(exports, "check_hf", change)
        with pytest.raises(SwiftError, match="gives other logits than the model in memory: they differ by"):
            write("hf", tmp_path / str(number), built)


def test_texts_are_cut_at_their_end_whatever_the_tokenizer_says(
    bert: Path, build_classifier: Build, tmp_path: Path
) -> None:
    left = tmp_path / "left"
    shutil.copytree(bert, left)
    AutoTokenizer.from_pretrained(bert, truncation_side="left").save_pretrained(left)
    assert AutoTokenizer.from_pretrained(left).truncation_side == "left"
    built = build_classifier(left, *NAMES, max_length=20)
    pair = "a b c d e f g h i j k l m n o p q r", "z"
    (chunk,) = built[1].texts.of_text(*pair).chunks
    assert built[1].tokenizer.decode(chunk) == "[CLS] a b c d e f g h i j k l m n o p [SEP] z [SEP]"
    write("hf", tmp_path / "hf", built)
    long = " ".join("abcdefghijklmnopqrstuvwxyz")
    ours = probabilities(logits(built, [long]), "single_label", Decision())
    (found,) = pipeline("text-classification", model=str(tmp_path / "hf"), top_k=None)(
        [long], truncation=True
    )
    scores = {entry["label"]: entry["score"] for entry in found}
    np.testing.assert_allclose([scores[name] for name in NAMES], ours[0], atol=1e-5)


def test_an_export_that_cuts_the_other_end_is_refused(
    bert: Path, build_classifier: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_at_the_beginning(folder: Path, *rest: Any) -> float:
        AutoTokenizer.from_pretrained(folder, truncation_side="left").save_pretrained(folder)
        return check(folder, *rest)

    check = exports.check_hf
    monkeypatch.setattr(exports, "check_hf", cut_at_the_beginning)
    # Of this length only the long text must show it: the others fit, or are the same from either end.
    built = build_classifier(bert, *NAMES, max_length=62)
    with pytest.raises(SwiftError, match="gives other logits than the model in memory: they differ by"):
        write("hf", tmp_path / "hf", built)


def test_a_difference_that_is_no_number_is_refused(
    bert: Path, build_classifier: Build, tmp_path: Path
) -> None:
    model, collator, _ = build_classifier(bert, *NAMES)
    probes = probing.Probes(model, collator)
    bad = probes.expected.copy()
    bad[1, 1] = np.nan
    for found in ([probes.expected, bad], [bad, probes.expected], [probes.expected[:, :2]]):
        with pytest.raises(SwiftError, match="must not be used"):
            probes.check(tmp_path, "it", found)
    assert probes.check(tmp_path, "it", [probes.expected]) == 0


def test_a_pooling_of_ones_own_is_for_onnx_only(qwen: Path, build_classifier: Build, tmp_path: Path) -> None:
    built = build_classifier(qwen, *NAMES, pooling_method="mean", max_length=20)
    with pytest.raises(UserError, match=r"Qwen3ForSequenceClassification reads lasttoken.*mean.*as onnx"):
        write("hf", tmp_path / "hf", built)
    same = build_classifier(qwen, *NAMES, pooling_method="lasttoken", max_length=20)
    assert write("hf", tmp_path / "same", same)["reload_difference"] < 1e-5


@pytest.mark.parametrize("long_text", ["head_tail", "chunk_mean"])
def test_where_long_texts_are_not_simply_cut_only_short_ones_are_compared(
    long_text: str, bert: Path, build_classifier: Build, tmp_path: Path
) -> None:
    built = build_classifier(bert, *NAMES, max_length=20, long_text=long_text)
    probes = probing.Probes(*built[:2])
    assert 2 <= len(probes.texts) < len(probing.Probes(*build_classifier(bert, *NAMES)[:2]).texts)
    write("hf", tmp_path / "hf", built)


def test_half_precision(qwen: Path, build_classifier: Build, tmp_path: Path) -> None:
    built = build_classifier(qwen, *NAMES, model_dtype="bfloat16", max_length=20)
    size = max(1.0, float(np.abs(logits(built)).max()))
    assert write("hf", tmp_path / "hf", built)["reload_difference"] < 5e-2 * size
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "hf")
    assert plain.model.dtype == torch.bfloat16


def onnx_logits(folder: Path, texts: list[str], size: int) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "model.onnx")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    parts = []
    for start in range(0, len(texts), size):
        batch = tokenizer(
            texts[start : start + size], padding=True, truncation=True, max_length=20, return_tensors="np"
        )
        feed = {one.name: batch[one.name] for one in session.get_inputs()}
        parts.append(session.run(["logits"], feed)[0])
    return np.concatenate(parts)


@pytest.mark.parametrize(("name", "options"), [("bert", {"use_lora": True, "lora_rank": 2}), ("qwen", {})])
def test_a_graph_gives_the_logits_of_the_model(
    name: str, options: Any, build_classifier: Build, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    built = build_classifier(request.getfixturevalue(name), *NAMES, max_length=20, **options)
    expected = logits(built)
    assert write("onnx", tmp_path / "onnx", built)["reload_difference"] < 1e-4
    for size in (1, 3, 4):
        np.testing.assert_allclose(onnx_logits(tmp_path / "onnx", TEXTS, size), expected, atol=1e-5)
    np.testing.assert_array_equal(logits(built), expected)  # the model in memory was not touched


@pytest.fixture
def ending(qwen: Path, ending_tokenizer: Any, tmp_path: Path) -> Path:
    """The decoder with a tokenizer that ends each text with the token that it also pads with."""
    folder = tmp_path / "ending"
    folder.mkdir()
    for path in qwen.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    ending_tokenizer.pad_token = ending_tokenizer.eos_token
    ending_tokenizer.save_pretrained(folder)
    return folder


def test_a_graph_with_a_pooling_of_its_own_leaves_out_an_end_token_that_pads(
    ending: Path, build_classifier: Build, tmp_path: Path
) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    built = build_classifier(ending, *NAMES, max_length=20, pooling_method="mean")
    write("onnx", tmp_path / "onnx", built)
    for size in (1, 4):
        np.testing.assert_allclose(onnx_logits(tmp_path / "onnx", TEXTS, size), logits(built), atol=1e-5)


def test_an_end_token_that_pads_counts_where_transformers_cuts(
    ending: Path, build_classifier: Build, tmp_path: Path
) -> None:
    built = build_classifier(ending, *NAMES, max_length=20)
    assert write("hf", tmp_path / "hf", built)["reload_difference"] < 1e-5


def test_a_graph_that_is_not_the_model_is_refused_and_one_of_8_bits_is_measured(
    bert: Path, build_classifier: Build, tmp_path: Path
) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    from swift_cls import onnx_graph

    built = model, collator, _ = build_classifier(bert, *NAMES, max_length=20, spread=False)
    details = write("onnx-int8", tmp_path / "int8", built)
    assert 0 < details["probability_difference"] < 0.05
    assert details["label_agreement"] >= 0.8
    folder = tmp_path / "int8"
    assert {path.name for path in folder.glob("*.onnx*")} == {"model.onnx"}
    assert not list(tmp_path.glob(".onnx-*"))
    import onnx

    kinds = {tensor.data_type for tensor in onnx.load(folder / "model.onnx").graph.initializer}
    assert onnx.TensorProto.INT8 in kinds
    # The same graph is not exact enough to be the format onnx.
    with pytest.raises(SwiftError, match="the ONNX graph gives other logits"):
        onnx_graph.check_onnx(folder, probing.Probes(model, collator))
    with torch.no_grad():
        model.classifier.weight.neg_()
        model.classifier.bias.neg_()
    with pytest.raises(SwiftError, match="decides as before in"):
        onnx_graph.compare_int8(folder, probing.Probes(model, collator), collator)
    with torch.no_grad():
        model.classifier.weight.neg_()
        model.classifier.bias.neg_()
    several = replace(collator, labels=replace(collator.labels, problem="multi_label"))
    told = onnx_graph.compare_int8(folder, probing.Probes(model, several), several)
    assert told["label_agreement"] >= 0.8


def test_logits_of_8_bits_that_are_not_finite_are_refused(
    bert: Path, build_classifier: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from swift_cls import onnx_graph

    model, collator, _ = build_classifier(bert, *NAMES)
    probes = probing.Probes(model, collator)
    bad = probes.expected.copy()
    bad[0, 0] = np.inf
    monkeypatch.setattr(onnx_graph, "_found", lambda *_: [probes.expected, bad])
    with pytest.raises(SwiftError, match="no finite logits"):
        onnx_graph.compare_int8(tmp_path, probes, collator)
