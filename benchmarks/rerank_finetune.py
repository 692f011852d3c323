"""One fine-tuning of a reranker by one of two systems, and one evaluation for both.

Both systems get the same lists and options and start from the same encoder; heads start at random on both
sides, with the seed of the run. Swift batches lists; the peer, for a loss of single pairs, batches as many
pairs as full lists hold. What was trained is written to a folder, which Swift loads and its metrics measure,
whoever wrote it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import transformers
from sentence_transformers.cross_encoder import (
    CrossEncoder,
    CrossEncoderTrainer,
    CrossEncoderTrainingArguments,
)
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss, LambdaLoss

from benchmarks.measure import Span, now
from benchmarks.rerank_lists import best_labelled, pairs_of
from benchmarks.sides import recipe_options
from benchmarks.workload import Row
from swift_core import SwiftTrainer, TrainingArguments
from swift_core.data.beir import load_retrieval
from swift_reranker.collator import feature_of
from swift_reranker.first_stage import bm25_candidates
from swift_reranker.metrics import evaluate_lists
from swift_reranker.reranker import Reranker, load_reranker
from swift_reranker.scoring import score_lists

_K = 10


@dataclass(frozen=True, kw_only=True)
class RerankRecipe:
    """What both systems are told; the learning rate rises, then falls to 0 linearly.

    Attributes:
        lists: of a batch.
        list_size: documents of a list at most: the best-labelled, then the first.
        warmup: share of the steps in which the learning rate rises.
        max_length: longest pair in tokens, in training and evaluation.
        loss: binary_cross_entropy or lambda_loss.
    """

    epochs: float
    lists: int
    list_size: int
    learning_rate: float
    warmup: float
    max_length: int
    loss: str

    @property
    def batch_size(self) -> int:
        """Rows of a batch, which are lists."""
        return self.lists


@dataclass(frozen=True)
class Trained:
    """Where the model is, the time from the lists to it, and the number of steps."""

    model: Path
    time: Span
    steps: int


def train_swift(model: Path, rows: Sequence[Row], recipe: RerankRecipe, seed: int, folder: Path) -> Trained:
    """Train with SwiftTrainer.

    The time is that of loading the weights, tokenising, training and writing the model.
    """
    args = TrainingArguments(
        "reranker",
        **recipe_options(recipe, seed, folder),
        model_name_or_path=str(model),
        max_length=recipe.max_length,
        loss=recipe.loss,
        cache_dir=str(folder / "cache"),
        # The peer does not reload what it has written.
        verify_saves=False,
    )
    began = now()
    trainer = SwiftTrainer(args, train_dataset=[best_labelled(row, recipe.list_size) for row in rows])
    trainer.train()
    took = now() - began
    assert trainer.run is not None
    return Trained(trainer.run.model, took, trainer.state.global_step)


class _PeerTrainer(CrossEncoderTrainer):
    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """No model card: it draws examples from the data, which is no part of the training."""


def train_peer(model: Path, rows: Sequence[Row], recipe: RerankRecipe, seed: int, folder: Path) -> Trained:
    """Train with CrossEncoderTrainer.

    The time is that of the same things as in :func:`train_swift`.
    """
    began = now()
    lists = [best_labelled(row, recipe.list_size) for row in rows]
    listwise = recipe.loss == "lambda_loss"
    options = recipe_options(recipe, seed, folder)
    if not listwise:
        options["per_device_train_batch_size"] = recipe.lists * recipe.list_size
    encoder = _fresh(model, recipe, seed)
    trainer = _PeerTrainer(
        model=encoder,
        args=CrossEncoderTrainingArguments(**options),
        train_dataset=datasets.Dataset.from_list(lists if listwise else pairs_of(lists)),
        loss=LambdaLoss(encoder) if listwise else BinaryCrossEntropyLoss(encoder),
    )
    trainer.train()
    encoder.save_pretrained(str(folder / "model"), create_model_card=False)
    return Trained(folder / "model", now() - began, trainer.state.global_step)


def write_untrained(model: Path, recipe: RerankRecipe, folder: Path) -> Path:
    """Write the encoder with a random head."""
    _fresh(model, recipe, 0).save_pretrained(str(folder / "model"), create_model_card=False)
    return folder / "model"


def _fresh(model: Path, recipe: RerankRecipe, seed: int) -> CrossEncoder:
    transformers.set_seed(seed)
    encoder: CrossEncoder = CrossEncoder(
        str(model),
        num_labels=1,
        max_length=recipe.max_length,
        local_files_only=True,
        model_kwargs={"dtype": torch.float32},
    )
    return encoder


def evaluate(
    model: Path, recipe: RerankRecipe, test: Sequence[Row], retrieval: Path | None, depth: int
) -> dict[str, float]:
    """Metrics of the model in ``model``, whoever trained it.

    Args:
        test: lists; those without a relevant document do not count.
        retrieval: a BEIR folder of which the ``depth`` best of BM25 are ranked too; names of these metrics
            begin with ``bm25+``.
    """
    reranker = load_reranker(model)
    judged = [row for row in test if max(row["labels"]) > 0]
    scores = _scores(reranker, judged, recipe.max_length)
    figures, _ = evaluate_lists(
        [(found, row["labels"]) for found, row in zip(scores, judged, strict=True)], k=_K
    )
    if retrieval is None:
        return figures
    rows, missing = _candidates(retrieval, depth)
    found = zip(_scores(reranker, rows, recipe.max_length), rows, strict=True)
    more, _ = evaluate_lists([(s, row["labels"]) for s, row in found], k=_K, missing_gains=missing)
    return figures | {f"bm25+{name}": value for name, value in more.items()}


def first_stage(retrieval: Path, depth: int) -> dict[str, float]:
    """Metrics of BM25 alone."""
    rows, missing = _candidates(retrieval, depth)
    figures, _ = evaluate_lists([(row["scores"], row["labels"]) for row in rows], k=_K, missing_gains=missing)
    return figures


def _candidates(folder: Path, depth: int) -> tuple[list[Row], list[list[float]]]:
    """What BM25 finds for each query, and the grades of what it does not find."""
    retrieval = load_retrieval(folder, "test")
    candidates = bm25_candidates(retrieval.corpus, retrieval.queries, depth)
    rows, missing = [], []
    for query, text in retrieval.queries.items():
        grades, names = retrieval.qrels[query], dict(candidates[query])
        rows.append(
            {
                "query": text,
                "documents": [retrieval.corpus[name] for name in names],
                "labels": [grades.get(name, 0) for name in names],
                "scores": list(names.values()),
            }
        )
        missing.append([float(grade) for name, grade in grades.items() if name not in names])
    return rows, missing


def _scores(reranker: Reranker, rows: Sequence[Row], max_length: int) -> list[np.ndarray]:
    pairs = replace(reranker.collator.pairs, max_length=max_length)
    filled = [row for row in rows if row["documents"]]
    features = [feature_of(pairs.of_list(row["query"], row["documents"])) for row in filled]
    found = iter(score_lists(reranker.model, reranker.collator, features))
    return [next(found) if row["documents"] else np.zeros(0, dtype=np.float32) for row in rows]
