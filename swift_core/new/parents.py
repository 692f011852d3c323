"""What a child's package says of the task type that it extends."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from typing import Any

from packaging.version import InvalidVersion, Version

from swift_core.errors import UserError
from swift_core.hookspecs import TaskHooks
from swift_core.new.example_rows import rows_for
from swift_core.new.names import Names
from swift_core.registry import Claim, find_task, load_object, load_spec
from swift_core.spec import TaskSpec


@dataclass(frozen=True)
class Parent:
    """An installed task type, and the nearest of it and its ancestors that has ``compute_loss``."""

    claim: Claim
    spec: TaskSpec
    implementation: str
    hook: Any


def find_parent(name: str) -> Parent:
    """Look at the task type that is to be extended; its hooks are imported.

    Raises:
        UserError: it is not installed, or its package is broken.
    """
    claim = ancestor = find_task(name)
    spec = own = load_spec(claim)
    while True:
        implementation = load_object(own.implementation, ancestor)
        if hasattr(implementation, "compute_loss"):
            return Parent(claim, spec, own.implementation, implementation.compute_loss)
        if own.parent is None:
            raise UserError(f"--extends: task type '{name}' has no compute_loss to build on")
        ancestor = find_task(own.parent)
        own = load_spec(ancestor)


def child_values(parent: Parent, names: Names) -> dict[str, str]:
    """What the templates of a child are filled with."""
    module, _, attribute = parent.claim.entry_point.value.partition(":")
    taken = list(inspect.signature(parent.hook).parameters)
    order = [name for name in inspect.signature(TaskHooks.compute_loss).parameters if name != "self"]
    columns = (parent.spec.layouts[0] if parent.spec.layouts else parent.spec).columns
    rows = parent.spec.examples or rows_for(columns)
    plain = [entry.name for entry in parent.spec.exports if not entry.requires]
    return {
        "parent": parent.spec.name,
        "parent_spec_module": module,
        "parent_spec_name": attribute,
        "hook_imports": _imports("from swift_core import hookimpl", _import_of(parent.implementation)),
        "hook_arguments": ", ".join(name for name in order if name in {*taken, "args"}),
        "parent_arguments": ", ".join(taken),
        "export_line": f'    export_formats = ("{plain[0]}",)\n' if plain else "",
        "rows": "\n".join(json.dumps(row, ensure_ascii=False) for row in rows),
        "about": f"a child of `{parent.spec.name}` with a loss of its own.",
        "before_training": "$ python examples/tiny_model.py\n",
        "report_options": " model_name_or_path=examples/tiny-model learning_rate=5e-3 --batch-loss",
        "hooks_hold": f"what differs from `{parent.spec.name}`: here `compute_loss`",
        **_option_values(parent.spec, names),
    }


def _option_values(spec: TaskSpec, names: Names) -> dict[str, str]:
    wanted = ["from annotated_types import Gt", "from swift_core import option"]
    if spec.options is None:
        return {
            "option_imports": _imports(*wanted),
            "option_base": "",
            "options_are": "What may be chosen.",
        }
    module, _, base = spec.options.partition(":")
    return {
        "option_imports": _imports(*wanted, f"from {module} import {base}"),
        "option_base": f"({base})",
        "options_are": f"Those of ``{spec.name}``, and one more.",
    }


def _import_of(path: str) -> str:
    module, _, attribute = path.partition(":")
    if attribute:
        return f"from {module} import {attribute} as parent"
    package, _, last = module.rpartition(".")
    return f"from {package} import {last} as parent" if package else f"import {module} as parent"


def _imports(*lines: str) -> str:
    """Import lines in the order that ruff wants: plain ones first, then by module."""
    return "\n".join(sorted(lines, key=lambda line: (line.startswith("from"), line.split()[1].lower())))


def dependency_on(claim: Claim) -> str:
    """A requirement that the installed version of a package meets, and the next minor release does not."""
    try:
        version = Version(claim.version)
    except InvalidVersion:
        return claim.package
    return f"{claim.package}>={version.major}.{version.minor},<{version.major}.{version.minor + 1}"
