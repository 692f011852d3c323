"""What model cards of every task type tell: of data, options and figures; of paths only the last part."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult

if TYPE_CHECKING:
    from swift_core.arguments import TrainingArguments
    from swift_core.runs.record import Run

_CORE = ("max_length", "model_dtype", "max_tokens_per_batch")
_LORA = ("lora_rank", "resolved_lora_alpha", "lora_dropout", "lora_target_modules")
_LOOP = (
    "learning_rate",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "bf16",
    "fp16",
    "seed",
)


@dataclass(frozen=True, kw_only=True)
class Training:
    """What is known of how a model was trained.

    Attributes:
        data: for each set of rows its use (``train``, ``eval``), its name and its number of rows.
        options: those that shape the result.
        metrics: figures of the last evaluation of the run, without those that are NaN; empty when there was
            none.
        evaluated_on: name of the evaluation data.
    """

    data: Sequence[tuple[str, str, int]] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    evaluated_on: str | None = None


def training_of(
    args: TrainingArguments,
    run: Run,
    *,
    told_elsewhere: Sequence[str] = (),
    evaluated_on: str | None = None,
) -> Training:
    """What the options and the record of ``run`` tell.

    Args:
        told_elsewhere: options of the task that a card has other places for.
        evaluated_on: default: the name of the evaluation rows.
    """
    core, loop = args.core, args.trainer
    values = {name: getattr(core, name) for name in (*_CORE, *(_LORA if core.use_lora else ()))}
    values |= {name: getattr(loop, name) for name in _LOOP}
    values |= {
        option.name: getattr(args.task, option.name)
        for option in fields(args.task)
        if option.name not in told_elsewhere and not option.name.startswith(("eval_", "export_"))
    }
    record = run.record
    data = [entry for part in record.get("data") or () for entry in _data_told(part)]
    measured = record.get("metrics") or {}
    metrics = {
        name.removeprefix("eval_"): float(value)
        for name, value in measured.items()
        # A record has null for a figure that is NaN or infinite; nothing can be told of it.
        if name.startswith("eval_") and name not in ("eval_runtime", "eval_loss") and value is not None
    }
    where = evaluated_on or next((name for use, name, _ in data if use == "eval"), None)
    shown = {name: value for name, value in values.items() if value not in (None, "", False, [], -1)}
    return Training(
        data=data,
        options={name: short(getattr(value, "value", value)) for name, value in shown.items()},
        metrics=metrics,
        evaluated_on=where and short(where),
    )


def _data_told(part: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    """Use, name and rows of each source; of all together where some of their rows are not in this part."""
    sources = [(part["name"], short(source["name"]), source["rows"]) for source in part["sources"]]
    if "gathered" in part or sum(rows for _, _, rows in sources) == part["rows"]:
        return sources
    return [(part["name"], ", ".join(name for _, name, _ in sources), part["rows"])]


def hub_id(name: str | None) -> str | None:
    """The hub id in ``name``, which may be one, or a copy in the hub's cache; None for any other folder."""
    if not name:
        return None
    cached = re.search(r"models--([\w.-]+?)--([\w.-]+?)[/\\]snapshots", name)
    if cached:
        return "/".join(cached.groups())
    is_id = re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", name) is not None
    return name if is_id and not Path(name).exists() else None


def hub_datasets(training: Training) -> list[str] | None:
    """Names of the data that look like hub ids, for the front matter; None for none."""
    names = {name for _, told, _ in training.data for name in told.split(", ")}
    return sorted(name for name in names if re.fullmatch(r"[\w.-]+/[\w-]+", name)) or None


def eval_results(training: Training, *, task_type: str, task_name: str) -> list[EvalResult]:
    """Figures for the hub; none where it is not known what they were measured on."""
    if training.evaluated_on is None:
        return []
    return [
        EvalResult(
            task_type=task_type,
            task_name=task_name,
            dataset_type="custom",
            dataset_name=training.evaluated_on,
            metric_type=name,
            metric_value=round(value, 6),
        )
        for name, value in training.metrics.items()
    ]


def training_sections(training: Training, *, measured: str = "") -> list[str]:
    """Sections of data, options and figures, as far as they are known.

    Args:
        measured: words behind "The last evaluation of the run".
    """
    parts = []
    if training.data:
        rows = [(use, name, f"{count:,}") for use, name, count in training.data]
        parts.append(f"## Data\n\n{table(('used for', 'name', 'rows'), rows)}")
    if training.options:
        options = [(f"`{name}`", str(value)) for name, value in training.options.items()]
        parts.append(f"## Training\n\n{table(('option', 'value'), options)}")
    if training.metrics:
        where = f" on {training.evaluated_on}" if training.evaluated_on else ""
        figures = [(name, f"{value:.4f}") for name, value in training.metrics.items()]
        head = f"## Evaluation\n\nThe last evaluation of the run{where}{measured}:"
        parts.append(f"{head}\n\n{table(('metric', 'value'), figures)}")
    return parts


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, whatever its cells hold."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(_cell, cells)) + " |" for cells in lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def python_block(code: str) -> str:
    """Code of a card, fenced."""
    return f"```python\n{code}\n```"


def write_readme(folder: Path, parts: Sequence[str]) -> None:
    """Write ``README.md``, in place of one that is there, with an empty line between ``parts``."""
    text = "\n\n".join(part.strip("\n") for part in parts) + "\n"
    (folder / "README.md").write_text(text, encoding="utf-8", newline="\n")


def short(value: Any) -> Any:
    """A path without the folders it lies in, anything else as it is."""
    if isinstance(value, str) and (Path(value).is_absolute() or Path(value).exists() or value.count("/") > 1):
        return Path(value).name
    return value
