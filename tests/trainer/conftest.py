"""A tiny real encoder and a few rows, so that a whole run takes a second."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from swift_core import SwiftTrainer, TrainingArguments

WORDS = ["sea", "fish", "ship", "forest", "bird", "deer", "fox", "tree", "rain", "snow", "wind"]


def make_rows(count: int, negatives: int = 0) -> list[dict[str, Any]]:
    """Different queries and positives, and as many negatives each as asked for."""
    rows = []
    for n in range(count):
        word = WORDS[n % len(WORDS)]
        row: dict[str, Any] = {"query": f"{word} {n}", "positive": f"{word} number {n} " + "rain " * (n % 5)}
        if negatives:
            row["negatives"] = [f"no {word} {n} {k} " + "old " * k for k in range(negatives)]
        rows.append(row)
    return rows


@pytest.fixture
def options(tiny_encoder: Path, tmp_path: Path) -> dict[str, Any]:
    """Options of a small run in the test's folder."""
    return {
        "task_type": "embedding",
        "model_name_or_path": str(tiny_encoder),
        "output_dir": str(tmp_path / "out"),
        "cache_dir": str(tmp_path / "cache"),
        "per_device_train_batch_size": 4,
        "max_steps": 4,
        "logging_steps": 1,
        "learning_rate": 1e-2,
    }


@pytest.fixture
def make_trainer(options: dict[str, Any]) -> Callable[..., SwiftTrainer]:
    """Build a trainer from the small run's options, some changed."""

    def build(
        rows: Any = None, *, eval_rows: Any = None, extensions: Any = (), callbacks: Any = (), **changes: Any
    ):
        args = TrainingArguments(**{**options, **changes})
        return SwiftTrainer(
            args,
            train_dataset=make_rows(16) if rows is None else rows,
            eval_dataset=eval_rows,
            extensions=extensions,
            callbacks=callbacks,
        )

    return build


@pytest.fixture
def rows() -> Callable[..., list[dict[str, Any]]]:
    """Make rows: ``rows(count, negatives=0)``."""
    return make_rows


@pytest.fixture
def curve() -> Callable[[Path], list[tuple[int, float]]]:
    """Steps and losses of a run, as its ``metrics.jsonl`` has them."""

    def read(folder: Path) -> list[tuple[int, float]]:
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        return [(row["step"], row["loss"]) for row in map(json.loads, lines) if "loss" in row]

    return read


@pytest.fixture
def still_encoder(tiny_encoder: Path, tmp_path: Path) -> str:
    """The tiny encoder without dropout."""
    folder = tmp_path / "still"
    shutil.copytree(tiny_encoder, folder)
    config = json.loads((folder / "config.json").read_text())
    config.update(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)
