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

ColumnType = Literal[
    "text",
    "string",
    "texts",
    "list[text]",
    "integer",
    "number",
    "list[number]",
    "boolean",
    "label",
    "any",
    "source",
]
"""``text`` is a string with at least one visible character, ``string`` may be empty; ``texts`` is one text or
a list of at least one, stored as a list; ``label`` is a string or an integer, stored as a string; ``source``
is not read but filled by the core: the number, from 0, of the input that the row came from."""

BACKBONE_OPTIONS = (
    "model_name_or_path",
    "model_revision",
    "model_dtype",
    "attn_implementation",
    "trust_remote_code",
    "allow_pickle",
    "use_lora",
    "lora_rank",
    "lora_alpha",
    "lora_dropout",
    "lora_target_modules",
)
"""Options of the core that do nothing where ``make_model`` builds a model of the task's own, without
``load_backbone``: such a task says ``unused_options=BACKBONE_OPTIONS``."""

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
class Layout:
    """One of several forms that rows may have, recognised by the names of its required columns.

    Attributes:
        name: what people call it.
        columns: its columns. A name that ends with ``*`` stands for all columns of the data with a number in
            its place, and is a list of their texts, in the order of the numbers.
        convert: dotted path ``module:function`` (its module must not import torch) of what turns a checked
            row into columns of the task, or raises a ValueError that starts with the column's name; None
            where the columns are the task's own.
    """

    name: str
    columns: tuple[Column, ...]
    convert: str | None = None


