"""The loss of the same rows, measured before and after training."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import send_to_device
from transformers import TrainerCallback

from swift_core.testing.subject import encoded

if TYPE_CHECKING:
    from swift_core.trainer import SwiftTrainer

_ROWS = 8


class LossProbe(TrainerCallback):
    """Measures up to eight training rows of one group, without dropout, when training begins."""

    def __init__(self, trainer: SwiftTrainer) -> None:
        features = encoded(trainer.train_data)
        rows = [features[n] for n in range(len(features))]
        self._rows = [row for row in rows if row.get("group") == rows[0].get("group")][:_ROWS]
        self._trainer = trainer
        self.before = math.nan

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure the model that training starts from."""
        self.before = self.measured()

    def measured(self) -> float:
        """The loss of the rows by the model as it is now."""
        trainer = self._trainer
        with trainer.measuring() as model:
            batch = send_to_device(trainer.collator(self._rows), next(model.parameters()).device)
            output = trainer.runtime.compute_loss(
                model=model, batch=batch, collator=trainer.collator, args=trainer.options
            )
        return float(torch.as_tensor(output.loss).sum())
