"""Judges for the tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def length(prompt: Any, answer: str, row: Mapping[str, Any]) -> float:
    """The longer, the better."""
    return float(len(answer))


def wanted(prompt: Any, a: str, b: str, row: Mapping[str, Any]) -> float:
    """The answer that holds the word of the row."""
    return (row["word"] in a) - (row["word"] in b)


def first(prompt: Any, a: str, b: str, row: Mapping[str, Any]) -> float:
    """Always the first: what an unfair judge does."""
    return 1.0


def nothing(prompt: Any, answer: str, row: Mapping[str, Any]) -> float:
    """No number."""
    return float("nan")


def broken(prompt: Any, answer: str, row: Mapping[str, Any]) -> float:
    """A mistake."""
    return float(row["missing"])


def two(prompt: Any, answer: str) -> float:
    """Of neither kind."""
    return 0.0
