"""Checks that the gradient of a step is that of its rows, however they are cut into pieces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from transformers import TrainerCallback

from swift_core.hookspecs import hookimpl
from swift_core.sampling import is_planned
from swift_core.testing.comparing import different_tensors, first_difference, shown
from swift_core.testing.outcomes import ConformanceError, NotApplicable
from swift_core.testing.subject import Subject, encoded, with_rows

if TYPE_CHECKING:
    from swift_core.preparation import Preparation
    from swift_core.trainer import SwiftTrainer

ROWS = 4
TOLERANCE = 1e-3


class WithoutDropout:
    """An extension: dropout, which draws anew for each piece of a batch, is zero."""

    @hookimpl(wrapper=True)
    def make_model(self) -> Iterator[None]:
        """Switch it off in the model that the task has built."""
        model: nn.Module = yield  # type: ignore[assignment]
        for module in model.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.p = 0.0
            for name, value in vars(module).items():
                if "dropout" in name and isinstance(value, float):
                    setattr(module, name, 0.0)
        return model  # type: ignore[return-value]


class Gradient(TrainerCallback):
    """Keeps the gradient of the first step."""

    def __init__(self) -> None:
        self.network: nn.Module | None = None
        self.kept: dict[str, Tensor] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Copy it before the optimizer uses it."""
        for name, weight in self.network.named_parameters() if self.network else ():
            if weight.grad is not None:
                self.kept[name] = weight.grad.detach().clone()


def spread_rows(prepared: Preparation, count: int) -> list[int]:
    """Up to ``count`` encoded training rows of one group, of lengths as different as there are.

    Raises:
        ConformanceError: there are not so many.
    """
    features = encoded(prepared.train)
    groups = features["group"] if "group" in features.column_names else [None] * len(features)
    usable = [n for n in range(len(features)) if groups[n] == groups[0]]
    if len(usable) < count:
        raise ConformanceError(
            expected=f"at least {count} rows that may share a batch",
            found=f"{len(usable)} after encoding",
            remedy="give more example rows",
        )
    usable.sort(key=lambda n: features[n]["length"])
    return sorted(usable[n * (len(usable) - 1) // (count - 1)] for n in range(count))


def gradient_trainer(subject: Subject, batch: int, **changes: Any) -> tuple[SwiftTrainer, Gradient]:
    """A trainer whose only step is on the same four rows, ``batch`` at a time on each process.

    Raises:
        NotApplicable: rules of the task decide which rows share a batch.
    """
    args = subject.arguments(
        per_device_train_batch_size=batch, max_steps=1, max_grad_norm=0.0, weight_decay=0.0, **changes
    )
    prepared = subject.prepared(args, [WithoutDropout()])
    if is_planned(args, encoded(prepared.train)):
        raise NotApplicable("the task's own rules (group, mate, weight) decide which rows share a batch")
    keep = Gradient()
    trainer = subject.trainer(args, [keep], with_rows(prepared, spread_rows(prepared, ROWS)))
    keep.network = trainer.network
    return trainer, keep


def whole_gradient(subject: Subject) -> tuple[dict[str, Tensor], list[float]]:
    """The gradient of four rows in one batch, and the loss."""
    return _step(*gradient_trainer(subject, ROWS))


def _step(trainer: SwiftTrainer, keep: Gradient) -> tuple[dict[str, Tensor], list[float]]:
    trainer.train()
    return keep.kept, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def refuse_batch_loss(subject: Subject) -> None:
    """Nothing is promised of a loss that is a function of a whole batch.

    Raises:
        NotApplicable: that is what the author says.
    """
    if subject.batch_loss:
        raise NotApplicable("batch_loss: the loss is a function of a whole batch")


def accumulation_keeps_the_gradient(subject: Subject) -> None:
    """One batch of four rows gives the gradient of four batches of one row."""
    refuse_batch_loss(subject)
    whole, loss = whole_gradient(subject)
    cut, cut_loss = _step(*gradient_trainer(subject, 1, gradient_accumulation_steps=ROWS))
    compare_gradients(whole, cut, loss, cut_loss, "four batches of one row")


def compare_gradients(
    whole: dict[str, Tensor],
    cut: dict[str, Tensor],
    loss: Sequence[float],
    cut_loss: Sequence[float],
    how: str,
) -> None:
    """Tell where the gradient, or the loss, of the same rows is another one.

    Raises:
        ConformanceError: it is.
    """
    wrong = different_tensors(whole, cut, TOLERANCE)
    parted = first_difference(loss, cut_loss, TOLERANCE)
    if parted is not None:
        wrong.insert(0, f"the loss is {parted[1]:.6g} and {parted[2]:.6g}")
    if wrong:
        raise ConformanceError(
            expected=f"{how} to give the gradient of one batch of {ROWS} rows",
            found=f"differences: {shown(wrong)}",
            remedy="return the mean over the items of a batch, and put their number into the batch as "
            "`num_items` where it is not that of the rows; declare batch_loss where rows see each other",
        )
