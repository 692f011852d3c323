"""What a task type says about itself: plain frozen data, imported without torch or transformers.

A task package points the entry point ``swift.tasks`` at one :class:`TaskSpec`. Everything heavy is named
by a dotted path and imported only when a run needs it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

ColumnType = Literal["text", "string", "list[text]", "integer", "number", "boolean", "any"]
"""``text`` is a string with at least one visible character, ``string`` may be empty."""

TASK_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*(:[A-Za-z_]\w*)?")


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a data row. A required column must be there and not null in every row."""

    name: str
    type: ColumnType
    meaning: str
    required: bool = True


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A figure that ``evaluate`` promises to return; one of them is primary and picks the best checkpoint."""

    name: str
    meaning: str
    higher_is_better: bool = True
    primary: bool = False


@dataclass(frozen=True, kw_only=True)
class ExportFormat:
    """A format that ``export`` can write.

    ``requires`` names distributions that must be installed, checked before training starts;
    ``"faiss-cpu|faiss-gpu"`` means that either will do.
    """

    name: str
    meaning: str
    requires: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ResourceProfile:
    """What a scheduler should look for before it places a run of this task type."""

    accelerator: Literal["unused", "optional", "required"] = "optional"


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """A task type.

    Attributes:
        name: lower-case words joined by ``-``; the same as the entry point's name.
        summary: one line for ``swift tasks``.
        columns: the columns of a training row; others are ignored.
        implementation: dotted path of the module (or ``module:object``) with the five hooks.
        options: dotted path ``module:Class`` of a dataclass with the task's own options; its module must
            not import torch.
        metrics: what ``evaluate`` returns; exactly one is primary.
        exports: what ``export`` can write.
        defaults: defaults of the task for options of the core or of ``transformers.TrainingArguments``.
        serving_route: HTTP path that a server gives this task, if it is served.
        resources: hints for a scheduler.
        parent: name of a task type whose hooks are used where this task implements none.

    Raises:
        ValueError: a field contradicts these rules; the message names it.
    """

    name: str
    summary: str
    columns: tuple[Column, ...]
    implementation: str
    options: str | None = None
    metrics: tuple[Metric, ...] = ()
    exports: tuple[ExportFormat, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    serving_route: str | None = None
    resources: ResourceProfile = field(default_factory=ResourceProfile)
    parent: str | None = None

    def __post_init__(self) -> None:
        if not TASK_NAME.fullmatch(self.name):
            raise ValueError(f"name={self.name!r}: use lower-case words joined by '-', such as 'legal-ner'")
        for path_field in ("implementation", "options"):
            path = getattr(self, path_field)
            if path is not None and not _DOTTED.fullmatch(path):
                raise ValueError(f"{path_field}={path!r}: expected 'package.module' or 'package.module:Name'")
        for group in ("columns", "metrics", "exports"):
            names = [entry.name for entry in getattr(self, group)]
            if len(set(names)) != len(names):
                raise ValueError(f"{group}: a name appears twice in {names}")
        if self.metrics and sum(metric.primary for metric in self.metrics) != 1:
            raise ValueError("metrics: exactly one must have primary=True")

    @property
    def primary_metric(self) -> Metric | None:
        """The metric that picks the best checkpoint, or None for a task without metrics."""
        return next((metric for metric in self.metrics if metric.primary), None)

    def export_format(self, name: str) -> ExportFormat | None:
        """The declared export format of that name, or None."""
        return next((entry for entry in self.exports if entry.name == name), None)


def option(default: Any = dataclasses.MISSING, *, help: str, evaluates: bool = False) -> Any:
    """Define one option of an options dataclass; ``default`` may be a factory for lists and dicts.

    Args:
        default: the value used when the option is not given, or a callable that makes it.
        help: one sentence, shown by ``swift describe`` and in the docs.
        evaluates: this option names evaluation data of its own, so a run that sets it is evaluated even
            without ``eval_dataset``.
    """
    metadata = {"help": help, "evaluates": evaluates}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)
