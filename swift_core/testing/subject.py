"""A task type under test, with what several checks look at made once."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift_core.registry import Claim, find_task, load_spec
from swift_core.spec import TaskSpec
from swift_core.testing.outcomes import ConformanceError

if TYPE_CHECKING:
    import datasets
    from torch import Tensor, nn

    from swift_core.arguments import TrainingArguments
    from swift_core.data.dataset import TaskData
    from swift_core.hookspecs import Collator
    from swift_core.preparation import Preparation
    from swift_core.runs.record import Run
    from swift_core.trainer import SwiftTrainer

Row = Mapping[str, Any]
SEED = 7


@dataclass(frozen=True)
class Trained:
    """A run as its checks see it.

    Attributes:
        trainer: still in memory.
        losses: of each step.
        before: loss of some rows before training, without dropout.
        after: the same after it.
        figures: of the evaluation after training, or what it raised.
        weights: copies of what the model held at the end, by name.
    """

    trainer: SwiftTrainer
    losses: list[float]
    weights: dict[str, Tensor]
    before: float = math.nan
    after: float = math.nan
    figures: dict[str, float] | Exception = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return run_of(self.trainer).folder


@dataclass
class Subject:
    """What an author says of a task type for the checks.

    Attributes:
        task_type: its name, or ``package:name``.
        rows: example rows that it can learn from, eight or more if possible.
        folder: an empty folder for the runs.
        options: options of the runs; the learning rate should make the loss fall within ``steps`` steps.
        eval_rows: rows to evaluate on; default: ``rows``. An empty list where an option names them.
        bad_rows: rows that must be refused, each with the column that the message must name.
        batch_loss: the loss is a function of a whole batch (in-batch negatives, say), so that gradients may
            depend on how the rows are cut into batches.
        steps: how long the runs are.
        export_formats: which formats to write; default: all whose packages are installed.
        reload_export: takes a format and its folder, and gives the outputs of what was exported.
        outputs: takes the model and the collator, and gives the outputs that it must equal.
    """

    task_type: str
    rows: Sequence[Row]
    folder: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    eval_rows: Sequence[Row] | None = None
    bad_rows: Sequence[tuple[Row, str]] = ()
    batch_loss: bool = False
    steps: int = 12
    export_formats: Sequence[str] | None = None
    reload_export: Callable[[str, Path], Any] | None = None
    outputs: Callable[[nn.Module, Collator], Any] | None = None

    @cached_property
    def claim(self) -> Claim:
        """Where the task type comes from."""
        return find_task(self.task_type)

    @cached_property
    def spec(self) -> TaskSpec:
        """What it says about itself."""
        return load_spec(self.claim)

    def arguments(self, **changes: Any) -> TrainingArguments:
        """The options of a short run on the example rows, some changed."""
        from swift_core.arguments import TrainingArguments

        usual = {
            "per_device_train_batch_size": 4,
            "lr_scheduler_type": "constant",
            "seed": SEED,
            "dataset": str(self._written("rows", self.rows)),
        }
        evaluation = self.rows if self.eval_rows is None else self.eval_rows
        if evaluation:
            usual["eval_dataset"] = str(self._written("eval", evaluation))
        needed = {
            "output_dir": str(self.folder / "output"),
            "cache_dir": str(self.folder / "tokens"),
            "max_steps": self.steps,
            "logging_steps": 1,
            # The library would log 0 for a loss that is no number.
            "logging_nan_inf_filter": False,
            "save_strategy": "no",
            "eval_on_start": False,
            "disable_tqdm": True,
            "report_to": "none",
            "use_cpu": True,
            # The checks look for themselves, and should tell what they find.
            "verify_saves": False,
        }
        return TrainingArguments(self.task_type, **{**usual, **self.options, **needed, **changes})

    def _written(self, name: str, rows: Sequence[Row]) -> Path:
        path = self.folder / f"{name}.jsonl"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
        return path

    def prepared(self, args: TrainingArguments, extensions: Sequence[object] = ()) -> Preparation:
        """Hooks, collator and encoded rows, made anew."""
        from swift_core.preparation import prepare_task

        return prepare_task(args, extensions=extensions)

    def trainer(
        self, args: TrainingArguments, callbacks: Sequence[Any] = (), prepared: Preparation | None = None
    ) -> SwiftTrainer:
        """A trainer that has not trained yet."""
        from swift_core.trainer import SwiftTrainer

        return SwiftTrainer(args, prepared=prepared or self.prepared(args), callbacks=callbacks)

    @property
    def save_steps(self) -> int:
        """The step of the first checkpoint of :attr:`trained`."""
        return max(1, self.steps // 3)

    @cached_property
    def run_arguments(self) -> TrainingArguments:
        """The options of :attr:`trained`."""
        return self.arguments(save_strategy="steps", save_steps=self.save_steps)

    @cached_property
    def trained(self) -> Trained:
        """The run that others are compared with."""
        from swift_core.testing.probing import LossProbe

        trainer = self.trainer(self.run_arguments)
        probe = LossProbe(trainer)
        trainer.add_callback(probe)
        # Both in one record, as the command line does it: what evaluation learns is saved with the model.
        with trainer.recorded():
            trainer.train()
            figures = self._evaluated(trainer)
        after = probe.measured()
        return dataclasses.replace(trained(trainer), before=probe.before, after=after, figures=figures)

    def _evaluated(self, trainer: SwiftTrainer) -> dict[str, float] | Exception:
        if trainer.eval_data is None and not trainer.options.evaluates:
            return {}
        try:
            return figures_of(trainer.evaluate())
        except Exception as error:  # told by the checks that look at figures, and by no other
            return error

    @cached_property
    def figures(self) -> dict[str, float]:
        """The evaluation of :attr:`trained`; empty where there is nothing to evaluate on.

        Raises:
            Exception: what the evaluation raised.
        """
        if isinstance(self.trained.figures, Exception):
            raise self.trained.figures
        return self.trained.figures


def trained(trainer: SwiftTrainer) -> Trained:
    """What ``trainer`` has come to."""
    losses = [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    weights = {name: weight.detach().clone() for name, weight in trainer.network.state_dict().items()}
    return Trained(trainer, losses, weights)


def figures_of(metrics: Mapping[str, float]) -> dict[str, float]:
    """Figures of an evaluation without what depends on the clock."""
    return {name: value for name, value in metrics.items() if not name.endswith("_runtime")}


def with_rows(prepared: Preparation, chosen: Sequence[int]) -> Preparation:
    """The same preparation with some of the encoded training rows."""
    train = prepared.train
    features = encoded(train).select(list(chosen))
    part = train and dataclasses.replace(
        train, records=train.records.select(list(chosen)), features=features, places=None
    )
    return dataclasses.replace(prepared, train=part)


def encoded(data: TaskData | None) -> datasets.Dataset:
    """The encoded rows of ``data``.

    Raises:
        ConformanceError: there are none.
    """
    if data is None or data.features is None:
        raise ConformanceError(
            expected="example rows to train on", found="none", remedy="give them as `rows`"
        )
    return data.features


def run_of(trainer: SwiftTrainer) -> Run:
    """The run of a trainer that has trained.

    Raises:
        ConformanceError: there is none.
    """
    if trainer.run is None:
        raise ConformanceError(expected="a run with a record", found="none", remedy="train on one process")
    return trainer.run
