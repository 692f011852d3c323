"""A head that starts at a linear probe: what scikit-learn says of the untrained model's vectors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from swift_cls.head_start import fit_probe
from swift_core import SwiftTrainer, TrainingArguments, UserError

Make = Callable[..., TrainingArguments]

VECTORS = np.random.default_rng(0).normal(size=(60, 8)) * np.linspace(0, 3, 8) + 5
SUMS = (VECTORS - 5) @ np.linspace(3, -1, 8)
SCALE = np.sqrt(VECTORS.var(0).mean())
CENTRED = (VECTORS - VECTORS.mean(0)) / SCALE
STILL = {"learning_rate": 0.0, "max_steps": 1, "per_device_train_batch_size": 9, "head_start": "probe"}


@pytest.mark.parametrize("labels", [2, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_one_label_is_a_logistic_regression(labels: int, bias: bool) -> None:
    ids = np.digitize(SUMS, [0.0] if labels == 2 else [-1.0, 1.0])
    weight, offset = fit_probe(VECTORS, ids[:, None].tolist(), "single_label", outputs=labels, with_bias=bias)
    seen = CENTRED if bias else VECTORS / SCALE
    reference = LogisticRegression(C=0.03, fit_intercept=bias, max_iter=200).fit(seen, ids)
    logits = VECTORS @ weight.T + bias * offset
    found = torch.log_softmax(torch.from_numpy(logits), 1).numpy()
    np.testing.assert_allclose(found, reference.predict_log_proba(seen), atol=1e-4)


def test_a_label_without_rows_is_improbable_and_spoils_nothing() -> None:
    ids = np.digitize(SUMS, [-1.0, 1.0])
    known = fit_probe(VECTORS, ids[:, None].tolist(), "single_label", outputs=3, with_bias=True)
    more = fit_probe(VECTORS, (ids + (ids > 0))[:, None].tolist(), "single_label", outputs=4, with_bias=True)
    logits = VECTORS @ more[0].T + more[1]
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert shares[:, 1].mean() < 0.05
    others = logits[:, [0, 2, 3]] - logits[:, [0]]
    expected = VECTORS @ known[0].T + known[1]
    np.testing.assert_allclose(others, expected - expected[:, [0]], atol=1e-3)


def test_several_labels_are_a_regression_each_and_scores_a_ridge() -> None:
    marks = np.stack([SUMS > 0, VECTORS[:, 7] > 5, np.ones(60, dtype=bool)], axis=1)
    rows = [np.flatnonzero(row).tolist() for row in marks]
    weight, offset = fit_probe(VECTORS, rows, "multi_label", outputs=3, with_bias=True)
    reference = OneVsRestClassifier(LogisticRegression(C=0.03, max_iter=200)).fit(CENTRED, marks[:, :2])
    found = 1 / (1 + np.exp(-(VECTORS @ weight.T + offset)))
    np.testing.assert_allclose(found[:, :2], reference.predict_proba(CENTRED), atol=1e-4)
    assert (found[:, 2] > 0.9).all(), "a label that all rows have"

    weight, offset = fit_probe(VECTORS, SUMS[:, None].tolist(), "regression", outputs=1, with_bias=True)
    scores = Ridge(alpha=1 / 0.03).fit(CENTRED, SUMS).predict(CENTRED)
    np.testing.assert_allclose((VECTORS @ weight.T + offset)[:, 0], scores, atol=1e-4)


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize(
    ("model", "options"), [("minilm", {}), ("minilm", {"pooling_method": "mean"}), ("qwen", {})]
)
def test_a_model_that_has_not_learned_yet_knows_its_training_rows(
    model: str, options: dict[str, Any], lora: bool, make_args: Make, rows: Any, request: Any, capsys: Any
) -> None:
    folder = request.getfixturevalue(model)
    trainer = SwiftTrainer(make_args(folder, **STILL, **options, use_lora=lora), rows, rows)
    trainer.train()
    assert "starts at a linear probe of 9 rows" in capsys.readouterr().out
    assert trainer.evaluate()["eval_accuracy"] == 1.0
    assert trainer.run is not None
    before = SwiftTrainer(make_args(folder, **{**STILL, "head_start": "random"}, **options), rows, rows)
    before.train()
    assert before.evaluate()["eval_accuracy"] < 1.0
    if not lora and not options:
        texts = AutoTokenizer.from_pretrained(trainer.run.model)(
            [row["text"] for row in rows], padding=True, return_tensors="pt"
        )
        plain = AutoModelForSequenceClassification.from_pretrained(trainer.run.model).eval()
        names = [plain.config.id2label[int(label)] for label in plain(**texts).logits.argmax(1)]
        assert names == [row["label"] for row in rows]


def test_a_head_for_the_same_labels_stays(bert: Path, make_args: Make, rows: Any, capsys: Any) -> None:
    first = SwiftTrainer(make_args(bert, **{**STILL, "head_start": "random"}), rows)
    first.train()
    assert first.run is not None
    second = SwiftTrainer(make_args(first.run.model, **STILL), rows)
    second.train()
    assert second.run is not None
    old, new = (load_file(run.model / "model.safetensors") for run in (first.run, second.run))
    assert torch.equal(old["classifier.weight"], new["classifier.weight"])
    told = capsys.readouterr().out
    assert "linear probe" not in told
    assert "head      that of the model; head_start=probe is for new ones" in told


def test_a_second_training_goes_on_from_the_first(
    bert: Path, make_args: Make, rows: Any, capsys: Any
) -> None:
    trainer = SwiftTrainer(make_args(bert, **STILL), rows)
    for _ in range(2):
        trainer.train()
    assert capsys.readouterr().out.count("linear probe") == 1


def test_a_head_that_reads_something_else_is_refused(
    tmp_path: Path, bert: Path, make_args: Make, rows: Any
) -> None:
    from transformers import AlbertConfig, AlbertForSequenceClassification

    sizes = {"vocab_size": 200, "hidden_size": 32, "intermediate_size": 48, "embedding_size": 16}
    config = AlbertConfig(**sizes, num_hidden_layers=1, num_attention_heads=4, max_position_embeddings=80)
    AlbertForSequenceClassification(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(bert).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="head_start: a probe can't tell what the head of Albert"):
        SwiftTrainer(make_args(tmp_path, **STILL), rows)
