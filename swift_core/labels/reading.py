"""Reading a labels file: every fault of it at once, each with its line."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

from swift_core.errors import UserError, did_you_mean, listed
from swift_core.labels.definitions import Decision, Label, Labels, LabelsFile, LabelTable, Policy
from swift_core.labels.gates import parse_gate
from swift_core.labels.toml_lines import line_numbers
from swift_core.options import Option, options_of
from swift_core.registry import OUR_PACKAGES
from swift_core.runs.redact import is_secret_name
from swift_core.spec import TASK_NAME

NOT_A_LABELS_BUSINESS = frozenset({"task_type", "labels", "run_name", "despite_gates"})
ONLY_THE_RUNS = frozenset({"trust_remote_code", "allow_pickle"})
"""Options that let others' code run: whoever starts a run turns them on, not a file found beside it."""


def read_labels(text: str, *, place: str, found_by: str = "given", origin: str | None = None) -> Labels:
    """Read and check the text of a labels file.

    Raises:
        UserError: it is no TOML, or holds what a labels file does not; all faults at once.
    """
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(_no_toml(place, error)) from error
    lines = line_numbers(text)
    known = options_of(LabelsFile, "file")
    told: list[tuple[tuple[str, ...], str]] = [
        ((name,), f"there is no table [{name}].{did_you_mean(name, known)} Tables: {listed(list(known))}")
        for name in content
        if name not in known
    ]
    tables = {name: content.get(name, {}) for name in known}
    for name, table in tables.items():
        if not isinstance(table, dict):
            told.append(((name,), f"{name}: expected a table [{name}], found {type(table).__name__}"))
            tables[name] = {}
    told += label_faults(tables["labels"], tables["groups"])
    told += _group_faults(tables["groups"])
    told += _field_faults(tables["policy"], options_of(Policy, "policy"), ("policy",))
    told += _unknown_groups(tables["policy"].get("approvers"), tables["groups"], ("policy", "approvers"))
    parts = Labels(
        place=place,
        origin=origin or place,
        found_by=found_by,
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        text=text,
        labels={},
        groups=tables["groups"],
        policy=Policy(),
        lines=lines,
    )
    if told:
        raise UserError(*(f"{parts.at(*path)}: {fault}" for path, fault in sorted(told, key=_by_line(lines))))
    labels = {name: label_of(name, table, parts) for name, table in tables["labels"].items()}
    return dataclasses.replace(parts, labels=labels, policy=Policy(**tables["policy"]))


def label_of(name: str, table: Mapping[str, Any], labels: Labels | None = None) -> Label:
    """A label from a table that was checked; with its members, where the groups are known."""
    fields = dict(table)
    for field in ("proposal", "approval"):
        if fields.get(field) is not None:
            fields[field] = Decision(**fields[field])
    members = labels.members_of(fields.get("owners", [])) if labels is not None else ()
    return Label(**{"members": members, **fields, "name": name})


def _no_toml(place: str, error: tomllib.TOMLDecodeError) -> str:
    at = re.search(r"\(at line (\d+), column \d+\)", str(error))
    told = re.sub(r" \(at [^)]*\)", "", str(error))
    return f"{place}:{at[1]}: not valid TOML: {told}" if at else f"{place}: not valid TOML: {error}"


def _by_line(lines: Mapping[tuple[str, ...], int]) -> Any:
    def line(entry: tuple[tuple[str, ...], str]) -> int:
        path = entry[0]
        return next((lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in lines), 0)

    return line


