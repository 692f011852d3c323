"""The two sides of the benchmark of dual encoders: sentence-transformers and Swift, through their trainers.

Both trainers stand on transformers' own, so loop, optimizer (AdamW), clipping and schedule are the same
code with the same options; what differs is tokenising, batching, the forward pass and the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.base.sampler import DefaultBatchSampler
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from torch.utils.data import SequentialSampler
from transformers import TrainerCallback

from benchmarks.measure import RecordsLoss, Span
from benchmarks.sides import Trained, loop_options, train_swift
from benchmarks.workload import Workload


class _PeerTrainer(RecordsLoss, SentenceTransformerTrainer):
    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """No model card: it draws examples, with a bar on the terminal, before anything is timed."""


class Peer:
    """sentence-transformers: its trainer, its collator (which tokenises batch by batch), its loss."""

    name = "sentence-transformers"

    def train(self, work: Workload, folder: Path, callbacks: Sequence[TrainerCallback]) -> Trained:
        """See :class:`Side`."""
        model = SentenceTransformer(
            str(work.model), local_files_only=True, model_kwargs={"dtype": torch.float32}
        )
        model.max_seq_length = work.max_length
        trainer = _PeerTrainer(
            model=model,
            args=SentenceTransformerTrainingArguments(
                **loop_options(work, folder), batch_sampler=in_given_order
            ),
            train_dataset=datasets.Dataset.from_list([_columns(row) for row in work.rows]),
            loss=MultipleNegativesRankingLoss(model, scale=1 / work.temperature),
            callbacks=list(callbacks),
        )
        trainer.train()
        return Trained([float(loss) for loss in trainer.losses], Span(0.0, 0.0))


def in_given_order(dataset: datasets.Dataset, **options: Any) -> DefaultBatchSampler:
    """What the trainers of sentence-transformers take to leave rows in their order."""
    return DefaultBatchSampler(SequentialSampler(dataset), **options)


def _columns(row: dict[str, Any]) -> dict[str, str]:
    negatives = {f"negative_{n}": text for n, text in enumerate(row["negatives"], start=1)}
    return {"query": row["query"], "positive": row["positive"], **negatives}


class Swift:
    """Swift: SwiftTrainer with the hooks of swift-embedding; it tokenises before the first step."""

    name = "swift"

    def __init__(self, gradient_cache_tokens: int | None = None) -> None:
        self._gradient_cache_tokens = gradient_cache_tokens

    def train(self, work: Workload, folder: Path, callbacks: Sequence[TrainerCallback]) -> Trained:
        """See :class:`Side`."""
        options = {
            "temperature": work.temperature,
            # The peer's trainer puts none, whatever the model's configuration says.
            "query_prompt": "",
            "document_prompt": "",
            "gradient_cache_tokens": self._gradient_cache_tokens,
        }
        return train_swift(work, folder, callbacks, "embedding", options)
