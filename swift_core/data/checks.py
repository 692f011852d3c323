"""Checks rows against the columns that a task declares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from swift_core.data.faults import Faults
from swift_core.data.values import EXPECTED, checked, parsed
from swift_core.errors import did_you_mean, listed
from swift_core.spec import Column, TaskSpec

_NAMES_SHOWN = 20
_NAMES_KEPT = 1000


@dataclass
class _Bound:
    """A column of the task, and where it is in the data.

    ``absent`` counts the rows of the input being read that lack it, ``lacking_inputs`` the inputs without it.
    """

    column: Column
    key: str
    mapped: bool
    absent: int = 0
    lacking_inputs: int = 0

    @property
    def label(self) -> str:
        alias = "" if self.key == self.column.name else f" (as '{self.column.name}')"
        return f"column '{self.key}'{alias}"


class RowChecker:
    """Checks the rows of one data set, input after input, and collects what is wrong with them.

    Call :meth:`check` for each row of an input, :meth:`end_input` after each input, :meth:`end` at the end.
    """

    def __init__(self, spec: TaskSpec, columns: Mapping[str, str], faults: Faults) -> None:
        """``columns`` maps columns of the task to names in the data; its wrong keys become faults."""
        self._faults = faults
        self._bound = [
            _Bound(column, columns.get(column.name, column.name), column.name in columns)
            for column in spec.columns
        ]
        self._found: dict[str, None] = {}
        self._found_before: dict[str, None] = {}
        self._inputs = 0
        known = [column.name for column in spec.columns]
        for name in columns:
            if name not in known:
                faults.add(
                    f"columns: task type '{spec.name}' has no column '{name}'; its columns are "
                    f"{listed(known)}.{did_you_mean(name, known)}"
                )

    def check(self, where: str, row: Mapping[str, Any], *, untyped: bool) -> dict[str, Any]:
        """Return the task's columns of ``row``, as they are stored; None for what is absent or wrong."""
        if len(self._found) < _NAMES_KEPT and not self._found.keys() >= row.keys():
            self._found.update((str(key), None) for key in row)
        return {bound.column.name: self._value(bound, where, row, untyped) for bound in self._bound}

    def _value(self, bound: _Bound, where: str, row: Mapping[str, Any], untyped: bool) -> Any:
        column = bound.column
        value = row.get(bound.key)
        if value is None:
            if bound.key not in row:
                self._note_absent(bound, where, row)
            elif column.required:
                found = "an empty cell" if untyped else "null"
                self._faults.add(f"{where}: {bound.label}: expected {EXPECTED[column.type]}, found {found}")
            return None
        try:
            return checked(parsed(value, column.type) if untyped else value, column.type)
        except ValueError as error:
            self._faults.add(f"{where}: {bound.label}: {error}")
            return None

    def _note_absent(self, bound: _Bound, where: str, row: Mapping[str, Any]) -> None:
        bound.absent += 1
        if bound.column.required:
            guess = did_you_mean(bound.key, map(str, row))
            self._faults.add(
                f"{where}: {bound.label} is missing; expected {EXPECTED[bound.column.type]}"
                + (f".{guess}" if guess else ""),
                group=(bound.column.name, self._inputs),
            )

    def end_input(self, name: str, rows: int) -> None:
        """Say once, not for each row, which required columns none of the ``rows`` of input ``name`` had."""
        if not rows:
            return
        for bound in self._bound:
            if bound.absent == rows:
                bound.lacking_inputs += 1
                if bound.column.required:
                    self._faults.withdraw((bound.column.name, self._inputs))
                    sentence = _lacking(bound, list(self._found), self._bound)
                    self._faults.add(f"{name}: {sentence}", group=bound.column.name, first=True)
            bound.absent = 0
        self._found_before.update(self._found)
        self._found = {}
        self._inputs += 1

    def end(self, name: str) -> None:
        """Say once, not for each input, what all of them lack; ``name`` is that of the data set."""
        for bound in self._bound:
            in_no_input = self._inputs > 0 and bound.lacking_inputs == self._inputs
            said = bound.column.required and self._inputs == 1
            if in_no_input and not said and (bound.column.required or bound.mapped):
                self._faults.withdraw(bound.column.name)
                sentence = _lacking(bound, list(self._found_before), self._bound)
                self._faults.add(f"{name} data: {sentence}", first=True)


def _lacking(bound: _Bound, found: list[str], all_bound: list[_Bound]) -> str:
    names = listed(found[:_NAMES_SHOWN]) + (", ..." if len(found) > _NAMES_SHOWN else "")
    guess = did_you_mean(bound.key, found)
    if bound.mapped:
        mapping = f"columns: {{{bound.column.name}: {bound.key}}}"
        sentence = f"no row has a column '{bound.key}', which {mapping} names; columns found: {names}"
        return sentence + (f".{guess}" if guess else "")
    free = [key for key in found if key not in {other.key for other in all_bound}]
    needed = [other.key for other in all_bound if other.column.required and other.key not in found]
    # Without a similar name, a different example for each column.
    any_name = (free[needed.index(bound.key) :] or ["NAME"])[0]
    example = guess.split("'")[1] if guess else any_name
    return (
        f"no row has the column '{bound.key}' ({EXPECTED[bound.column.type]}); columns found: {names}."
        f"{guess} Tell its name in the data, such as columns: {{{bound.column.name}: {example}}}"
    )
