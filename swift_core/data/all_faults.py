"""Faults of several data sets, of several looks at one, or of other checks, told at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeVar

from swift_core.data.dataset import RefusedRows, TaskData
from swift_core.errors import UserError

_T = TypeVar("_T")
_SOUND_ROWS = 1000
"""So many rows are encoded to look for more faults; the others wait until those found are mended."""


def all_of(works: Iterable[Callable[[], _T]]) -> list[_T]:
    """Do all of ``works``, and return what they give.

    Raises:
        UserError: at least one failed; what one of them says by itself, or what all that failed say.
    """
    made, errors = [], []
    for work in works:
        try:
            made.append(work())
        except UserError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise _joined(errors) from _cause(errors)
    return made


def _joined(errors: list[UserError]) -> UserError:
    faults = [fault for error in errors for fault in error.faults]
    told = list(dict.fromkeys(faults))
    # The kind that several share, such as a mistake of a package.
    kind = type(errors[0]) if len({type(error) for error in errors}) == 1 else UserError
    kind = UserError if issubclass(kind, RefusedRows) else kind
    return kind(*told, total=sum(error.total for error in errors) - len(faults) + len(told))


def _cause(errors: list[UserError]) -> BaseException:
    """What a package raised, which its author wants to see, if it was any of them."""
    return next((error.__cause__ for error in errors if error.__cause__ is not None), errors[0])


def with_faults_of_sound_rows(load: Callable[[], TaskData], encode: Callable[[TaskData], object]) -> TaskData:
    """Return what ``load`` gives; where it refuses rows, look whether ``encode`` would refuse others too.

    Raises:
        UserError: what both say.
    """
    try:
        return load()
    except RefusedRows as error:
        rows = min(len(error.sound.records), _SOUND_ROWS)
        if not rows:
            raise
        first = replace(error.sound, records=error.sound.records.select(range(rows)))
        try:
            encode(first)
        except UserError as refused:
            both = [error, refused]
            raise _joined(both) from _cause(both)
        raise
