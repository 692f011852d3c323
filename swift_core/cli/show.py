"""The commands that show what is installed. None of them imports torch, unless all options are asked for."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from swift_core.arguments import task_options
from swift_core.core_options import CoreOptions
from swift_core.errors import PluginError, UserError
from swift_core.labels.telling import as_json, shown
from swift_core.options import Option, options_of
from swift_core.registry import Claim, fault_of, find_claims, find_task, load_spec
from swift_core.spec import Layout, TaskSpec

if TYPE_CHECKING:
    from swift_core.labels.definitions import Label, Labels


def tasks(parsed: argparse.Namespace) -> int:
    """``swift tasks``: the task types that can be used."""
    rows = []
    claims = find_claims()
    faulty = 0
    for claim in claims:
        spec, fault = spec_or_fault(claim, claims)
        if spec is None or fault:
            faulty += 1
            continue
        rows.append(
            {
                "task_type": claim.name,
                "package": claim.package,
                "version": claim.version,
                "summary": spec.summary,
            }
        )
    labels = _labels_or_told()
    described = labels_as_tasks(labels, rows) if labels is not None else []
    if parsed.json:
        print(json.dumps([*rows, *described], ensure_ascii=False))
        return 0
    if not rows:
        print("No task type is installed. One to start with: pip install swift-embedding")
    print_table(("task type", "package", "version", "summary"), [tuple(row.values()) for row in rows])
    if faulty:
        print(f"{faulty} more can't be used; `swift plugins` says why.")
    if described and labels is not None:
        print(f"\nLabels of {labels.place}")
        told = [(row["task_type"], row["extends"], row["status"], row["summary"]) for row in described]
        print_table(("label", "extends", "status", "description"), told)
    return 0


def _labels_or_told() -> Labels | None:
    """The labels that hold here; a file that can't be read takes nothing from what is installed."""
    from swift_core.labels.finding import find_labels

    try:
        return find_labels()
    except UserError as error:
        print(f"swift: {error}", file=sys.stderr)
        return None


