"""What a person sees of a run: what is trained, on what, where it goes, and how fast."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from swift_core.errors import listed
from swift_core.labels.applying import label_lines
from swift_core.runs.redact import redacted

if TYPE_CHECKING:
    from swift_core.arguments import TrainingArguments
    from swift_core.data.dataset import TaskData
    from swift_core.trainer import SwiftTrainer


class Throughput(TrainerCallback):
    """Useful (not padding) tokens and the seconds spent on training steps since the last log."""

    def __init__(self) -> None:
        self.tokens = 0
        self._seconds = 0.0
        self._started = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock; evaluation and saving stay outside of it."""
        self._started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop the clock."""
        self._seconds += time.perf_counter() - self._started

    def flush(self, processes: int) -> dict[str, float]:
        """Useful tokens per second over all processes, taking each as fast as this one; then start anew."""
        tokens, seconds = self.tokens, self._seconds
        self.tokens, self._seconds = 0, 0.0
        return {"tokens_per_second": round(tokens * processes / seconds, 1)} if seconds else {}


@contextlib.contextmanager
def _going_on_unread() -> Iterator[None]:
    """Let training go on when the reader of its output goes away, as `head` does."""
    try:
        yield
    except BrokenPipeError:
        # What is left in the buffer, and all that is printed later, goes nowhere too.
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


class ConsoleCallback(TrainerCallback):
    """Prints the head of a run, a line per log, and on a terminal a progress bar."""

    def __init__(self, trainer: SwiftTrainer) -> None:
        self._trainer = trainer
        self._bar: Any = None
        self._started = 0.0
        self._first_step = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Say what is trained, on what, with which options and where it goes."""
        self._started, self._first_step = time.perf_counter(), state.global_step
        if not state.is_world_process_zero:
            return
        with _going_on_unread():
            print("\n".join(head_lines(self._trainer)), flush=True)
        if sys.stderr.isatty() and self._trainer.options.shows_progress:
            from tqdm import tqdm

            self._bar = tqdm(total=state.max_steps, initial=state.global_step, unit="step", leave=False)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Print one line of figures."""
        if not state.is_world_process_zero or not logs:
            return
        if "loss" in logs:
            figures = _figures(_of_step(logs, self._trainer.options.spec.step_figures))
            self._say(f"step {state.global_step}/{state.max_steps}  {figures}  ETA {self._eta(state)}")
        elif any(name.startswith("eval_") for name in logs):
            declared = {f"eval_{metric.name}" for metric in self._trainer.options.spec.metrics}
            shown = {name: value for name, value in logs.items() if name in declared}
            self._say(f"evaluation at step {state.global_step}  {_figures(shown)}")
            before = [
                entry for entry in state.log_history if entry["step"] == 0 and entry.keys() >= shown.keys()
            ]
            for line in self._worse(shown, before[0] if before else {}):
                self._say(line)

    def _worse(self, figures: Mapping[str, float], figures_before: Mapping[str, float]) -> Iterator[str]:
        """A line for each primary metric that is worse than before training."""
        for metric in self._trainer.options.spec.metrics:
            name = f"eval_{metric.name}"
            before, now = figures_before.get(name), figures.get(name)
            if not metric.primary or before is None or now is None or before == now:
                continue
            if (now > before) != metric.higher_is_better:
                yield f"          worse than before training: {metric.name} was {before:.4g}"

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _say(self, line: str) -> None:
        with _going_on_unread():
            if self._bar is not None:
                self._bar.write(line)
            else:
                print(line, flush=True)

    def _eta(self, state: Any) -> str:
        done = state.global_step - self._first_step
        seconds = (time.perf_counter() - self._started) / max(done, 1) * (state.max_steps - state.global_step)
        hours, rest = divmod(int(seconds), 3600)
        return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


_SHOWN = {"learning_rate": "lr", "tokens_per_second": "useful tokens/s", "grad_norm": "grad norm"}
_HIDDEN = {"epoch", "num_input_tokens_seen"}
_OF_EVERY_TASK = ("loss", "grad_norm", "learning_rate")


def _of_step(logs: Mapping[str, Any], chosen: Sequence[str]) -> Mapping[str, Any]:
    """The figures of a step that a task wants on the console, in its order; all where it names none."""
    if not chosen:
        return logs
    names = (*_OF_EVERY_TASK, *chosen, "tokens_per_second")
    return {name: logs[name] for name in names if name in logs}


def _figures(logs: Mapping[str, Any]) -> str:
    shown = []
    for name, value in logs.items():
        if name in _HIDDEN or not isinstance(value, (int, float)):
            continue
        text = f"{value:,.0f}" if name == "tokens_per_second" else f"{value:.4g}"
        shown.append(f"{_SHOWN.get(name, name.removeprefix('eval_'))} {text}")
    return "  ".join(shown)


def head_lines(trainer: SwiftTrainer) -> list[str]:
    """The lines that open a run."""
    options, model = trainer.options, trainer.network
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    every = sum(p.numel() for p in model.parameters())
    how = "all trained" if trained == every else f"{trained:,} trained ({trained / every:.1%})"
    base: Any = getattr(model, "get_base_model", lambda: model)()
    args = trainer.args
    changed = [f"{name}={value}" for name, value in _shown_options(options).items()]
    lines = [
        f"task      {options.task_type} (package {options.claim.package} {options.claim.version})",
        *label_lines(options, measured=trainer.eval_data is not None),
        f"model     {options.core.model_name_or_path or 'built by the task'}: {type(base).__name__}, "
        f"{every:,} parameters, {how}",
        *data_lines({"train on": trainer.train_data, "evaluate": trainer.eval_data}),
        f"options   {listed(changed)}",
        f"batches   {_batch_line(trainer)}",
        *_padding_lines(trainer),
        f"output    {args.output_dir}",
    ]
    return lines


def _shown_options(options: TrainingArguments) -> dict[str, Any]:
    """The options that differ from their defaults, without what the head of a run says anyway."""
    said = {"model_name_or_path", "dataset", "eval_dataset", "output_dir", "per_device_train_batch_size"}
    return {name: value for name, value in redacted(options.changed()).items() if name not in said}


def _batch_line(trainer: SwiftTrainer) -> str:
    args, budget = trainer.args, trainer.options.core.max_tokens_per_batch
    sharing = trainer.options.core.sequence_parallel_size
    readers = args.world_size // sharing
    who = f"{readers} processes" if sharing == 1 else f"{readers} groups of {sharing} processes"
    spread = f"{args.gradient_accumulation_steps} accumulated x {who}), {args.device}"
    place = "device" if sharing == 1 else "group"
    if budget is not None:
        return f"up to {budget:,} tokens (a {place} x {spread}"
    rows = args.per_device_train_batch_size * args.gradient_accumulation_steps * readers
    return f"{rows} rows a step ({args.per_device_train_batch_size} a {place} x {spread}"


def _padding_lines(trainer: SwiftTrainer) -> list[str]:
    from swift_core.flat import state_of

    if trainer.cost_of_padding is None:
        return []
    return [f"padding   {state_of(trainer.network).told}; {padding_told(trainer.cost_of_padding)}"]


def padding_told(cost: float) -> str:
    """What padding would cost, in words."""
    return f"padded batches would compute {cost:.2f} tokens for each useful one"


def data_lines(parts: Mapping[str, TaskData | None]) -> list[str]:
    """What there is to say of each of a run's data sets, by the word before it."""
    lines, told = [], None
    for word, data in parts.items():
        if data is None:
            continue
        lines.append(f"{word:<9} {_data_line(data)}")
        # A part that was held out comes of the same rows.
        if data.gathered is not None and data.sources != told:
            lines.append(f"gathered  {data.gathered}")
            told = data.sources
        if data.left_out:
            counts = [f"{len(rows):,} ({why})" for why, rows in data.left_out.items()]
            lines.append(f"left out  {listed(counts)}")
    return lines


def _data_line(data: TaskData) -> str:
    """Rows, tokens, cut rows."""
    if data.stats is None:
        return "nothing"
    stats = data.stats
    cut = f", {stats.truncated_rows:,} rows cut to max_length ({stats.truncated_rows / stats.rows:.1%})"
    read_as = [f" ({source.layout})" if source.layout else "" for source in data.sources]
    sources = listed([source.name + form for source, form in zip(data.sources, read_as, strict=True)])
    return (
        f"{stats.rows:,} rows of {sources}: {stats.tokens:,} tokens, longest row {stats.longest:,}"
        f"{cut if stats.truncated_rows else ', none cut'}"
    )
