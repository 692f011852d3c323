"""One fine-tuning of a dual encoder by one of two systems, and one evaluation for both.

Both systems get the same rows and options and start from the same weights, each through its own trainer and
with its own way to keep false negatives out of a batch: Swift excludes them from the loss,
sentence-transformers samples batches without duplicates, as its documentation recommends for this loss. What
was trained is written to a folder, and one evaluation, Swift's, measures both folders.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.base.sampler import BatchSamplers
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from benchmarks.measure import Span, now
from benchmarks.recipe import Recipe
from benchmarks.sides import recipe_options
from benchmarks.workload import Row
from swift_core import SwiftTrainer, TrainingArguments


@dataclass(frozen=True)
class Trained:
    """Where the model is, the time from the rows to it, and the number of steps."""

    model: Path
    time: Span
    steps: int


def train_swift(model: Path, rows: Sequence[Row], recipe: Recipe, seed: int, folder: Path) -> Trained:
    """Train with SwiftTrainer.

    The time is that of loading the weights, tokenising, training and writing the model.
    """
    args = TrainingArguments(
        "embedding",
        **recipe_options(recipe, seed, folder),
        model_name_or_path=str(model),
        max_length=recipe.max_length,
        temperature=recipe.temperature,
        query_prompt=recipe.query_prompt,
        document_prompt=recipe.document_prompt,
        cache_dir=str(folder / "cache"),
        # The peer does not reload what it has written.
        verify_saves=False,
    )
    began = now()
    trainer = SwiftTrainer(args, train_dataset=list(rows))
    trainer.train()
    took = now() - began
    assert trainer.run is not None
    return Trained(trainer.run.model, took, trainer.state.global_step)


class _PeerTrainer(SentenceTransformerTrainer):
    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """No model card: it draws examples from the data, which is no part of the training."""


def train_peer(model: Path, rows: Sequence[Row], recipe: Recipe, seed: int, folder: Path) -> Trained:
    """Train with SentenceTransformerTrainer.

    The time is that of the same things as in :func:`train_swift`.
    """
    columns = [f"negative_{n}" for n in range(1, recipe.negatives + 1)]
    prompts = {"query": recipe.query_prompt, **dict.fromkeys(["positive", *columns], recipe.document_prompt)}
    began = now()
    encoder = SentenceTransformer(str(model), local_files_only=True, model_kwargs={"dtype": torch.float32})
    encoder.max_seq_length = recipe.max_length
    trainer = _PeerTrainer(
        model=encoder,
        args=SentenceTransformerTrainingArguments(
            **recipe_options(recipe, seed, folder),
            batch_sampler=BatchSamplers.NO_DUPLICATES,
            prompts=prompts if any(prompts.values()) else None,
        ),
        train_dataset=datasets.Dataset.from_list(
            [
                {
                    "query": row["query"],
                    "positive": row["positive"],
                    **dict(zip(columns, row["negatives"], strict=True)),
                }
                for row in rows
            ]
        ),
        loss=MultipleNegativesRankingLoss(encoder, scale=1 / recipe.temperature),
    )
    trainer.train()
    encoder.save_pretrained(str(folder / "model"), create_model_card=False)
    return Trained(folder / "model", now() - began, trainer.state.global_step)


def evaluate(model: Path, recipe: Recipe, beir: Path, split: str, folder: Path) -> dict[str, float]:
    """Metrics of the model in ``model`` on ``split`` of a BEIR folder, whoever trained it."""
    args = TrainingArguments(
        "embedding",
        model_name_or_path=str(model),
        max_length=recipe.eval_max_length,
        query_prompt=recipe.query_prompt,
        document_prompt=recipe.document_prompt,
        eval_retrieval=str(beir),
        eval_retrieval_split=split,
        output_dir=str(folder / "evaluation"),
        report_to="none",
        disable_tqdm=True,
    )
    found = SwiftTrainer(args).evaluate()
    return {name: found[f"eval_{name}"] for name in ("ndcg@10", "mrr@10", "recall@10", "recall@100")}
