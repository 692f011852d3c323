"""How a check ends when it does not pass."""

from __future__ import annotations

from swift_core.errors import SwiftError


class ConformanceError(SwiftError):
    """A task type does not keep a promise.

    Attributes:
        expected: what a task type promises.
        found: what this one does.
        remedy: what its author can do.
    """

    def __init__(self, *, expected: str, found: str, remedy: str) -> None:
        self.expected = expected
        self.found = found
        self.remedy = remedy
        super().__init__(f"expected {expected}; found {found}; {remedy}")


class NotApplicable(Exception):
    """A check says nothing about this task type; the message tells why."""
