"""The observer of every run: figures go to ``metrics.jsonl`` and to TensorBoard event files."""

from __future__ import annotations

import json
import struct
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from swift_core.hookspecs import hookimpl

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from swift_core.runs.record import Run

_LINES = "metrics.jsonl"
_EVENTS = "the TensorBoard event files"


class RunRecorder:
    """Writes what a run logs, also after its end, where somebody goes on to evaluate it.

    A full disk costs the log, not the training: one line on stderr tells it.

    Args:
        resume_step: the step of the checkpoint that a resumed run starts from, None for a new run. What
            was logged of later steps is dropped, because the run does these steps again.
    """

    def __init__(self, *, resume_step: int | None = None) -> None:
        self._resume_step = resume_step
        self._writer: SummaryWriter | None = None
        self._lost: set[str] = set()
        self._last_step: dict[str, int] = {}

    @hookimpl
    def run_started(self, run: Run) -> None:
        """Open the event files and say in them which task and run they belong to."""
        step = self._resume_step
        if step is not None:
            self._attempt(_LINES, lambda: run.drop_metrics_after(step))
        self._attempt(_EVENTS, lambda: self._open(run))

    @hookimpl
    def metrics_logged(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        """Write the figures to both places, at once, so that a kill loses nothing that was logged."""
        self._attempt(_LINES, lambda: run.append_metrics(step, metrics))
        with self._opened(run):
            self._attempt(_EVENTS, lambda: self._write_scalars(step, metrics))

    @hookimpl
    def run_ended(self, run: Run) -> None:
        """Close the event files."""
        if self._writer is not None:
            self._attempt(_EVENTS, self._writer.close)
        self._writer = None
        # What comes after it is dropped once, not again by whoever opens the files later.
        self._resume_step = None

    def show(self, run: Run, step: int, pictures: Mapping[str, bytes]) -> None:
        """Put PNG files into TensorBoard's tab of images."""
        if pictures:
            with self._opened(run):
                self._attempt(_EVENTS, lambda: self._write_pictures(step, pictures))

    @contextmanager
    def _opened(self, run: Run) -> Iterator[None]:
        """The event files are open; after the end of the run only for what happens inside."""
        ended = self._writer is None
        if ended:
            self._attempt(_EVENTS, lambda: self._open(run))
        yield
        if ended:
            self.run_ended(run)

    def _attempt(self, sink: str, write: Callable[[], None]) -> None:
        if sink in self._lost:
            return
        try:
            write()
        except OSError as fault:
            self._lost.add(sink)
            reason = fault.strerror or fault
            print(f"warning: {sink}: {reason}. Training goes on without this log.", file=sys.stderr)

    def _open(self, run: Run) -> None:
        # Slow to import, and the processes that log nothing never need it.
        from torch.utils.tensorboard import SummaryWriter

        described = any(run.logs.glob("events.out.tfevents.*"))
        purge_step = None if self._resume_step is None else self._resume_step + 1
        self._writer = SummaryWriter(str(run.logs), purge_step=purge_step)
        if not described:
            _describe(self._writer, run)
        self._writer.flush()

    def _write_scalars(self, step: int, metrics: Mapping[str, float]) -> None:
        if self._writer is None:
            return
        for name, value in metrics.items():
            tag = scalar_tag(name)
            # A curve has one point for each step; Trainer logs the last evaluation once more at the end.
            if self._last_step.get(tag) != step:
                self._last_step[tag] = step
                self._writer.add_scalar(tag, float(value), step)
        self._writer.flush()

    def _write_pictures(self, step: int, pictures: Mapping[str, bytes]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        if self._writer is None:
            return
        for name, png in pictures.items():
            # The head of a PNG file: 8 bytes signature, 8 of the first chunk, then width and height.
            width, height = struct.unpack(">II", png[16:24])
            image = Summary.Image(width=width, height=height, colorspace=4, encoded_image_string=png)
            value = Summary.Value(tag=f"eval/{name}", image=image)
            self._writer._get_file_writer().add_summary(Summary(value=[value]), step)
        self._writer.flush()


def scalar_tag(name: str) -> str:
    """Return the TensorBoard tag of a metric: ``eval_x`` is ``eval/x``, all else ``train/x``.

    The trainer's final ``train_loss`` is a mean over the whole run, so it keeps its name apart from ``loss``.
    """
    if name.startswith("eval_"):
        return "eval/" + name.removeprefix("eval_")
    return f"train/{name}"


def _describe(writer: SummaryWriter, run: Run) -> None:
    writer.add_text("task", f"task={run.record['label']}")
    writer.add_text("run", run.id)
    options = json.dumps(run.record["options"], indent=2, ensure_ascii=False)
    # Indented by four, TensorBoard shows it as code; it stays JSON.
    writer.add_text("options", textwrap.indent(options, "    "))
