"""Where things stand in a TOML text. ``tomllib`` tells values but no lines, and can't write.

A line-wise reading that asks ``tomllib`` whether the lines so far are whole: a header, or a key with its
value over however many lines, is TOML on its own.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Statement:
    """A header or a key with its value.

    Attributes:
        first: index of its first line, from 0.
        end: index of the line after its last one.
        table: path of the table that it opens, or that its key belongs to.
        value: None for a header, else the key's value inside its mapping.
    """

    first: int
    end: int
    table: tuple[str, ...]
    value: Mapping[str, Any] | None


def split_lines(text: str) -> list[str]:
    """The lines with their ends. In TOML LF and CRLF end a line; ``str.splitlines`` knows many more."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def end_of_line(text: str) -> str:
    """How the first line of ``text`` ends: LF, CRLF, or an empty string where the text ends with it."""
    line, end, _ = text.partition("\n")
    return f"\r{end}" if end and line.endswith("\r") else end


def statements(text: str) -> Iterator[Statement]:
    """The statements of a text that ``tomllib`` reads, in their order; comments and blank lines are none."""
    lines = split_lines(text)
    table: tuple[str, ...] = ()
    first = 0
    for end in range(1, len(lines) + 1):
        try:
            value = tomllib.loads("".join(lines[first:end]))
        except tomllib.TOMLDecodeError:
            continue
        if value and lines[first].lstrip().startswith("["):
            table = _only_path(value)
            yield Statement(first, end, table, None)
        elif value:
            yield Statement(first, end, table, value)
        first = end


def _only_path(value: Any) -> tuple[str, ...]:
    path: list[str] = []
    while value:
        # The header of an array of tables holds a list with one table.
        value = value[0] if isinstance(value, list) else value
        if not value:
            break
        ((name, value),) = value.items()
        path.append(name)
    return tuple(path)


def line_numbers(text: str) -> dict[tuple[str, ...], int]:
    """The line, from 1, of each table and key; those inside a value have the line of the value."""
    found: dict[tuple[str, ...], int] = {}
    for statement in statements(text):
        paths = [statement.table] if statement.value is None else _paths(statement.table, statement.value)
        for path in paths:
            found.setdefault(path, statement.first + 1)
    return found


def _paths(table: tuple[str, ...], value: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for name, inner in value.items():
        yield (*table, name)
        if isinstance(inner, dict):
            yield from _paths((*table, name), inner)
