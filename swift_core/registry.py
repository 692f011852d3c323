"""Which task types are installed: entry-point metadata first, then the spec, then the implementation.

Each level is loaded only when it is needed and only for the task type that is asked for, so that a broken
package harms nobody but those who ask for it.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import Distribution, EntryPoint, distributions
from pathlib import Path
from typing import Any

from swift_core.compatibility import core_misfit, core_window
from swift_core.errors import PluginError, UserError, did_you_mean, listed
from swift_core.spec import TASK_NAME, TaskSpec

TASK_GROUP = "swift.tasks"
COMMAND_GROUP = "swift.commands"
EXTENSION_GROUP = "swift.extensions"
DISABLE_VARIABLE = "SWIFT_DISABLE_PLUGINS"

OUR_PACKAGES = {
    "embedding": "swift-embedding",
    **dict.fromkeys(("dpo", "cpo", "simpo", "orpo", "kto"), "swift-dpo"),
    "reranker": "swift-reranker",
    "sequence-classification": "swift-cls",
}
"""Where to get our own task types; nobody else's package may claim these names."""


@dataclass(frozen=True)
class Claim:
    """One entry point: a package says that it provides ``name``. Nothing of the package is imported."""

    name: str
    entry_point: EntryPoint

    @cached_property
    def package(self) -> str:
        """Name of the distribution, or the module's when its metadata does not tell."""
        return self._metadata("Name") or self.entry_point.module

    @cached_property
    def version(self) -> str:
        """Version of the distribution."""
        return self._metadata("Version") or "unknown"

    def _metadata(self, field: str) -> str | None:
        dist = self.entry_point.dist
        try:
            return dist.metadata[field] if dist and field in dist.metadata else None
        except (OSError, ValueError):  # metadata that is missing or not UTF-8
            return None

    @cached_property
    def core_window(self) -> str | None:
        """The versions of swift-core that the distribution asks for; None where it asks for none."""
        return core_window(self.entry_point.dist)

    @cached_property
    def misfit(self) -> str | None:
        """Why the distribution can't be used with this swift-core; None when it can."""
        return core_misfit(self.entry_point.dist)

    @property
    def qualified_name(self) -> str:
        """``package:name``, which names this claim even when others make the same."""
        return f"{self.package}:{self.name}"

    def is_called(self, name: str) -> bool:
        """Whether ``name`` is its name, or its qualified name in any spelling of the package's."""
        package, _, bare = name.rpartition(":")
        return bare == self.name and (not package or _canonical(package) == _canonical(self.package))


def find_claims(group: str = TASK_GROUP) -> list[Claim]:
    """The claims of installed packages on names of ``group``, sorted by name and package.

    Packages that ``SWIFT_DISABLE_PLUGINS`` names are left out: see :func:`find_disabled`.
    """
    disabled = disabled_packages()
    return [claim for claim in _all_claims(group) if _canonical(claim.package) not in disabled]


def find_disabled(group: str = TASK_GROUP) -> list[Claim]:
    """The claims on names of ``group`` that :func:`find_claims` leaves out."""
    disabled = disabled_packages()
    return [claim for claim in _all_claims(group) if _canonical(claim.package) in disabled]


def disabled_packages() -> frozenset[str]:
    """The packages that ``SWIFT_DISABLE_PLUGINS`` names, separated by commas."""
    names = os.environ.get(DISABLE_VARIABLE, "").split(",")
    return frozenset(_canonical(name.strip()) for name in names if name.strip())


def packages_not_found() -> list[str]:
    """Names in ``SWIFT_DISABLE_PLUGINS`` that no installed distribution has."""
    wanted = disabled_packages()
    if not wanted:
        return []
    present = {_canonical(name) for name in map(_name_of, distributions()) if name}
    return sorted(wanted - present)


def _name_of(distribution: Distribution) -> str | None:
    try:
        return distribution.metadata["Name"]
    except Exception:  # metadata that is missing, not UTF-8 or without a name
        return None


def _canonical(package: str) -> str:
    # https://packaging.python.org/en/latest/specifications/name-normalization/
    return re.sub(r"[-_.]+", "-", package).lower()


def _all_claims(group: str) -> list[Claim]:
    found: dict[tuple[str, str], Claim] = {}
    for distribution in distributions():
        for entry in _entry_points(distribution) or ():
            if entry.group == group:
                claim = Claim(entry.name, entry)
                # A package may be on the path twice; the first one is what Python imports.
                found.setdefault((claim.name, claim.package), claim)
    return sorted(found.values(), key=lambda claim: (claim.name, claim.package))


def find_unreadable() -> list[str]:
    """Packages whose entry points can't be read, by the names of their metadata folders."""
    unreadable = [d for d in distributions() if _entry_points(d) is None]
    return [Path(str(getattr(d, "_path", d.locate_file("")))).name for d in unreadable]


def _entry_points(distribution: Distribution) -> Iterable[EntryPoint] | None:
    # importlib.metadata.entry_points() would let one package's broken file end every command.
    try:
        return list(distribution.entry_points)
    except Exception:  # whatever its parser says of what it finds
        return None


