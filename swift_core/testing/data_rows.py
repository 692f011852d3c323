"""Checks that a row which can't be used is named, with its column."""

from __future__ import annotations

import json
import re
from typing import Any

from swift_core.errors import UserError
from swift_core.spec import Column, Layout
from swift_core.testing.outcomes import ConformanceError
from swift_core.testing.subject import Row, Subject

_NEVER_RIGHT = {"an object": ["where", "another", {"type": "is expected"}]}
_PUT = 1
"""Where the bad row stands: the first says which layout the rows have."""
_PLACE = re.compile(rf"\brow {_PUT + 1}\b|:{_PUT + 1}: |\bgathered row \d")
"""How a sentence says where the bad row is; rows that a task gathered have numbers of their own."""


def bad_rows_are_named(subject: Subject) -> None:
    """Each column of the example rows is left out of one row, or has a value of a wrong type in it.

    What the author declares as ``bad_rows`` is tried as well.
    """
    good = subject.rows[_PUT]
    for column in _columns_in(subject, good):
        without = {name: value for name, value in good.items() if name != column.name}
        _try(subject, without, column.name, f"a row without '{column.name}'", must_fail=column.required)
        _try(
            subject,
            {**good, column.name: _NEVER_RIGHT},
            column.name,
            f"a row whose '{column.name}' is {json.dumps(_NEVER_RIGHT)}",
            must_fail=column.type != "any",
        )
    for row, name in subject.bad_rows:
        _try(subject, row, name, f"the row {json.dumps(row, ensure_ascii=False)}", must_fail=True)


def _columns_in(subject: Subject, row: Row) -> list[Column]:
    forms = subject.spec.layouts or (Layout(name="", columns=subject.spec.columns),)
    fitting = [form for form in forms if all(c.name in row for c in form.columns if c.required)]
    columns = fitting[0].columns if fitting else subject.spec.columns
    return [column for column in columns if column.name in row]


def _try(subject: Subject, bad: Row, column: str, what: str, *, must_fail: bool) -> None:
    told = _told(subject, [*subject.rows[:_PUT], bad, *subject.rows[_PUT + 1 :]])
    if isinstance(told, Exception):
        raise ConformanceError(
            expected=f"{what} refused with its number and the column",
            found=f"{type(told).__name__}: {told}",
            remedy=f"in `encode`, raise ValueError('{column}: expected ..., found ...')",
        ) from told
    if told is None:
        if not must_fail:
            return
        raise ConformanceError(
            expected=f"{what} refused before training",
            found="no fault told",
            remedy=f"declare the column's type and `required`, or raise a ValueError in `encode` ({column})",
        )
    names = _names_row_and_column if must_fail else _mentions
    if not any(names(line, column) for line in told.split("\n")):
        raise ConformanceError(
            expected=f"{what} refused with its number and the column '{column}'",
            found=told.split("\n")[0],
            remedy="start the ValueError with the column's name, and raise it for the row alone",
        )


def _names_row_and_column(told: str, column: str) -> bool:
    """Whether a sentence has the number of the row, and the column quoted or at a start.

    Elsewhere the name may be another word: the type of a column, say, in ``expected a text``.
    """
    name = re.escape(column)
    return bool(_PLACE.search(told) and re.search(rf"'{name}'|(^|: ){name}(?!\w)", told))


def _mentions(told: str, column: str) -> bool:
    """Enough for an optional column, which may be wanted in all rows or in none: no fault of one row."""
    return bool(re.search(rf"(?<!\w){re.escape(column)}(?!\w)", told))


def _told(subject: Subject, rows: list[Any]) -> str | Exception | None:
    """What is said about ``rows``: a sentence, None for no fault, or what should not have been raised."""
    from swift_core.preparation import prepare_task

    args = subject.arguments().replace(dataset=None, eval_dataset=None)
    try:
        prepare_task(args, train_dataset=rows)
    except UserError as error:
        return str(error)
    except Exception as error:  # anything that a plugin may let through
        return error
    return None
