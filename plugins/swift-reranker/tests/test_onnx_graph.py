"""The graph gives the scores of the model in memory, in batches with padding and alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

from swift_core.errors import SwiftError
from swift_core.resuming import new_run
from swift_reranker.collator import feature_of
from swift_reranker.exports import WRITERS
from swift_reranker.probing import Probes
from swift_reranker.reranker import Reranker
from swift_reranker.scoring import score_lists

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from swift_reranker import onnx_graph  # noqa: E402

Build = Callable[..., Any]

QUERY = "what is a cat"
DOCUMENTS = ["a cat is a small animal", "rain", "the bank raised rates", "x"]


def graph_scores(folder: Path, template: Any, size: int) -> np.ndarray:
    """Raw scores of the documents, a few at a time."""
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    parts = []
    for start in range(0, len(DOCUMENTS), size):
        some = DOCUMENTS[start : start + size]
        texts = (
            ([QUERY] * len(some), some)
            if template is None
            else ([template.render(QUERY, text, "look it up") for text in some],)
        )
        batch = tokenizer(*texts, padding=True, add_special_tokens=template is None, return_tensors="np")
        parts.append(session.run(["scores"], {one.name: batch[one.name] for one in session.get_inputs()})[0])
    return np.concatenate(parts)


def one_layer(folder: Path, source: Path, kind: Any, **changes: Any) -> Path:
    """A random model like that in ``source``: graphs of more layers take long to write."""
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    torch.manual_seed(3)
    config = AutoConfig.from_pretrained(source, num_hidden_layers=1, **changes)
    kind.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def models(bert: Path, qwen: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An encoder, and a causal model with a vocabulary head of its own."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "encoder": one_layer(folder / "encoder", bert, AutoModel),
        "causal": one_layer(
            folder / "causal",
            qwen,
            AutoModelForCausalLM,
            layer_types=["full_attention"],
            tie_word_embeddings=False,
        ),
    }


LORA = {"use_lora": True, "lora_rank": 2}


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("encoder", LORA),
        # A last token that also pads is no matter where the mask tells it.
        ("causal", {"scoring": "head", "template": "{query}|{document}<|end|>"}),
        ("causal", {"scoring": "generative", "instruction": "look it up", **LORA}),
    ],
    ids=["encoder", "head", "generative"],
)
def test_a_graph_gives_the_scores_of_the_model_or_is_refused(
    kind: str, options: Any, build: Build, models: dict[str, Path], run_card: Any, tmp_path: Path
) -> None:
    model, collator, args = build(models[kind], **options)
    folder = tmp_path / "onnx"
    folder.mkdir()
    details = WRITERS["onnx"](folder, model, collator, args, new_run(args))
    assert details["reload_difference"] < 1e-3
    feature = feature_of(collator.pairs.of_list(QUERY, DOCUMENTS))
    expected = score_lists(model, collator, [feature])[0]
    assert np.ptp(expected) > 0.1
    for size in (1, 3, 4):
        found = graph_scores(folder, collator.pairs.template, size)
        np.testing.assert_allclose(found, expected, atol=1e-4)
    names = {path.name for path in folder.iterdir()}
    assert names >= {"README.md", "config.json", "reranker.json", "tokenizer.json"}
    if "generative" in options.values():
        # Of 400 rows of the vocabulary head two are left.
        shapes = [list(one.dims) for one in onnx.load(folder / "model.onnx").graph.initializer]
        assert shapes.count([400, 32]) == 1
    (block,) = run_card(folder)
    ours = Reranker(model=model, collator=collator).score(block["query"], block["documents"])
    np.testing.assert_allclose(block["scores"], ours.scores, atol=1e-4)
    assert ModelCard.load(folder / "README.md").data.library_name == "onnx"
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(1.5)
    with pytest.raises(SwiftError, match="the ONNX graph gives other scores than the model in memory"):
        onnx_graph.check_onnx(folder, Probes(model, collator))
