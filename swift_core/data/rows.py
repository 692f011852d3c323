"""What a reader of data hands on: rows, each with the place where a person finds it."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Protocol

import numpy as np

from swift_core.data.faults import Faults

Row = tuple[str, Mapping[str, Any]]
"""A place such as ``train.jsonl:17`` and the values by column name."""


class Digest(Protocol):
    """A running hash, such as ``hashlib.sha256()``."""

    def update(self, data: bytes, /) -> None:
        """Add bytes to what is hashed."""


@dataclass(frozen=True)
class Input:
    """One file, folder, hub data set or object in memory, not read yet.

    Attributes:
        name: what a person calls it; free of credentials.
        read: yields the rows, adds what identifies the content to the digest, and adds what can't be read
            to the faults instead of raising.
        untyped: every value is a string or None, as in a csv file.
        layout: what people call a folder that a task reads in a way of its own.
    """

    name: str
    read: Callable[[Digest, Faults], Iterator[Row]]
    untyped: bool = False
    layout: str | None = None


def hash_row(row: Mapping[str, Any], digest: Digest) -> None:
    """Add a row to ``digest``; the same in every process and for every order of the columns."""
    for key in sorted(row, key=str):
        # Value by value: one that JSON can't write must not hide its neighbours from the hash.
        try:
            text = json.dumps([str(key), row[key]], sort_keys=True, default=_plain)
        except (TypeError, ValueError, RecursionError):
            text = json.dumps([str(key), type(row[key]).__qualname__])
        digest.update(text.encode() + b"\n")
    digest.update(b"\0")


def _plain(value: object) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, datetime.date | datetime.time | datetime.timedelta | Decimal):
        return str(value)
    # repr() of an unknown object may hold its address, which differs between processes.
    return type(value).__qualname__