@dataclass(frozen=True, kw_only=True)
class FolderLayout:
    """A folder that holds rows in files of its own kind, recognised by the names of files.

    Attributes:
        name: what people call it.
        files: what must be there.
        read: dotted path ``module:function`` of what takes the folder, the split and a
            :class:`swift_core.data.faults.Faults`, and yields places and rows in one of the task's layouts.
    """

    name: str
    files: tuple[str, ...]
    read: str


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A figure that ``evaluate`` returns.

    Attributes:
        group: metrics of one group are measured together. Where there are several groups, what is measured
            depends on the data: ``evaluate`` returns all metrics of at least one.
        primary: picks the best checkpoint; one in each group.
    """

    name: str
    meaning: str
    higher_is_better: bool = True
    primary: bool = False
    group: str = ""


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
        layouts: the forms that rows may have, the first that fits is taken; none: rows have ``columns``.
        folders: the forms that folders of data may have, beside those that every task reads.
        gather: dotted path ``module:function`` (its module must not import torch) of what makes the rows of a
            data set into other rows, where those of one kind belong together: see
            :func:`swift_core.data.gathering.gathered`.
        implementation: dotted path of the module (or ``module:object``) with the five hooks.
        together: column whose equal values ``eval_split`` puts into the same part.
        strata: column whose values ``eval_split`` gives their share in both parts (stratified sampling).
        options: dotted path ``module:Class`` of a dataclass with the task's own options; its module must
            not import torch.
        metrics: what ``evaluate`` returns; exactly one of each group is primary.
        step_figures: names of the figures of ``compute_loss`` that the console shows of a step, in this
            order; none: all. The logs have all of them.
        exports: what ``export`` can write.
        defaults: defaults of the task for options of the core or of ``transformers.TrainingArguments``.
        serving: HTTP paths that a server gives this task, each with the dotted path ``module:function`` of
            what answers a request there: see :mod:`swift_core.serving`.
        resources: hints for a scheduler.
        parent: name of a task type whose hooks are used where this task implements none.
        examples: a few rows that it can learn from, for `swift new --extends`; without them rows are made
            up from the types of the required columns.
        unused_options: options of the core, or of the training loop, that this task has no use for: they are
            refused where a run says them.
        lora_defaults: what of ``defaults`` is another where a run trains an adapter (``use_lora``): its best
            learning rate is some ten times that of all weights.

    Raises:
        ValueError: a field contradicts these rules; the message names it.
    """

    name: str
    summary: str
    columns: tuple[Column, ...]
    implementation: str
    layouts: tuple[Layout, ...] = ()
    folders: tuple[FolderLayout, ...] = ()
    gather: str | None = None
    strata: str | None = None
    together: str | None = None
    options: str | None = None
    metrics: tuple[Metric, ...] = ()
    step_figures: tuple[str, ...] = ()
    exports: tuple[ExportFormat, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    serving: Mapping[str, str] = field(default_factory=dict)
    resources: ResourceProfile = field(default_factory=ResourceProfile)
    parent: str | None = None
    examples: tuple[Mapping[str, Any], ...] = ()
    unused_options: tuple[str, ...] = ()
    lora_defaults: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not TASK_NAME.fullmatch(self.name):
            raise ValueError(f"name={self.name!r}: use lower-case words joined by '-', such as 'legal-ner'")
        self._check_paths()
        if both := sorted({*self.unused_options} & {*self.defaults, *self.lora_defaults}):
            raise ValueError(f"unused_options: {', '.join(both)} can't have defaults too")
        for kind in ("columns", "layouts", "metrics", "exports"):
            names = [entry.name for entry in getattr(self, kind)]
            if len(set(names)) != len(names):
                raise ValueError(f"{kind}: a name appears twice in {names}")
        for group, metrics in self.metric_groups.items():
            if sum(metric.primary for metric in metrics) != 1:
                where = f" of group '{group}'" if group else ""
                raise ValueError(f"metrics: exactly one{where} must have primary=True")

    def _check_paths(self) -> None:
        for path_field in ("implementation", "options"):
            path = getattr(self, path_field)
            if path is not None and not _DOTTED.fullmatch(path):
                raise ValueError(f"{path_field}={path!r}: expected 'package.module' or 'package.module:Name'")
        if self.gather is not None and (not _DOTTED.fullmatch(self.gather) or ":" not in self.gather):
            raise ValueError(f"gather={self.gather!r}: expected 'package.module:function'")
        for route, path in self.serving.items():
            if not route.startswith("/") or ":" not in path or not _DOTTED.fullmatch(path):
                raise ValueError(
                    f"serving={{{route!r}: {path!r}}}: expected a path such as '/v1/embeddings', and "
                    "'package.module:function'"
                )
        paths = {layout.name: layout.convert for layout in self.layouts}
        paths.update({folder.name: folder.read for folder in self.folders})
        for name, path in paths.items():
            if path is not None and not _DOTTED.fullmatch(path):
                raise ValueError(f"layout '{name}': expected 'package.module:function', found {path!r}")

    @property
    def metric_groups(self) -> dict[str, list[Metric]]:
        """The metrics by group, in their order."""
        groups: dict[str, list[Metric]] = {}
        for metric in self.metrics:
            groups.setdefault(metric.group, []).append(metric)
        return groups

    @property
    def primary_metric(self) -> Metric | None:
        """The metric (of the first group) that picks the best checkpoint; None for a task without metrics."""
        return next((metric for metric in self.metrics if metric.primary), None)

    def higher_is_better(self, name: str) -> bool | None:
        """Of a declared metric, or one with more behind it (``log_loss_calibrated``); None of others."""
        told = [metric for metric in self.metrics if f"{name}_".startswith(f"{metric.name}_")]
        return max(told, key=lambda metric: len(metric.name)).higher_is_better if told else None

    def export_format(self, name: str) -> ExportFormat | None:
        """The declared export format of that name, or None."""
        return next((entry for entry in self.exports if entry.name == name), None)


@dataclass(frozen=True, kw_only=True)
class ExtensionSpec:
    """An extension that run files may ask for; the entry point ``swift.extensions`` names it.

    Attributes:
        name: lower-case words joined by ``-``; the same as the entry point's name.
        summary: one line for ``swift plugins``.
        implementation: dotted path ``module:Class`` of what observes a run or wraps hooks. The class is
            called with an instance of the options class, or with nothing where there is none.
        options: dotted path ``module:Class`` of a dataclass; its module must not import torch.

    Raises:
        ValueError: a field contradicts these rules; the message names it.
    """

    name: str
    summary: str
    implementation: str
    options: str | None = None

    def __post_init__(self) -> None:
        if not TASK_NAME.fullmatch(self.name):
            raise ValueError(f"name={self.name!r}: use lower-case words joined by '-', such as 'slow-steps'")
        for name in ("implementation", "options"):
            path = getattr(self, name)
            if path is not None and (":" not in path or not _DOTTED.fullmatch(path)):
                raise ValueError(f"{name}={path!r}: expected 'package.module:Class'")


def option(
    default: Any = dataclasses.MISSING,
    *,
    help: str,
    evaluates: bool = False,
    evaluation_input: Literal["path", "value"] | None = None,
) -> Any:
    """Define one option of an options dataclass; ``default`` may be a factory for lists and dicts.

    Args:
        default: the value used when the option is not given, or a callable that makes it.
        help: one sentence, shown by ``swift describe`` and in the docs.
        evaluates: this option names evaluation data of its own, so a run that sets it is evaluated even
            without ``eval_dataset``. What lies there has a fingerprint in the run's record.
        evaluation_input: this option, too, decides what is read in evaluations, as a path or by its value;
            its fingerprint is in the record where it is set to something else than the default.
    """
    metadata = {"help": help, "evaluates": evaluates, "evaluation_input": evaluation_input}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)
