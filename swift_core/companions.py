"""What goes along with a model in training: told of steps, kept in checkpoints, restored from them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

if TYPE_CHECKING:
    import transformers
    from torch import nn

    from swift_core.hookspecs import Collator, Companion


class CompanionCallback(TrainerCallback):
    """Stands between the training loop and the companion that the task may have made."""

    def __init__(self) -> None:
        """Begin without one."""
        self._companion: Companion | None = None

    def begin(self, collator: Collator, model: nn.Module, checkpoint: Path | None) -> None:
        """Have the task make its companion of ``model``, as it was in ``checkpoint`` where there is one.

        Raises:
            UserError: there can be none of this model, or the checkpoint does not hold it.
        """
        make = getattr(collator, "companion", None)
        self._companion = None if make is None else make(model)
        if self._companion is not None and checkpoint is not None:
            self._companion.restore(checkpoint)

    def save(self, folder: Path) -> None:
        """Write it into a checkpoint; called before the file that says that the checkpoint is complete."""
        if self._companion is not None:
            self._companion.save(folder)

    def on_step_end(
        self,
        args: transformers.TrainingArguments,
        state: transformers.TrainerState,
        control: transformers.TrainerControl,
        **kwargs: Any,  # transformers' contract
    ) -> None:
        """Tell of an optimizer step; evaluation and saving come after it."""
        if self._companion is not None:
            self._companion.step_taken(state.global_step)

    def on_train_end(
        self,
        args: transformers.TrainingArguments,
        state: transformers.TrainerState,
        control: transformers.TrainerControl,
        **kwargs: Any,  # transformers' contract
    ) -> None:
        """Go back to the step of the best weights, where the loop has just loaded these."""
        best = state.best_model_checkpoint
        if self._companion is not None and args.load_best_model_at_end and best is not None:
            self._companion.restore(Path(best))
