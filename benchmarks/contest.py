"""Two sides train in turns, A B A B, so that a busy moment of the machine hits both."""

from __future__ import annotations

import contextlib
import gc
import io
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from transformers import TrainerCallback

from benchmarks.measure import MemoryWatch, Span, StepClock
from benchmarks.sides import Side, Trained
from benchmarks.workload import Workload

_MEMORY_STEPS = 2
"""The second step is the first one with the optimizer's state in memory."""


@dataclass
class Figures:
    """What was measured of one side; one entry a repeat."""

    name: str
    steps: list[Span] = field(default_factory=list)
    between: list[Span] = field(default_factory=list)
    preparation: list[Span] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    peak_bytes: int = 0


def run_contest(
    sides: Sequence[Side], work: Workload, repeats: int, warmup_steps: int, say: Callable[[str], None]
) -> list[Figures]:
    """Let both sides train ``repeats`` times in turns, then once more each under the memory watch."""
    figures = [Figures(side.name) for side in sides]
    for repeat in range(repeats):
        for side, found in zip(sides, figures, strict=True):
            clock = StepClock(warmup_steps)
            trained = _train(side, work, [clock])
            found.steps.append(clock.steps)
            found.between.append(clock.between)
            found.preparation.append(trained.preparation)
            found.losses = list(trained.losses)
            say(f"repeat {repeat + 1}/{repeats}  {side.name}: {clock.steps.cpu:.2f} CPU s in steps")
    short = replace(work, steps=min(_MEMORY_STEPS, work.steps))
    for side, found in zip(sides, figures, strict=True):
        watch = MemoryWatch()
        _train(side, short, [watch])
        found.peak_bytes = watch.peak_bytes
    return figures


def _train(side: Side, work: Workload, callbacks: Sequence[TrainerCallback]) -> Trained:
    gc.collect()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        return side.train(work, Path(folder), callbacks)


def ratio(mine: Sequence[float], theirs: Sequence[float]) -> float:
    """Median over the repeats of mine / theirs, each pair measured one after the other."""
    return statistics.median(a / b for a, b in zip(mine, theirs, strict=True))


def largest_difference(mine: Sequence[float], theirs: Sequence[float]) -> float:
    """Largest absolute difference of the losses, step by step."""
    return max(abs(a - b) for a, b in zip(mine, theirs, strict=True))
