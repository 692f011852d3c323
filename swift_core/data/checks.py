"""Checks rows against the columns that a task declares, or against one of its layouts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from swift_core.data.class_names import named
from swift_core.data.faults import Faults
from swift_core.data.layouts import Bound, Form, forms_of, recognised
from swift_core.data.values import EXPECTED, checked, parsed
from swift_core.errors import did_you_mean, listed
from swift_core.spec import TaskSpec

_NAMES_SHOWN = 20
_NAMES_KEPT = 1000


class RowChecker:
    """Checks the rows of one data set, input after input, and collects what is wrong with them.

    Call :meth:`check` for each row of an input, :meth:`end_input` after each input, :meth:`end` at the end.
    The first row of an input tells which of the task's layouts its rows have.

    Attributes:
        class_names: by column, the classes that the data names, see :mod:`swift_core.data.class_names`.
    """

    def __init__(self, spec: TaskSpec, columns: Mapping[str, str], faults: Faults) -> None:
        """``columns`` maps columns of the task to names in the data; its wrong keys become faults."""
        self.class_names: dict[str, dict[str, None]] = {}
        self._faults = faults
        self._forms = forms_of(spec, columns)
        self._plain_forms = forms_of(spec, {})
        self._form: Form | None = None
        self._found: dict[str, None] = {}
        self._found_before: dict[str, None] = {}
        self._inputs = 0
        known = list(dict.fromkeys(bound.column.name for form in self._forms for bound in form.bound))
        for name in columns:
            if name not in known:
                faults.add(
                    f"columns: task type '{spec.name}' has no column '{name}'; its columns are "
                    f"{listed(known)}.{did_you_mean(name, known)}"
                )

    def check(
        self, where: str, row: Mapping[str, Any], *, untyped: bool, own_names: bool = False
    ) -> dict[str, Any]:
        """Return the task's columns of ``row``, as they are stored; None for what is absent or wrong.

        ``own_names``: the row comes from a reader of the task, which knows no other names for its columns.
        """
        if len(self._found) < _NAMES_KEPT and not self._found.keys() >= row.keys():
            self._found.update((str(key), None) for key in row)
        forms = self._plain_forms if own_names else self._forms
        form = self._form = self._form or recognised(forms, row)
        faults_before = self._faults.total
        values = {bound.column.name: self._value(bound, where, row, untyped) for bound in form.bound}
        if self._faults.total > faults_before:
            return {}
        try:
            return form.row(values)
        except ValueError as error:
            self._faults.add(f"{where}: {error}")
            return {}

    def _value(self, bound: Bound, where: str, row: Mapping[str, Any], untyped: bool) -> Any:
        column = bound.column
        if bound.key.endswith("*"):
            return self._values(bound, where, row)
        value = row.get(bound.key)
        if value is None:
            if bound.key not in row:
                self._note_absent(bound, where, row)
            elif column.required:
                found = "an empty cell" if untyped else "null"
                self._faults.add(f"{where}: {bound.label}: expected {EXPECTED[column.type]}, found {found}")
            return None
        if column.type in ("label", "any"):
            value = named(value, self.class_names.setdefault(column.name, {}))
        try:
            return checked(parsed(value, column.type) if untyped else value, column.type)
        except ValueError as error:
            self._faults.add(f"{where}: {bound.label}: {error}")
            return None

    def _values(self, bound: Bound, where: str, row: Mapping[str, Any]) -> list[str]:
        texts = []
        for key in bound.matching(map(str, row)):
            try:
                # Ragged data has empty cells where a row has fewer of them than others.
                texts += [] if row[key] is None else [checked(row[key], "text")]
            except ValueError as error:
                self._faults.add(f"{where}: column '{key}': {error}")
        return texts

    def _note_absent(self, bound: Bound, where: str, row: Mapping[str, Any]) -> None:
        bound.absent += 1
        if bound.column.required:
            guess = did_you_mean(bound.key, map(str, row))
            self._faults.add(
                f"{where}: {bound.label} is missing; expected {EXPECTED[bound.column.type]}"
                + (f".{guess}" if guess else ""),
                group=(bound.column.name, self._inputs),
            )

    def end_input(self, name: str, rows: int) -> str | None:
        """Say once, not for each row, which required columns none of the ``rows`` of input ``name`` had.

        Returns:
            The name of the layout that the input was read in; None for the task's first.
        """
        form, self._form = self._form, None
        if form is None:
            return None
        form.inputs += 1
        for bound in form.bound:
            if bound.absent == rows:
                bound.lacking_inputs += 1
                if bound.column.required:
                    self._faults.withdraw((bound.column.name, self._inputs))
                    sentence = self._lacking(bound, form, list(self._found))
                    self._faults.add(f"{name}: {sentence}", group=bound.column.name, first=True)
            bound.absent = 0
        self._found_before.update(self._found)
        self._found = {}
        self._inputs += 1
        return None if form in (self._forms[0], self._plain_forms[0]) else form.layout.name

    def end(self, name: str) -> None:
        """Say once, not for each input, what all of them lack; ``name`` is that of the data set."""
        for form in self._forms:
            for bound in form.bound:
                in_no_input = form.inputs > 0 and bound.lacking_inputs == form.inputs
                said = bound.column.required and form.inputs == 1
                if in_no_input and not said and (bound.column.required or bound.mapped):
                    self._faults.withdraw(bound.column.name)
                    sentence = self._lacking(bound, form, list(self._found_before))
                    self._faults.add(f"{name} data: {sentence}", first=True)
        # One mapping serves both; evaluation data may be of another layout.
        if name == "train":
            self._tell_unused_mappings(name)

    def _tell_unused_mappings(self, name: str) -> None:
        used = [form for form in self._forms if form.inputs]
        in_use = {bound.column.name for form in used for bound in form.bound}
        mapped = {b.column.name: b.key for form in self._forms for b in form.bound if b.mapped}
        for column, key in mapped.items():
            if used and column not in in_use:
                read_as = listed([form.layout.name for form in used])
                self._faults.add(
                    f"columns: {{{column}: {key}}} has no effect: the {name} data was read as {read_as}, "
                    f"which has no column '{column}'"
                )

    def _lacking(self, bound: Bound, form: Form, found: list[str]) -> str:
        others = [other.layout for other in self._forms if other is not form]
        sentence = _lacking(bound, found, form.bound)
        if not others or bound is not next((b for b in form.required if not b.is_in(found)), None):
            return sentence
        shown = "; ".join(
            f"{layout.name} ({', '.join(c.name for c in layout.columns if c.required)})" for layout in others
        )
        return f"{sentence}. Read as {form.layout.name}; other layouts: {shown}"


def _lacking(bound: Bound, found: list[str], all_bound: list[Bound]) -> str:
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