def labels_as_tasks(labels: Labels, tasks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The labels in the form of the task types that they extend."""
    by_name = {row["task_type"]: row for row in tasks}
    found = []
    for label in labels.labels.values():
        task = by_name.get(label.extends.rpartition(":")[2], {})
        package = {name: task.get(name) for name in ("package", "version")}
        what = {"summary": label.description, "extends": label.extends, "status": label.status}
        found.append({"task_type": label.name, **package, **what})
    return found


def spec_or_fault(claim: Claim, claims: Sequence[Claim]) -> tuple[TaskSpec | None, str | None]:
    """What a task type says about itself, and why it can't be used; one of them may be None."""
    try:
        return load_spec(claim), fault_of(claim, claims)
    except PluginError as error:
        return None, str(error)


def describe(parsed: argparse.Namespace) -> int:
    """``swift describe TASK``."""
    claim, label = _asked_for(parsed.task)
    spec = load_spec(claim)
    own = {**label.defaults, **label.fixed} if label is not None else {}
    if parsed.json_schema:
        from swift_core.arguments import known_options

        schema = json_schema(spec, known_options(claim), label)
        print(json.dumps(schema, indent=2, ensure_ascii=False))
        return 0
    options = _options(claim, spec, everything=parsed.all)
    if parsed.json:
        told = {} if label is None else {"label": as_json(label)}
        print(json.dumps({**_as_json(claim, spec, options), **told}, ensure_ascii=False))
        return 0
    if label is not None:
        print("\n".join([f"{label.name}: a label", *shown(label), ""]))
    print(f"{spec.name}: {spec.summary}\npackage {claim.package} {claim.version}")
    _print_columns(spec)
    print("\nOptions")
    defaults = {**spec.defaults, **own}
    print_table(None, [(o.name, _shown(defaults.get(o.name, o.default_json)), o.help) for o in options])
    if not parsed.all:
        print("  ... and every option of transformers.TrainingArguments (--all shows them)")
    if defaults:
        whose = "task" if label is None else "label and its task"
        print(f"  defaults of this {whose}: " + ", ".join(f"{k}={v}" for k, v in defaults.items()))
    if spec.lora_defaults:
        print("  with use_lora=True: " + ", ".join(f"{k}={v}" for k, v in spec.lora_defaults.items()))
    print("\nMetrics")
    print_table(None, [(m.name, "primary" if m.primary else "", m.meaning) for m in spec.metrics])
    print("\nExports")
    print_table(None, [(e.name, ", ".join(e.requires), e.meaning) for e in spec.exports])
    return 0


def _asked_for(name: str) -> tuple[Claim, Label | None]:
    from swift_core.labels.finding import find_labels

    labels = find_labels()
    if labels is None or name not in labels.labels:
        return find_task(name), None
    from swift_core.labels.applying import resolve

    return resolve(name, labels).claim, labels.labels[name]


def _print_columns(spec: TaskSpec) -> None:
    for layout in spec.layouts or (Layout(name="", columns=spec.columns),):
        print("\nColumns" + (f" of {layout.name}" if layout.name else ""))
        rows = [(c.name, c.type, "required" if c.required else "", c.meaning) for c in layout.columns]
        print_table(None, rows)
    for folder in spec.folders:
        print(f"\nFolders of {folder.name}: {', '.join(folder.files)}")


def _options(claim: Claim, spec: TaskSpec, *, everything: bool) -> list[Option]:
    if everything:
        from swift_core.arguments import known_options

        found: Iterable[Option] = known_options(claim).values()
        found = [option for option in found if option.name not in spec.unused_options]
        return sorted(found, key=lambda option: ("task", "core", "trainer").index(option.group))
    core = [o for o in options_of(CoreOptions, "core").values() if o.name not in spec.unused_options]
    return [*task_options(claim, spec).values(), *core]


def _as_json(claim: Claim, spec: TaskSpec, options: Iterable[Option]) -> dict[str, Any]:
    return {
        "task_type": spec.name,
        "summary": spec.summary,
        "package": claim.package,
        "version": claim.version,
        "columns": [vars(column) for column in spec.columns],
        "layouts": [
            {"name": layout.name, "columns": [vars(column) for column in layout.columns]}
            for layout in spec.layouts
        ],
        "folders": [{"name": folder.name, "files": list(folder.files)} for folder in spec.folders],
        "options": [{"name": o.name, "group": o.group, **o.schema} for o in options],
        "defaults": dict(spec.defaults),
        "lora_defaults": dict(spec.lora_defaults),
        "metrics": [vars(metric) for metric in spec.metrics],
        "exports": [{**vars(entry), "requires": list(entry.requires)} for entry in spec.exports],
        "serving": dict(spec.serving),
        "resources": vars(spec.resources),
    }


def json_schema(spec: TaskSpec, options: dict[str, Option], label: Label | None = None) -> dict[str, Any]:
    """JSON Schema of a run file of this task type, or of a label that extends it, for editors."""
    name = spec.name if label is None else label.name
    summary = spec.summary if label is None else label.description or spec.summary
    properties: dict[str, Any] = {"task_type": {"const": name, "description": summary}}
    defaults = {**spec.defaults, **(label.defaults if label is not None else {})}
    for option in options.values():
        if option.name in spec.unused_options:
            continue
        schema = option.schema
        schema["default"] = defaults.get(option.name, schema["default"])
        if label is not None and option.name in label.fixed:
            schema = {"const": label.fixed[option.name], "description": option.help}
        properties[option.name] = schema
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"swift run file, task type {name}",
        "type": "object",
        "properties": properties,
        "required": ["task_type"],
        "additionalProperties": False,
    }


def _shown(value: Any) -> str:
    return "" if value is None else json.dumps(value, ensure_ascii=False, default=str)


def print_table(head: Sequence[str] | None, rows: Sequence[Sequence[Any]]) -> None:
    """Columns as wide as they need to be; the last one runs on. Plain text, so that grep and cut work."""
    if not rows:
        return
    texts = [
        [str(cell) if cell is not None else "" for cell in row] for row in ([head] if head else []) + [*rows]
    ]
    widths = [max(len(row[i]) for row in texts) for i in range(len(texts[0]) - 1)]
    for row in texts:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        print("  " + "  ".join([*cells, row[-1]]).rstrip())
