"""Where each row of a data set was found, held in a few numbers for a whole file."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable

_LAST_NUMBER = re.compile(r"(.*?)(0|[1-9][0-9]{0,17})([^0-9]*)", re.DOTALL)


class Places:
    """Places such as ``train.jsonl:17``, one a row, in the order of the rows.

    Neighbours whose places differ by one in their last number are kept together, so a file costs as much as
    the gaps in it.
    """

    def __init__(self, places: Iterable[str] = ()) -> None:
        self._rows = 0
        self._starts: list[int] = []
        self._runs: list[tuple[str, int | None, str]] = []
        for place in places:
            self.add(place)

    def add(self, place: str) -> None:
        """Say where the next row is."""
        match = _LAST_NUMBER.fullmatch(place)
        run = (match[1], int(match[2]), match[3]) if match else (place, None, "")
        if not self._goes_on(run):
            self._starts.append(self._rows)
            self._runs.append(run)
        self._rows += 1

    def _goes_on(self, run: tuple[str, int | None, str]) -> bool:
        if not self._runs:
            return False
        before, number, after = self._runs[-1]
        if number is None or run[1] is None:
            return False
        return run == (before, number + self._rows - self._starts[-1], after)

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, row: int) -> str:
        """Where a row is, counted from 0."""
        if not 0 <= row < self._rows:
            raise IndexError(f"row {row} of {self._rows}")
        at = bisect_right(self._starts, row) - 1
        before, number, after = self._runs[at]
        return before if number is None else f"{before}{number + row - self._starts[at]}{after}"

    def select(self, rows: Iterable[int]) -> Places:
        """The places of some rows, in their order."""
        return Places(self[row] for row in rows)
