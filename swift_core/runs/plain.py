"""Values as strict JSON knows them, so that what is in memory is what a record holds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from enum import Enum
from typing import Any


def plain(value: object) -> Any:
    """Return ``value`` made of dict, list, str, int, float, bool and None only.

    NaN and infinity become None, because JSON has no name for them. Numbers and arrays of numpy and torch
    become Python's; what is left (paths, dtypes) becomes its ``str``. Sets are sorted, so that equal
    options give equal records.
    """
    if isinstance(value, Mapping):
        return {_text(name): plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, set | frozenset):
        return sorted((plain(entry) for entry in value), key=str)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return plain(value.value)
    return _scalar(value)


def _scalar(value: object) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    # What numpy and torch have in common, asked for without importing either.
    as_python = getattr(value, "tolist", None)
    return plain(as_python()) if callable(as_python) else _text(value)


def _text(value: object) -> str:
    # A file name may hold bytes that are no UTF-8; Python keeps them as surrogates that no file accepts.
    return str(value).encode("utf-8", "replace").decode("utf-8")
