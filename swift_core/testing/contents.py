"""What is in a batch, whatever it is made of: compared part by part."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from typing import Any

import torch

_WHOLE = (str, bytes, int, float, complex, type, enum.Enum, torch.dtype, torch.device)
"""What is compared as it is, and never looked into."""


def contents_of(part: Any, name: str = "batch") -> dict[str, Any]:
    """All tensors and values in ``part``, by where they stand.

    Mappings, lists, dataclasses and objects of other classes are looked into. An object that has no
    attributes stands for itself where its class says what is equal, and else for its class.
    """
    return dict(_walk(part, name, ()))


def _walk(part: Any, name: str, above: tuple[int, ...]) -> Iterator[tuple[str, Any]]:
    if id(part) in above:
        return
    inside = None if isinstance(part, (torch.Tensor, *_WHOLE)) else _inside(part)
    if inside is None:
        yield name, part
        return
    for key, value in inside.items():
        yield from _walk(value, f"{name}.{key}", (*above, id(part)))


def _inside(part: Any) -> dict[Any, Any] | None:
    """What an object holds, by name or number; None where it is a value itself."""
    if isinstance(part, Mapping):
        return dict(part.items())
    if isinstance(part, (list, tuple)):
        return dict(enumerate(part))
    if callable(part) and hasattr(part, "__qualname__"):
        return None
    slots = [name for kind in type(part).__mro__ for name in _names(getattr(kind, "__slots__", ()))]
    held = {name: getattr(part, name) for name in slots if name[:2] != "__" and hasattr(part, name)}
    held.update(getattr(part, "__dict__", {}))
    if held:
        return held
    compares = any("__eq__" in vars(kind) for kind in type(part).__mro__[:-1])
    return None if part is None or compares else {"class": type(part)}


def _names(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


def different_contents(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The names of what differs, or is in one of them only; NaN is NaN."""
    return [
        name
        for name in sorted(before.keys() | after.keys())
        if name not in before or name not in after or not _same(before[name], after[name])
    ]


def _same(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        # What is no number equals nothing, itself neither.
        alike = a.dtype == b.dtype and a.shape == b.shape and a.is_sparse == b.is_sparse
        return alike and _equal(a.to_dense(), b.to_dense())
    if hasattr(a, "tolist"):  # an array, or a number of one
        return not different_contents(contents_of(a.tolist()), contents_of(b.tolist()))
    return bool(a == b) or bool(a != a and b != b)


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool(((a == b) | ((a != a) & (b != b))).all())
