"""A side of a contest, and what all sides have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import TrainerCallback

from benchmarks.measure import RecordsLoss, Span, now
from benchmarks.workload import Workload
from swift_core import SwiftTrainer, TrainingArguments
from swift_core.preparation import Preparation, prepare_data
from swift_core.runtime import Runtime


@dataclass(frozen=True)
class Trained:
    """The loss of each step, and the time spent on the data before training."""

    losses: Sequence[float]
    preparation: Span


class Side(Protocol):
    """One of them: trains a fresh copy of the model on the rows of ``work``, in their order."""

    name: str

    def train(self, work: Workload, folder: Path, callbacks: Sequence[TrainerCallback]) -> Trained:
        """Train for ``work.steps`` steps; what must be written goes into the empty ``folder``."""


def loop_options(work: Workload, folder: Path) -> dict[str, Any]:
    """What both sides hand on to the loop of transformers."""
    return {
        "output_dir": str(folder / "output"),
        "max_steps": work.steps,
        "per_device_train_batch_size": work.batch_size,
        "learning_rate": work.learning_rate,
        "lr_scheduler_type": "constant",
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": torch.accelerator.is_available(),
        "seed": 42,
    }


class _SwiftTrainer(RecordsLoss, SwiftTrainer):
    pass


def train_swift(
    work: Workload,
    folder: Path,
    callbacks: Sequence[TrainerCallback],
    task_type: str,
    options: Mapping[str, Any],
) -> Trained:
    """Swift's side of a contest: SwiftTrainer with the hooks of a task; it tokenises before the first step.

    Args:
        work: see :class:`Side`, as are ``folder`` and ``callbacks``.
        task_type: whose hooks.
        options: what the task is told besides the options of the loop.
    """
    args = TrainingArguments(
        task_type,
        **loop_options(work, folder),
        **options,
        model_name_or_path=str(work.model),
        max_length=work.max_length,
        train_sampling_strategy="sequential",
        cache_dir=str(folder / "cache"),
        verify_saves=False,
    )
    runtime = Runtime(args.claim)
    collator = runtime.make_collator(args=args)
    began = now()
    data = prepare_data(list(work.rows), "train", args, collator)
    took = now() - began
    trainer = _SwiftTrainer(
        args, callbacks=list(callbacks), prepared=Preparation(runtime, collator, data, None)
    )
    trainer.train()
    return Trained([float(loss) for loss in trainer.losses], took)


class Schedule(Protocol):
    """What a recipe says of the loop; the learning rate rises, then falls to 0 linearly."""

    @property
    def epochs(self) -> float:
        """Times that the rows are seen."""

    @property
    def batch_size(self) -> int:
        """Rows of a batch."""

    @property
    def learning_rate(self) -> float:
        """The highest."""

    @property
    def warmup(self) -> float:
        """Share of the steps in which the learning rate rises."""


def recipe_options(recipe: Schedule, seed: int, folder: Path) -> dict[str, Any]:
    """What both systems hand on to the loop of transformers to train as ``recipe`` says.

    All else is its default.
    """
    return {
        "output_dir": str(folder / "output"),
        "num_train_epochs": recipe.epochs,
        "per_device_train_batch_size": recipe.batch_size,
        "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": "linear",
        "warmup_steps": recipe.warmup,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": torch.accelerator.is_available(),
        "seed": seed,
    }
