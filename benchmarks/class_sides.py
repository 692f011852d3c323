"""The two sides of the benchmark of classifiers: transformers' Trainer and SwiftTrainer.

Loop, optimizer, clipping and schedule are the same code with the same options; what differs is tokenising,
batching and the forward pass. The peer pads each batch to its longest text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    TrainerCallback,
)

from benchmarks.measure import RecordsLoss, now
from benchmarks.sides import Trained, loop_options, train_swift
from benchmarks.workload import Workload


def write_classifier(model: Path, labels: Sequence[str], target: Path, *, dropout: bool) -> Path:
    """Save ``model`` with a random head for ``labels``, so that both sides start from the same one."""
    transformers.set_seed(0)
    config = transformers.AutoConfig.from_pretrained(model, local_files_only=True)
    config.id2label, config.label2id = dict(enumerate(labels)), {name: n for n, name in enumerate(labels)}
    if not dropout:
        for name, value in vars(config).items():
            if "dropout" in name and isinstance(value, float):
                setattr(config, name, 0.0)
    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    config.pad_token_id = tokenizer.pad_token_id
    classifier = AutoModelForSequenceClassification.from_pretrained(
        model, config=config, local_files_only=True, dtype=torch.float32
    )
    classifier.save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target


class _PeerTrainer(RecordsLoss, transformers.Trainer):
    pass


class Peer:
    """transformers: its trainer, its collator (which pads)."""

    name = "transformers"

    def train(self, work: Workload, folder: Path, callbacks: Sequence[TrainerCallback]) -> Trained:
        """See :class:`benchmarks.sides.Side`."""
        tokenizer = AutoTokenizer.from_pretrained(work.model, local_files_only=True)
        model = AutoModelForSequenceClassification.from_pretrained(
            work.model, local_files_only=True, dtype=torch.float32
        )
        data = datasets.Dataset.from_list(list(work.rows))

        def encode(batch: dict[str, list[str]]) -> dict[str, Any]:
            encoded = tokenizer(batch["text"], truncation=True, max_length=work.max_length)
            return {**encoded, "label": [model.config.label2id[name] for name in batch["label"]]}

        began = now()
        encoded = data.map(encode, batched=True, remove_columns=["text", "label"])
        took = now() - began
        trainer = _PeerTrainer(
            model=model,
            args=transformers.TrainingArguments(
                **loop_options(work, folder), train_sampling_strategy="sequential"
            ),
            train_dataset=encoded,
            data_collator=DataCollatorWithPadding(tokenizer),
            callbacks=list(callbacks),
        )
        trainer.train()
        return Trained([float(loss) for loss in trainer.losses], took)


class Swift:
    """Swift: SwiftTrainer with the hooks of swift-cls."""

    name = "swift"

    def train(self, work: Workload, folder: Path, callbacks: Sequence[TrainerCallback]) -> Trained:
        """See :class:`benchmarks.sides.Side`."""
        return train_swift(work, folder, callbacks, "sequence-classification", {})
