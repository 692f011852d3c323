"""What is measured while a trainer of transformers trains: time of its steps, memory, losses."""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import TrainerCallback


@dataclass(frozen=True)
class Span:
    """Seconds of the processor (all threads together) and of the clock on the wall."""

    cpu: float
    wall: float

    def __sub__(self, other: Span) -> Span:
        return Span(self.cpu - other.cpu, self.wall - other.wall)

    def __add__(self, other: Span) -> Span:
        return Span(self.cpu + other.cpu, self.wall + other.wall)


def now() -> Span:
    """Both clocks."""
    return Span(time.process_time(), time.perf_counter())


class StepClock(TrainerCallback):
    """Times the training steps (forward, backward, update), and what lies between them (making batches).

    Attributes:
        warmup_steps: steps at the start that do not count: they allocate what later steps use again.
        steps: time of the steps that count.
        between: time between these steps.
    """

    def __init__(self, warmup_steps: int) -> None:
        self.warmup_steps = warmup_steps
        self.steps = Span(0.0, 0.0)
        self.between = Span(0.0, 0.0)
        self._began = self._ended = now()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock of a step."""
        self._began = now()
        if state.global_step >= max(self.warmup_steps, 1):
            self.between += self._began - self._ended

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop it; the library has counted the step already."""
        self._ended = now()
        if state.global_step > self.warmup_steps:
            self.steps += self._ended - self._began


class MemoryWatch(TrainerCallback):
    """Peak of what torch's CPU allocator holds over all steps, above what it held before the first.

    The figure is counted by the allocator and not sampled, so it is exact and the same in every run; memory
    that a library takes without asking torch is not in it. Gradients and the optimizer's state are.

    Attributes:
        peak_bytes: the peak, known when training has ended.
    """

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._profile: Any = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start to watch when model and first batch are there."""
        if self._profile is None:
            self._profile = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
            self._profile.start()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Read the peak out of the trace, which is the documented way to each single allocation."""
        self._profile.stop()
        with tempfile.TemporaryDirectory() as folder:
            trace = Path(folder) / "trace.json"
            self._profile.export_chrome_trace(str(trace))
            events = json.loads(trace.read_text())["traceEvents"]
        self.peak_bytes = peak_of(events)


def peak_of(events: list[dict[str, Any]]) -> int:
    """Highest sum of the allocations and releases (``[memory]``) in a trace of torch's profiler."""
    changes = [(event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]"]
    held = peak = 0
    for _, change in sorted(changes, key=lambda pair: pair[0]):
        held += change
        peak = max(peak, held)
    return peak


class RecordsLoss:
    """Mixed into a trainer of transformers: keeps the loss of every step, unrounded."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.losses: list[torch.Tensor] = []
        super().__init__(*args, **options)

    def compute_loss(self, *args: Any, **options: Any) -> Any:
        """Compute it as the trainer does, and note it."""
        found = super().compute_loss(*args, **options)  # type: ignore[misc]
        self.losses.append((found[0] if isinstance(found, tuple) else found).detach())
        return found
