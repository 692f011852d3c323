"""``swift plugins``: what is installed, for which swift-core, and what is wrong with it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from swift_core.cli.show import print_table, spec_or_fault
from swift_core.errors import PluginError, listed
from swift_core.extensions import load_extension_spec
from swift_core.registry import (
    COMMAND_GROUP,
    DISABLE_VARIABLE,
    EXTENSION_GROUP,
    TASK_GROUP,
    Claim,
    conflict_of,
    find_claims,
    find_disabled,
    find_unreadable,
    packages_not_found,
)

_GROUPS = {TASK_GROUP: "task", EXTENSION_GROUP: "extension", COMMAND_GROUP: "command"}


def plugins(parsed: argparse.Namespace) -> int:
    """List the packages that provide a task type, an extension or a command, with faults."""
    rows = [*_usable_rows(), *_disabled_rows(), *_unreadable_rows()]
    missing = packages_not_found()
    if missing:
        print(f"swift: {DISABLE_VARIABLE}: no installed package is called {listed(missing)}", file=sys.stderr)
    if parsed.json:
        print(json.dumps(rows, ensure_ascii=False))
    elif not rows:
        print("No package with a task type, an extension or a command is installed.")
    else:
        print_table(
            ("package", "version", "provides", "swift-core", "fault"), [tuple(r.values()) for r in rows]
        )
    return 0


def _usable_rows() -> Iterator[dict[str, Any]]:
    faults: dict[str, Callable[[Claim, Sequence[Claim]], str | None]] = {
        TASK_GROUP: lambda claim, claims: spec_or_fault(claim, claims)[1],
        EXTENSION_GROUP: _extension_fault,
        COMMAND_GROUP: _command_fault,
    }
    for group, fault_of in faults.items():
        claims = find_claims(group)
        for claim in claims:
            yield _row(claim, group, fault_of(claim, claims))


def _disabled_rows() -> Iterator[dict[str, Any]]:
    for group in _GROUPS:
        for claim in find_disabled(group):
            yield _row(claim, group, f"left out: {DISABLE_VARIABLE} names it")


def _unreadable_rows() -> Iterator[dict[str, Any]]:
    fault = "its entry_points.txt can't be read; install it again or remove it"
    for name in find_unreadable():
        yield {"package": name, "version": None, "provides": None, "swift_core": None, "fault": fault}


def _row(claim: Claim, group: str, fault: str | None) -> dict[str, Any]:
    return {
        "package": claim.package,
        "version": claim.version,
        "provides": f"{_GROUPS[group]} {claim.name}",
        "swift_core": claim.core_window,
        "fault": fault,
    }


def _extension_fault(claim: Claim, claims: Sequence[Claim]) -> str | None:
    try:
        load_extension_spec(claim)
    except PluginError as error:
        return str(error)
    return conflict_of(claim, claims)


def _command_fault(claim: Claim, claims: Sequence[Claim]) -> str | None:
    """What keeps ``claim`` from being called; a command is imported only to be run."""
    from swift_core.cli import OWN_COMMANDS

    if claim.misfit is not None:
        return claim.misfit
    if claim.name in OWN_COMMANDS:
        return f"swift has a command '{claim.name}' of its own: write swift {claim.qualified_name}"
    return conflict_of(claim, claims, "swift ")