def label_faults(
    labels: Mapping[str, Any], groups: Mapping[str, Any]
) -> Iterator[tuple[tuple[str, ...], str]]:
    """What is wrong with these tables of labels, each fault with the path of what it is about."""
    known = options_of(LabelTable, "label")
    names: dict[str, str] = {}
    for name, table in labels.items():
        path = ("labels", name)
        if not TASK_NAME.fullmatch(name):
            yield path, f"label {name!r}: expected lower-case words joined by '-', such as 'legal-ner'"
        if name in OUR_PACKAGES:
            yield path, f"label '{name}' has the name of a task type; choose another one"
        if not isinstance(table, dict):
            yield path, f"label '{name}': expected a table [labels.{name}], found {type(table).__name__}"
            continue
        if not table.get("extends"):
            yield path, f"label '{name}': extends is missing; name the task type that does the work"
        faults = list(_field_faults(table, known, path))
        yield from faults
        if faults:
            continue
        yield from _decision_faults(table, path)
        yield from _unknown_groups(table.get("owners"), groups, (*path, "owners"))
        yield from _option_faults(table, path)
        yield from _gate_faults(table, path)
        ours = [former for former in table.get("former", []) if former in OUR_PACKAGES]
        if ours:
            yield (
                (*path, "former"),
                f"label '{name}': former: {listed(ours)} is a task type, for all to use; choose other names",
            )
        for former in (name, *table.get("former", [])):
            if former in names or (former != name and former in labels):
                yield (
                    (*path, "former"),
                    f"label '{name}': the name '{former}' is also that of label "
                    f"'{names.get(former, former)}'",
                )
            names[former] = name


def _field_faults(
    table: Mapping[str, Any], known: Mapping[str, Option], path: tuple[str, ...]
) -> Iterator[tuple[Any, str]]:
    who = f"label '{path[1]}'" if path[0] == "labels" else ".".join(path)
    for name, value in table.items():
        if name not in known:
            hint = did_you_mean(name, known)
            yield (*path, name), f"{who}: there is no field '{name}'.{hint} Fields: {listed(list(known))}"
        elif name in ("proposal", "approval"):
            if not isinstance(value, dict):
                yield (*path, name), f"{who}: {name}: expected {{by, when, why}}, found {value!r}"
        elif fault := known[name].fault(value):
            yield (*path, name), f"{who}: {fault}"


def _decision_faults(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[Any, str]]:
    known = options_of(Decision, "decision")
    for field in ("proposal", "approval"):
        if field in table:
            missing = [name for name in known if name not in table[field]]
            if missing:
                yield (*path, field), f"label '{path[1]}': {field}: {listed(missing)} missing"
            blank = [name for name in known if not str(table[field].get(name, "x")).strip()]
            if blank:
                yield (*path, field), f"label '{path[1]}': {field}: {listed(blank)} must not be empty"
            yield from _field_faults(table[field], known, (*path, field))


def _option_faults(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[Any, str]]:
    for field in ("defaults", "fixed"):
        for name, value in table.get(field, {}).items():
            fault = None
            if name in NOT_A_LABELS_BUSINESS:
                fault = "is the run's own; leave it out"
            elif is_secret_name(name) and value is not None:
                fault = "is a secret, and this file is none; leave it to the run"
            elif name in ONLY_THE_RUNS and value is not False:
                fault = "is for whoever starts a run to turn on; a label may only turn it off"
            elif field == "defaults" and name in table.get("fixed", {}):
                fault = "is in fixed too; keep one"
            if fault:
                yield (*path, field, name), f"label '{path[1]}': {field}: {name} {fault}"


def _gate_faults(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[Any, str]]:
    for text in table.get("gates", []):
        try:
            gate = parse_gate(text)
        except ValueError as error:
            yield (*path, "gates"), f"label '{path[1]}': gates: {error}"
            continue
        if gate.baseline and not table.get("baseline"):
            yield (
                (*path, "gates"),
                f"label '{path[1]}': gates: '{text}' needs a baseline; set baseline to a run's id or folder",
            )


def _unknown_groups(used: Any, groups: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[Any, str]]:
    for group in used if isinstance(used, list) else ():
        if isinstance(group, str) and group not in groups:
            told = f"{did_you_mean(group, groups)} Groups: {listed(list(groups))}"
            yield path, f"{path[-1]}: there is no group '{group}'.{told}"


def _group_faults(groups: Mapping[str, Any]) -> Iterator[tuple[Any, str]]:
    for name, members in groups.items():
        if not isinstance(members, list) or not all(isinstance(member, str) for member in members):
            yield ("groups", name), f"group '{name}': expected a list of names, found {members!r}"
