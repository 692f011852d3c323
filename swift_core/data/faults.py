"""Faults found while data is read: all are counted, the first are told."""

from __future__ import annotations

from collections.abc import Hashable

from swift_core.errors import UserError

LISTED_FAULTS = 20


class Faults:
    """Collects sentences about mistakes in the data; memory stays bounded however many there are.

    A fault may belong to a group, which can be withdrawn as a whole when one sentence says it better.
    """

    def __init__(self) -> None:
        self.total = 0
        self._listed: dict[Hashable, list[tuple[int, str]]] = {}
        self._counts: dict[Hashable, int] = {}

    def add(self, sentence: str, *, group: Hashable = None, first: bool = False) -> None:
        """Count a fault; ``first`` puts it before those found so far."""
        self.total += 1
        self._counts[group] = self._counts.get(group, 0) + 1
        listed = self._listed.setdefault(group, [])
        if first or len(listed) < LISTED_FAULTS:
            listed.append((-1 if first else self.total, sentence))

    def withdraw(self, group: Hashable) -> None:
        """Forget every fault of ``group``."""
        self.total -= self._counts.pop(group, 0)
        self._listed.pop(group, None)

    def raise_if_any(self) -> None:
        """Tell the first 20 faults and the number of all.

        Raises:
            UserError: there is a fault.
        """
        if self.total:
            raise self.error()

    def error(self, kind: type[UserError] = UserError) -> UserError:
        """What tells the first 20 faults, and the number of all."""
        entries = [entry for listed in self._listed.values() for entry in listed]
        ordered = sorted(entries, key=lambda entry: entry[0])
        return kind(*(sentence for _, sentence in ordered[:LISTED_FAULTS]), total=self.total)
