"""Rows that a task turns into other rows, all at once: those of one query into one list, say."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

import datasets

from swift_core.data.layouts import load_function
from swift_core.data.values import described
from swift_core.errors import PluginError, listed
from swift_core.spec import TaskSpec

if TYPE_CHECKING:
    from swift_core.data.dataset import TaskData


def gathered(data: TaskData, spec: TaskSpec) -> TaskData:
    """Return ``data`` with what ``spec.gather`` makes of its rows.

    That function takes the checked rows, a ``datasets.Dataset``, and returns a Dataset with the same columns
    and a line of text that tells what was done, or None. Where nothing is to be done it returns the Dataset
    that it was given. It may raise a UserError. It sees the rows before a part is held out and before they
    are encoded, and every row once.

    Raises:
        PluginError: the function can't be loaded, or returns something else.
        UserError: the function refuses the rows.
    """
    if spec.gather is None:
        return data
    returned = load_function(spec.gather, spec)(data.records)
    fault = _fault(returned, data.records)
    if fault is not None:
        raise PluginError(f"task type '{spec.name}': {spec.gather} {fault}")
    records, told = returned
    if records is data.records:
        return replace(data, gathered=told)
    fingerprint = hashlib.sha256(f"{data.fingerprint} {spec.gather}".encode()).hexdigest()
    return replace(data, records=records, fingerprint=fingerprint, gathered=told, places=None)


def _fault(returned: object, records: datasets.Dataset) -> str | None:
    """What is wrong with a value that ``gather`` returned, as the end of a sentence."""
    if not isinstance(returned, tuple) or len(returned) != 2 or not isinstance(returned[0], datasets.Dataset):
        return f"must return a datasets.Dataset and a text or None, found {described(returned)}"
    made, told = returned
    if told is not None and not isinstance(told, str):
        return f"must tell what it did in a text, or None, found {described(told)}"
    if made.features != records.features:
        return (
            f"must keep the columns and their types, expected {listed(_typed(records))}, "
            f"found {listed(_typed(made))}"
        )
    return None if len(made) or not len(records) else "must return rows, found none"


def _typed(rows: datasets.Dataset) -> list[str]:
    return [f"{name}: {field.type}" for name, field in zip(rows.column_names, rows.data.schema, strict=True)]
