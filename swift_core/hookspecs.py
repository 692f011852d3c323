"""The contract: five hooks that a task type implements, and what an observer may watch.

An implementation is decorated with :data:`hookimpl` and names only the arguments it uses. Arguments must
not have defaults (pluggy before 1.7 never passes those), and the five task hooks must not return None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pluggy

if TYPE_CHECKING:
    import torch
    from torch import nn

    from swift_core.arguments import TrainingArguments
    from swift_core.data.dataset import TaskData
    from swift_core.runs.record import Run

hookspec = pluggy.HookspecMarker("swift")
hookimpl = pluggy.HookimplMarker("swift")


@dataclass(frozen=True)
class LossOutput:
    """What ``compute_loss`` returns.

    Attributes:
        loss: scalar; the mean over the items of this batch. The core weighs it by the number of items, so
            that the gradient of an optimizer step is that of the mean over the whole global batch, however
            it was cut into micro-batches and processes. Where a batch has several counts (pairs, and tokens
            of a likelihood term), [n] with one mean for each; the loss is their sum.
        metrics: detached scalars to log beside the loss, averaged by the (first) number of items; of figures
            that only some items have, [2]: their sum and how many they are.
    """

    loss: torch.Tensor
    metrics: Mapping[str, torch.Tensor | float] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """What ``evaluate`` returns.

    Attributes:
        metrics: every metric that the spec declares, and any further figures.
        tables: rows by table name, written as JSON lines into the run's folder
            (``evaluations/step-N/<table>.jsonl``).
        pictures: PNG files by name, written beside the tables and shown in TensorBoard.
        learned: the collator changed (a threshold was fitted, say), so what it saves beside the weights
            of the run is written again.
    """

    metrics: Mapping[str, float]
    tables: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    learned: bool = False


@dataclass(frozen=True)
class LeftOut:
    """What a collator's ``encode`` returns for a row that is not to be used.

    Attributes:
        why: a few words that all rows have which are left out for the same reason, such as ``too long``.
    """

    why: str


class Companion(Protocol):
    """What goes along with the model in training, such as a second one that follows it.

    It is kept in the checkpoints of a run, and restored where the run goes on from one, or ends with the
    weights of the best one.
    """

    def step_taken(self, step: int) -> None:
        """Optimizer step ``step`` (from 1) is done. Called on all processes, before evaluation and saving."""

    def save(self, folder: Path) -> None:
        """Write into ``folder``, a checkpoint that holds the model; called where checkpoints are written."""

    def restore(self, folder: Path) -> None:
        """Be as it was when it wrote into ``folder``; called on all processes, before the first step
        or after the last one.

        Raises:
            swift_core.errors.UserError: the folder does not hold it.
        """


class Collator(Protocol):
    """What ``make_collator`` returns. It is pickled to DataLoader workers.

    More methods are called where a collator has them: ``save_pretrained(folder)`` writes beside saved
    weights what a reload needs (the tokenizer, at least); ``fitted(train, evaluation, args)`` looks at
    the checked rows of a run that trains, before any is encoded, and returns the collator to go on with
    (one that knows the labels, say); ``check(data, args)`` looks, before a model is built, at encoded
    training data as a whole and at files that options of the task name, and ``check_evaluation(data)``
    at evaluation data (``encoding_parts()`` names in a text what else the encoding of a row depends on, for
    the cache of tokens); all raise a ``UserError`` when they can't be used. ``before_training(model, train,
    evaluation)`` is called on all processes, once the model is settled and before its first step, and then
    ``companion(model)``, which returns a :class:`Companion` or None.
    """

    def encode(self, record: Mapping[str, Any]) -> Mapping[str, Any] | LeftOut:
        """Turn one checked row into features (numbers and lists of numbers), or leave it out.

        Features carry ``length`` (tokens, for statistics and batching) and may carry ``truncated`` (how
        many texts were cut), ``group`` (a number: rows of different groups never share a batch),
        ``mate`` (a string or None: rows with the same one come into a batch at least two at a time) and
        ``weight`` (a number: an epoch draws rows with replacement, each as often as its weight says).

        Raises:
            ValueError: the row can't be used; the message starts with the column's name.
        """

    def __call__(self, features: list[Mapping[str, Any]]) -> Mapping[str, Any]:
        """Turn features into a batch of tensors.

        A batch may carry ``num_items`` (int, or a tuple of them for a loss of several means), the number of
        items that the loss is a mean over; the default is the number of rows.
        """


class TaskHooks:
    """The five hooks of a task type; exactly one package owns them in a run."""

    @hookspec(firstresult=True)
    def make_model(  # type: ignore[empty-body]
        self, args: TrainingArguments, collator: Collator
    ) -> nn.Module:
        """Build the model to train: base weights, head, LoRA (``swift_core.models`` helps).

        Called again with ``model_name_or_path`` set to a saved folder to reload what was trained.
        ``collator`` has seen the training data, where there is any.
        """

    @hookspec(firstresult=True)
    def make_collator(self, args: TrainingArguments) -> Collator:  # type: ignore[empty-body]
        """Build the object that encodes rows and batches features."""

    @hookspec(firstresult=True)
    def compute_loss(  # type: ignore[empty-body]
        self, model: nn.Module, batch: Mapping[str, Any], collator: Collator, args: TrainingArguments
    ) -> LossOutput:
        """Run ``model`` (as wrapped for training) on ``batch`` and return its loss.

        ``batch`` is on the model's device already, tensors in mappings and sequences too.
        """

    @hookspec(firstresult=True)
    def evaluate(  # type: ignore[empty-body]
        self, model: nn.Module, collator: Collator, data: TaskData | None, args: TrainingArguments
    ) -> Evaluation:
        """Measure ``model`` (unwrapped, in eval mode, without gradients) on ``data``.

        Batches that ``collator`` makes here are on the CPU: move them to the model's device.

        ``data`` is None when the run has no ``eval_dataset`` but an option of the task names evaluation
        data of its own. With several processes every process calls it and gets the same figures.
        """

    @hookspec(firstresult=True)
    def export(  # type: ignore[empty-body]
        self,
        model: nn.Module,
        collator: Collator,
        format: str,
        folder: Path,
        data: TaskData | None,
        args: TrainingArguments,
        run: Run,
    ) -> Mapping[str, Any]:
        """Write ``model`` as ``format`` into the empty ``folder``, reload it once and compare.

        Returns details for ``manifest.json``, which the core writes. ``data`` is the training data, None
        when it is not at hand. ``run`` is what is exported: its record tells base model, data and figures.

        Raises:
            swift_core.errors.SwiftError: what was written does not give the model's outputs.
        """


class RunHooks:
    """What an observer may watch. Return values are ignored."""

    @hookspec
    def run_started(self, run: Run) -> None:
        """The run's folder exists and its record is written; the model is not trained yet."""

    @hookspec
    def metrics_logged(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        """Figures of the training loop or of an evaluation at optimizer step ``step``."""

    @hookspec
    def run_ended(self, run: Run) -> None:
        """The run finished, failed or was interrupted (``run.state`` says which)."""


TASK_HOOKS = ("make_model", "make_collator", "compute_loss", "evaluate", "export")
RUN_HOOKS = ("run_started", "metrics_logged", "run_ended")
