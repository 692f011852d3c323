"""A side of a contest, and what all sides have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import TrainerCallback

from benchmarks.measure import Span
from benchmarks.workload import Workload


@dataclass(frozen=True)
class Trained:
    """The loss of each step, and the time spent on the data before training."""

    losses: Sequence[float]
    preparation: Span


class Side(Protocol):
    """One of the two: trains a fresh copy of the model on the rows of ``work``, in their order."""

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
