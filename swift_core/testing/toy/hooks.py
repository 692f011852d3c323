"""The five hooks of the task type ``toy-topics``."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from swift_core.arguments import TrainingArguments
from swift_core.data.dataset import TaskData
from swift_core.errors import SwiftError
from swift_core.hookspecs import Evaluation, LossOutput, hookimpl

_SIZE = 8


class Topics(nn.Module):
    """The mean vector of a text's words, and a linear layer from it to topics."""

    def __init__(self, buckets: int, topics: int, dropout: float) -> None:
        super().__init__()
        self.words = nn.Embedding(buckets, _SIZE)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(_SIZE, topics)

    def forward(self, ids: Tensor, starts: Tensor) -> Tensor:
        """Logits [texts, topics] of texts that stand one after the other in ``ids``."""
        vectors = nn.functional.embedding_bag(ids, self.words.weight, starts, mode="mean")
        logits: Tensor = self.head(self.dropout(vectors))
        return logits


class ToyCollator:
    """Texts to numbers of words."""

    def __init__(self, buckets: int, topics: Sequence[str]) -> None:
        self.buckets = buckets
        self.topics = list(topics)

    def encode(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Hash the words."""
        if record["topic"] not in self.topics:
            raise ValueError(f"topic: expected one of {', '.join(self.topics)}, found {record['topic']!r}")
        ids = [zlib.crc32(word.encode()) % self.buckets for word in record["text"].split()]
        return {"ids": ids, "topic": self.topics.index(record["topic"]), "length": len(ids)}

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """All words in one row, and where each text starts."""
        lengths = torch.tensor([0, *(len(row["ids"]) for row in features)])
        return {
            "ids": torch.tensor([number for row in features for number in row["ids"]]),
            "starts": lengths.cumsum(0)[:-1],
            "topic": torch.tensor([row["topic"] for row in features]),
            "num_items": len(features),
        }


@hookimpl
def make_model(args: TrainingArguments) -> nn.Module:
    """A model of random weights."""
    return Topics(args.buckets, len(args.topics), args.hidden_dropout)


@hookimpl
def make_collator(args: TrainingArguments) -> ToyCollator:
    """It needs to know the topics."""
    return ToyCollator(args.buckets, args.topics)


@hookimpl
def compute_loss(model: nn.Module, batch: Mapping[str, Any]) -> LossOutput:
    """Cross-entropy, a mean over texts."""
    logits = model(batch["ids"], batch["starts"])
    return LossOutput(nn.functional.cross_entropy(logits, batch["topic"]))


@hookimpl
def evaluate(model: nn.Module, collator: ToyCollator, data: TaskData) -> Evaluation:
    """Accuracy and log loss over all rows."""
    rows: Any = data.features
    batch = collator([rows[n] for n in range(len(rows))])
    logits = model(batch["ids"], batch["starts"])
    right = (logits.argmax(1) == batch["topic"]).double().mean().item()
    log_loss = nn.functional.cross_entropy(logits, batch["topic"]).item()
    return Evaluation({"accuracy": right, "log_loss": log_loss})


@hookimpl
def export(model: nn.Module, format: str, folder: Path) -> dict[str, Any]:
    """Write the weights, and look whether they read back."""
    weights = {name: weight.tolist() for name, weight in model.state_dict().items()}
    path = folder / "weights.json"
    path.write_text(json.dumps(weights))
    if json.loads(path.read_text()) != weights:
        raise SwiftError(f"{path}: reloaded, it holds other weights")
    return {"tensors": len(weights), "written_as": format}
