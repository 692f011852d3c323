"""Classes that a data set names: a ``datasets.ClassLabel`` has ids in the rows and the names beside them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import datasets


class ClassId(int):
    """An id as a row has it: a number to those who want numbers, and a name to those who want classes.

    Attributes:
        names: of all classes, in the order of their ids.
    """

    names: tuple[str, ...]

    @property
    def name(self) -> str | int:
        """That of its class; the number where none has it, as -1 in test data without labels."""
        return self.names[self] if 0 <= self < len(self.names) else int(self)


def names_in(features: datasets.Features) -> dict[str, tuple[str, ...]]:
    """The names of the classes in each column that has ids of them, or lists of ids."""
    found = {column: _class_label(feature) for column, feature in features.items()}
    return {column: tuple(label.names) for column, label in found.items() if label is not None}


def _class_label(feature: Any) -> datasets.ClassLabel | None:
    inner = feature.feature if isinstance(feature, datasets.List | datasets.LargeList) else feature
    return inner if isinstance(inner, datasets.ClassLabel) else None


def with_class_ids(
    rows: Iterable[dict[str, Any]], names: Mapping[str, tuple[str, ...]]
) -> Iterator[dict[str, Any]]:
    """The rows, with a :class:`ClassId` for each number in the columns that ``names`` has."""
    for row in rows:
        yield {**row, **{column: _as_ids(row.get(column), names[column]) for column in names}}


def _as_ids(value: Any, names: tuple[str, ...]) -> Any:
    if isinstance(value, list):
        return [_as_ids(item, names) for item in value]
    if value is None:
        return None
    made = ClassId(value)
    made.names = names
    return made


def named(value: Any, names: dict[str, None]) -> Any:
    """``value`` with names in place of ids; all that are declared with them are added to ``names``."""
    if isinstance(value, list):
        return [named(item, names) for item in value]
    if not isinstance(value, ClassId):
        return value
    if value.name not in names:
        names.update(dict.fromkeys(value.names))
    return value.name
