"""``swift new NAME --kind KIND``: writes a package that installs, trains and passes its tests as it is."""

from __future__ import annotations

import argparse
import datetime
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from swift_core import __version__
from swift_core.errors import UserError, did_you_mean, listed
from swift_core.new.example_rows import labelled_rows, tagged_rows
from swift_core.new.filling import write_package
from swift_core.new.names import Names, names_of

KINDS: dict[str, str] = {
    "token-classification": "a task type from scratch: tags for words",
    "sequence-classification": "a task type from scratch: labels for texts",
    "extension": "watches runs of any task type, and wraps their loss",
}
LICENSES = {"apache-2.0": "Apache-2.0", "mit": "MIT", "none": ""}

_ROWS: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "token-classification": tagged_rows,
    "sequence-classification": labelled_rows,
}
_EXPORTS = {"token-classification": "tagger", "sequence-classification": "classifier"}
_METRICS = {"token-classification": ("f1", "accuracy"), "sequence-classification": ("accuracy", "log_loss")}


def new(parsed: argparse.Namespace) -> int:
    """``swift new``.

    Raises:
        UserError: a name or a kind is wrong, or something stands where the package should go.
    """
    kind = _kind(parsed)
    names = names_of(parsed.name, parsed.package, extension=kind == "extension")
    values = _values(names, parsed.license)
    folder = "child" if parsed.extends else kind
    templates = ["common", *(["task"] if kind != "extension" else []), folder]
    if parsed.extends:
        from swift_core.new.parents import child_values, dependency_on, find_parent

        parent = find_parent(parsed.extends)
        values |= child_values(parent, names)
        values["dependencies"] += f'\n    "{dependency_on(parent.claim)}",'
        values["metric_rows"] = _metric_rows([m.name for m in parent.spec.metrics if m.primary])
        values["description"] = f"The task type '{names.name}' for Swift, a child of '{parent.spec.name}'"
    elif kind == "extension":
        values["description"] = f"The extension '{names.name}' for Swift"
    else:
        values |= _scratch_values(names, kind)
    if parsed.license != "none":
        templates.append(f"licenses/{parsed.license}")
    target = Path(parsed.folder or names.package)
    written = write_package(target, templates, values)
    _say_what_next(target, names, written, parsed, kind)
    return 0


def _kind(parsed: argparse.Namespace) -> str:
    if parsed.extends:
        if parsed.kind not in (None, "child"):
            raise UserError(
                f"--kind: expected 'child' or nothing beside --extends, found '{parsed.kind}'; leave one out"
            )
        return "child"
    if parsed.kind == "child":
        raise UserError("--extends: expected the name of an installed task type for a child, found none")
    if parsed.kind not in KINDS:
        found = "none" if parsed.kind is None else f"'{parsed.kind}'.{did_you_mean(parsed.kind, KINDS)}"
        raise UserError(
            f"--kind: expected one of {listed(list(KINDS))} (or --extends TASK for the child of an installed "
            f"task type), found {found}"
        )
    return str(parsed.kind)


def _values(names: Names, license: str) -> dict[str, str]:
    # What is promised: a package for one minor release works with the next (docs/compatibility.md).
    major, minor, *_ = __version__.split(".")
    spdx = LICENSES[license]
    fields = f'license = "{spdx}"\nlicense-files = ["LICENSE"]\n' if spdx else ""
    return {
        "name": names.name,
        "package": names.package,
        "module": names.module,
        "camel": names.camel,
        "group": names.group,
        "dependencies": f'    "swift-core>={major}.{minor},<{major}.{int(minor) + 2}",',
        "license_fields": fields,
        "license_told": f"{spdx}, see `LICENSE`." if spdx else "None: all rights are reserved.",
        "year": str(datetime.date.today().year),
        "before_training": "",
        "report_options": "",
    }


def _scratch_values(names: Names, kind: str) -> dict[str, str]:
    return {
        "description": f"The task type '{names.name}' for Swift",
        "about": f"{KINDS[kind].partition(': ')[2]}, learned by a toy that needs no download.",
        "hooks_hold": "the five hooks, the model and the collator",
        "first_export": _EXPORTS[kind],
        "metric_rows": _metric_rows(_METRICS[kind]),
        "rows": "\n".join(json.dumps(row, ensure_ascii=False) for row in _ROWS[kind]()),
    }


def _metric_rows(metrics: Any) -> str:
    return "\n".join(f"| {name} | FIGURE |" for name in metrics)


def _say_what_next(
    target: Path, names: Names, written: list[str], parsed: argparse.Namespace, kind: str
) -> None:
    what = "extension" if kind == "extension" else "task type"
    print(f"{target}: {len(written)} files of the package {names.package}, {what} {names.name}")
    print("Next:")
    here = target.expanduser().resolve() == Path.cwd()
    steps = [*([] if here else [f"cd {shlex.quote(str(target))}"]), 'pip install -e ".[test]"']
    if parsed.extends:
        steps.append("python examples/tiny_model.py")
    steps += ["swift train examples/run.yaml"] if kind != "extension" else ["swift plugins"]
    for step in (*steps, "pytest"):
        print(f"  {step}")