def fault_of(claim: Claim, claims: Iterable[Claim]) -> str | None:
    """Why ``claim`` can't be used by its plain name, judged from metadata alone; None when it can."""
    if not TASK_NAME.fullmatch(claim.name):
        return f"'{claim.name}' is no task type's name: use lower-case words joined by '-'"
    owner = OUR_PACKAGES.get(claim.name)
    if owner is not None:
        same = _canonical(claim.package) == owner
        return None if same else f"the name '{claim.name}' belongs to {owner}; rename the task type"
    return conflict_of(claim, claims, "task_type=")


def conflict_of(claim: Claim, claims: Iterable[Claim], before: str = "") -> str | None:
    """Which packages provide the name of ``claim`` as well, and what to write; None when none does.

    Args:
        claim: the one to judge.
        claims: all of its group.
        before: what stands before a name where it is written.
    """
    others = [c for c in claims if c.name == claim.name and c.package != claim.package]
    if not others:
        return None
    same = sorted([claim, *others], key=lambda c: c.package)
    names = " or ".join(f"{before}{c.qualified_name}" for c in same)
    packages = listed([c.package for c in same])
    return f"several packages provide '{claim.name}' ({packages}): write {names}, or uninstall one"


def disabled_fault(name: str, group: str = TASK_GROUP) -> str | None:
    """Say that ``name`` is there but left out by ``SWIFT_DISABLE_PLUGINS``; None when it is not."""
    left_out = [claim for claim in find_disabled(group) if claim.is_called(name)]
    if not left_out:
        return None
    packages = listed([claim.package for claim in left_out])
    return f"{packages} provides '{name}', but {DISABLE_VARIABLE} names that package; take it out there"


def find_task(name: str) -> Claim:
    """Return the one claim that ``name`` (a task type, or ``package:task-type``) stands for.

    Raises:
        UserError: no installed package provides it, or several do.
    """
    claims = find_claims()
    if ":" in name:
        exact = [c for c in claims if c.is_called(name)]
        if exact:
            return exact[0]
        if disabled := disabled_fault(name):
            raise UserError(f"task_type: {disabled}")
        found = listed([c.qualified_name for c in claims])
        raise UserError(f"task_type: no installed package provides '{name}'; installed: {found}")
    same_name = [c for c in claims if c.name == name]
    usable = [c for c in same_name if fault_of(c, claims) is None]
    if usable:
        return usable[0]
    if same_name:
        raise PluginError(f"task_type: {fault_of(same_name[0], claims)}")
    raise UserError(_unknown(name, sorted({c.name for c in claims})))


def _unknown(name: str, installed: Sequence[str]) -> str:
    known = [*installed, *OUR_PACKAGES]
    if disabled := disabled_fault(name):
        return f"task_type: {disabled}"
    if name in OUR_PACKAGES:
        return f"task_type: '{name}' is not installed; install it with: pip install {OUR_PACKAGES[name]}"
    return (
        f"task_type: no installed package provides '{name}'.{did_you_mean(name, known)} "
        f"Installed task types: {listed(installed)}"
    )


def load_spec(claim: Claim) -> TaskSpec:
    """Import the spec that ``claim`` points to.

    Raises:
        PluginError: the package is for another swift-core, can't be imported, or what it gives is not a
            TaskSpec of that name.
    """
    who = f"package {claim.package} {claim.version}, task type '{claim.name}'"
    spec = load_entry(claim, who)
    if not isinstance(spec, TaskSpec):
        raise PluginError(
            f"{who}: {claim.entry_point.value} is a {type(spec).__name__}, expected a swift_core.TaskSpec"
        )
    if spec.name != claim.name:
        raise PluginError(
            f"{who}: the spec calls itself '{spec.name}'; give the entry point and the spec the same name"
        )
    return spec


def load_entry(claim: Claim, who: str) -> Any:
    """Import what the entry point of ``claim`` names; ``who`` starts the message.

    Raises:
        PluginError: the package is for another swift-core, or it can't be imported.
    """
    if claim.misfit is not None:
        raise PluginError(f"{who}: {claim.misfit}")
    try:
        # What a plugin prints while it is imported must not end up in JSON on stdout.
        with contextlib.redirect_stdout(sys.stderr):
            return claim.entry_point.load()
    except (Exception, SystemExit) as error:  # a plugin may fail in any way; it must harm nobody else
        raise PluginError(
            f"{who}: {claim.entry_point.value} can't be loaded ({_in_one_line(error)}); "
            f"update or uninstall {claim.package}"
        ) from error


def load_object(path: str, claim: Claim) -> Any:
    """Import ``package.module`` or ``package.module:Name`` on behalf of ``claim``.

    Raises:
        PluginError: it can't be imported.
    """
    module_name, _, attribute = path.partition(":")
    try:
        with contextlib.redirect_stdout(sys.stderr):
            module = importlib.import_module(module_name)
        return getattr(module, attribute) if attribute else module
    except (Exception, SystemExit) as error:  # see load_entry
        raise PluginError(
            f"package {claim.package} {claim.version}: {path} can't be loaded ({_in_one_line(error)})"
        ) from error


def _in_one_line(error: BaseException) -> str:
    first = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
