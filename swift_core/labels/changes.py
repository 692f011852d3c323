"""Changes of a labels file as a reviewer wants them: the lines that must change, and no others.

Everything else, comments and order included, stays as it is. What comes out is read again and compared with
what was meant before anybody writes it.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from swift_core.errors import UserError
from swift_core.labels.definitions import Labels
from swift_core.labels.names import name_fault
from swift_core.labels.reading import read_labels
from swift_core.labels.toml_lines import Statement, statements

_BARE = re.compile(r"[A-Za-z0-9_-]+")
NEW_FILE = """\
# Labels of this project; `swift labels check` reads this file.

[policy]
mode = "warn"  # off, warn or enforce

[groups]
"""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A label that somebody proposes."""

    name: str
    extends: str
    why: str
    by: str
    when: date
    description: str = ""
    owners: Sequence[str] = ()
    gates: Sequence[str] = ()


def proposed(labels: Labels, proposal: Proposal) -> str:
    """The text of the file with the proposed label at its end.

    Raises:
        UserError: there is such a label, or this can't be one.
    """
    name = proposal.name
    taken = labels.named(name)
    if taken is not None:
        where = labels.at("labels", taken.name)
        former = "" if taken.name == name else f", which is called '{taken.name}' now"
        raise UserError(
            f"{where}: there is a label '{name}'{former}; change it there, or choose another name"
        )
    fault = name_fault(name, labels.policy.allowed_names)
    if fault:
        raise UserError(f"NAME: {fault}")
    fields: dict[str, Any] = {
        "extends": proposal.extends,
        "description": proposal.description,
        "status": "proposed",
        "owners": list(proposal.owners),
        "gates": list(proposal.gates),
        "proposal": {"by": proposal.by, "when": proposal.when, "why": proposal.why},
    }
    lines = [f"[labels.{name}]", *(f"{key} = {toml(value)}" for key, value in fields.items() if value)]
    text = labels.text.rstrip("\n")
    gap = "\n\n" if text else ""
    return checked(f"{text}{gap}" + "\n".join(lines) + "\n", labels)


def approved(labels: Labels, name: str, *, by: str, when: date, why: str) -> str:
    """The text of the file with the label approved.

    Raises:
        UserError: there is no such label, it is approved, or ``by`` may not approve.
    """
    label = labels.labels.get(name)
    if label is None:
        raise UserError(
            f"{labels.place}: there is no label '{name}'; labels: {', '.join(labels.labels) or 'none'}"
        )
    if label.status == "approved" and label.approval is not None:
        told = f"by {label.approval.by} on {label.approval.when}"
        raise UserError(f"{labels.at('labels', name)}: label '{name}' is approved already, {told}")
    approvers = labels.members_of(labels.policy.approvers)
    if labels.policy.approvers and by not in approvers:
        raise UserError(
            f"{labels.at('policy', 'approvers')}: labels are approved by "
            f"{', '.join(approvers) or 'nobody'}, and you "
            f"are {by!r}"
        )
    text = with_value(labels.text, ("labels", name), "status", "approved", labels.place)
    text = with_value(text, ("labels", name), "approval", {"by": by, "when": when, "why": why}, labels.place)
    return checked(text, labels)


def checked(text: str, labels: Labels) -> str:
    """``text``, if it is a labels file without a fault.

    Raises:
        UserError: it is none.
    """
    read_labels(text, place=labels.place)
    return text


def diff(before: str, after: str, place: str) -> str:
    """What changed, as a unified diff."""
    lines = difflib.unified_diff(
        before.splitlines(keepends=True), after.splitlines(keepends=True), f"a/{place}", f"b/{place}"
    )
    return "".join(
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines
    )


def with_value(text: str, table: tuple[str, ...], key: str, value: Any, place: str) -> str:
    """``text`` with ``key = value`` in ``[table]``: its line is changed, or a line is added to the table.

    Raises:
        UserError: the table or the key is written in a form that this can't change.
    """
    found = [entry for entry in statements(text) if entry.table == table]
    header = next((entry for entry in found if entry.value is None), None)
    own = [entry for entry in found if entry.value is not None and key in entry.value]
    dotted = ".".join(table)
    if (
        header is None
        or len(own) > 1
        or any(entry.table[: len(table) + 1] == (*table, key) for entry in statements(text))
    ):
        raise UserError(
            f"{place}: expected a table [{dotted}] with {key} in one line, found it written "
            f"otherwise; set {key} = "
            f"{toml(value)} by hand"
        )
    lines = text.splitlines()
    if own:
        lines[own[0].first : own[0].end] = [f"{key} = {toml(value)}{_comment(lines, own[0])}"]
    else:
        lines.insert(found[-1].end, f"{key} = {toml(value)}")
    changed = "\n".join(lines) + "\n"
    if not _says(tomllib.loads(changed), tomllib.loads(text), table, key, value):
        raise UserError(f"{place}: {dotted}.{key} can't be changed without changing more; set it by hand")
    return changed


def _comment(lines: Sequence[str], entry: Statement) -> str:
    """The comment behind the value, with the space before it."""
    line = lines[entry.end - 1]
    before = "\n".join(lines[entry.first : entry.end - 1])
    for place in (match.start() for match in re.finditer(r"\s*#", line)):
        try:
            if tomllib.loads(f"{before}\n{line[:place]}") == entry.value:
                return line[place:]
        except tomllib.TOMLDecodeError:
            continue
    return ""


def _says(after: dict[str, Any], before: dict[str, Any], table: Sequence[str], key: str, value: Any) -> bool:
    """Whether the one text says what the other does but for this value."""
    inner: Any = before
    for name in table:
        inner = inner[name]
    inner[key] = value
    return after == before


def toml(value: Any) -> str:
    """A value as TOML in one line.

    Raises:
        TypeError: TOML has no such value here.
    """
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return repr(value)
        case date():
            return value.isoformat()
        case str():
            # JSON's escapes are TOML's, but for the one character that JSON leaves alone.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case list() | tuple():
            return f"[{', '.join(map(toml, value))}]"
        case Mapping():
            return f"{{ {', '.join(f'{_key(name)} = {toml(inner)}' for name, inner in value.items())} }}"
    raise TypeError(f"{value!r} is no value of TOML")


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else json.dumps(name, ensure_ascii=False)
