"""Checks of short runs: they learn, they repeat themselves, and they leave each other alone."""

from __future__ import annotations

import contextlib
import math
from typing import Any

from transformers import TrainerCallback

from swift_core.testing.comparing import different_tensors, first_difference, shown
from swift_core.testing.outcomes import ConformanceError
from swift_core.testing.subject import SEED, Subject, Trained, run_of, trained

_SAME = 1e-6
_FALL = 0.01


class Killed(Exception):
    """The end of a run that was to go on."""


class KillAt(TrainerCallback):
    """Ends a run after a step, as a kill would, but in this process."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End it.

        Raises:
            Killed: at its step.
        """
        if state.global_step == self.step:
            raise Killed


class StopAfter(TrainerCallback):
    """Ends a run after a step, in good order."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Say that it is enough."""
        control.should_training_stop = state.global_step >= self.step


def loss_is_finite_and_falls(subject: Subject) -> None:
    """The loss is a number at every step, and for the same rows lower after training than before."""
    run = subject.trained
    losses = run.losses
    broken = [step for step, loss in enumerate(losses, start=1) if not math.isfinite(loss)]
    if broken:
        raise ConformanceError(
            expected="a finite loss at every step",
            found=f"{losses[broken[0] - 1]} at step {broken[0]}",
            remedy="look for logarithms and divisions of zero, and for batches without items",
        )
    if not run.before - run.after > _FALL * abs(run.before):
        raise ConformanceError(
            expected=f"a loss that falls by {_FALL:.0%} at least within {subject.steps} steps",
            found=f"{run.before:.4g} before training and {run.after:.4g} after it, for the same rows",
            remedy="look whether gradients reach the weights, or give the checks another learning_rate or "
            "more steps",
        )


def same_seed_gives_the_same_curve(subject: Subject) -> None:
    """A second run with the same options has the same losses."""
    _same_curve(
        _again(subject, StopAfter(subject.save_steps + 1)),
        subject,
        expected="the same losses with the same seed",
        remedy="draw random numbers from torch, numpy or random, without seeds of your own",
    )


def _again(subject: Subject, callback: TrainerCallback) -> Trained:
    trainer = subject.trainer(subject.arguments(), [callback])
    trainer.train()
    return trained(trainer)


def _same_curve(found: Trained, subject: Subject, *, expected: str, remedy: str) -> None:
    parted = first_difference(subject.trained.losses, found.losses, _SAME)
    if parted is not None:
        step, before, after = parted
        raise ConformanceError(
            expected=expected, found=f"{before:.6g} and {after:.6g} at step {step}", remedy=remedy
        )


def runs_leave_each_other_alone(subject: Subject) -> None:
    """A run that is built, and waits while another one of the same process trains, is not changed by it."""
    _ = subject.trained  # before the others
    waiting = subject.trainer(subject.arguments(), [StopAfter(3)])
    other = subject.trainer(subject.arguments(seed=SEED + 1), [StopAfter(2)])
    other.train()
    waiting.train()
    _same_curve(
        trained(waiting),
        subject,
        expected="the losses of a run that had the process for itself",
        remedy="keep models, counters and settings on the objects that the hooks return, not in modules",
    )


def resume_continues_exactly(subject: Subject) -> None:
    """A run that ends after a checkpoint and goes on from it comes to the weights of an unbroken one."""
    whole = subject.trained
    args = subject.run_arguments
    broken = subject.trainer(args, [KillAt(subject.save_steps + 1)])
    with contextlib.suppress(Killed):
        broken.train()
    again = subject.trainer(args)
    again.train(resume_from_checkpoint=str(run_of(broken).folder / f"checkpoint-{subject.save_steps}"))
    resumed = trained(again)
    parted = first_difference(whole.losses, resumed.losses, _SAME)
    wrong = different_tensors(whole.weights, resumed.weights, _SAME)
    if parted is not None or wrong:
        where = f"another loss at step {parted[0]}" if parted else f"other weights: {shown(wrong)}"
        raise ConformanceError(
            expected="a run that goes on from a checkpoint to end as one that was never stopped",
            found=where,
            remedy="keep what changes while training in the model (buffers are saved), or derive it from the "
            "step; a counter on the collator or in a module starts anew",
        )
