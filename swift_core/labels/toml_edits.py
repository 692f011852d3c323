"""Edits of a TOML text that leave every other byte as it is: a value of a table, the name of a table.

What comes out is read again: it says what the text said before, but for what was meant to change.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from swift_core.errors import UserError
from swift_core.labels.toml_lines import Statement, end_of_line, split_lines, statements

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_KEY = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*')"""
_INVISIBLE = re.compile(r"[\x7f-\x9f\u2028\u2029]")
"""What JSON leaves alone, and TOML forbids or a review would show as nothing or as a new line."""


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
    lines = split_lines(text)
    if own:
        last = lines[own[0].end - 1]
        lines[own[0].first : own[0].end] = [
            f"{key} = {toml(value)}{_comment(lines, own[0])}{end_of_line(last)}"
        ]
    else:
        before = lines[found[-1].end - 1]
        end = end_of_line(before) or end_of_line(text) or "\n"
        lines[found[-1].end - 1] = f"{_body(before)}{end}"
        lines.insert(found[-1].end, f"{key} = {toml(value)}{end}")
    changed = "".join(lines)
    wanted = tomllib.loads(text)
    _inner(wanted, table)[key] = value
    if not _says(changed, wanted):
        raise UserError(f"{place}: {dotted}.{key} can't be changed without changing more; set it by hand")
    return changed


def with_table_renamed(text: str, table: tuple[str, ...], name: str, place: str) -> str:
    """``text`` with the last name of ``[table]``, and of the tables in it, changed to ``name``.

    Raises:
        UserError: the table is written in a form that this can't change.
    """
    *above, old = table
    lines = split_lines(text)
    head = re.compile(rf"(\s*\[+\s*(?:{_KEY}\s*\.\s*){{{len(above)}}}){_KEY}")
    for entry in statements(text):
        if entry.value is None and entry.table[: len(table)] == table:
            lines[entry.first] = head.sub(rf"\g<1>{_key(name)}", lines[entry.first], count=1)
    changed = "".join(lines)
    wanted = tomllib.loads(text)
    around = _inner(wanted, above)
    around[name] = around.pop(old)
    if not _says(changed, wanted):
        raise UserError(
            f"{place}: expected a table [{'.'.join(table)}], found it written otherwise; change its name to "
            f"{name} by hand"
        )
    return changed


def _comment(lines: Sequence[str], entry: Statement) -> str:
    """The comment behind the value, with the space before it."""
    line = _body(lines[entry.end - 1])
    before = "".join(lines[entry.first : entry.end - 1])
    for place in (match.start() for match in re.finditer(r"\s*#", line)):
        try:
            if tomllib.loads(f"{before}{line[:place]}") == entry.value:
                return line[place:]
        except tomllib.TOMLDecodeError:
            continue
    return ""


def _body(line: str) -> str:
    return line.removesuffix(end_of_line(line))


def _inner(content: dict[str, Any], table: Sequence[str]) -> dict[str, Any]:
    for name in table:
        content = content[name]
    return content


def _says(changed: str, wanted: Mapping[str, Any]) -> bool:
    try:
        return tomllib.loads(changed) == wanted
    except tomllib.TOMLDecodeError:
        return False


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
            # JSON's escapes are TOML's.
            escaped = json.dumps(value, ensure_ascii=False)
            return _INVISIBLE.sub(lambda found: f"\\u{ord(found[0]):04x}", escaped)
        case list() | tuple():
            return f"[{', '.join(map(toml, value))}]"
        case Mapping():
            return f"{{ {', '.join(f'{_key(name)} = {toml(inner)}' for name, inner in value.items())} }}"
    raise TypeError(f"{value!r} is no value of TOML")


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else toml(name)
