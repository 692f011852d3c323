"""Numbers that should be the same, and sentences about those that are not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def first_difference(
    before: Sequence[float], after: Sequence[float], tolerance: float = 0.0
) -> tuple[int, float, float] | None:
    """Place (from 1) and values where two curves part first; None where they don't, as far as both go."""
    for place, (a, b) in enumerate(zip(before, after, strict=False), start=1):
        if not close(a, b, tolerance):
            return place, a, b
    return None


def close(a: float, b: float, tolerance: float) -> bool:
    """Whether two numbers are the same, relative to their size; NaN is NaN."""
    if math.isnan(a) or math.isnan(b):
        return math.isnan(a) and math.isnan(b)
    return abs(a - b) <= tolerance * max(1.0, abs(a), abs(b))


def different_figures(
    before: Mapping[str, float], after: Mapping[str, float], tolerance: float = 1e-4
) -> list[str]:
    """``name 0.5 and 0.6`` for each figure that differs or that only one has."""
    told = []
    for name in sorted(before.keys() | after.keys()):
        if name not in before or name not in after:
            told.append(f"{name} only once")
        elif not close(before[name], after[name], tolerance):
            told.append(f"{name} {before[name]:.6g} and {after[name]:.6g}")
    return told


def different_tensors(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor], tolerance: float
) -> list[str]:
    """``name (3e-2)`` for each tensor that differs by more than ``tolerance`` of the largest number in all.

    Relative to all of them: a gradient that is zero but for rounding must not count.
    """
    if before.keys() != after.keys():
        return [f"{name} (only once)" for name in sorted(before.keys() ^ after.keys())]
    scale = max((float(t.abs().max()) for t in before.values() if t.numel()), default=0.0) or 1.0
    told = []
    for name, tensor in before.items():
        other = after[name]
        if tensor.shape != other.shape:
            told.append(f"{name} (another shape)")
            continue
        gap = float((tensor.double() - other.double()).abs().max()) / scale if tensor.numel() else 0.0
        if not gap <= tolerance:
            told.append(f"{name} ({gap:.1e})")
    return told


def different_outputs(before: Any, after: Any, tolerance: float) -> str | None:
    """How two outputs (tensors, arrays, numbers, texts, and lists or mappings of them) differ."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        if before.keys() != after.keys():
            return f"keys {sorted(map(str, before))} and {sorted(map(str, after))}"
        pairs = [(before[key], after[key]) for key in before]
        return next((d for a, b in pairs if (d := different_outputs(a, b, tolerance))), None)
    before, after = (x.tolist() if hasattr(x, "tolist") else x for x in (before, after))
    if isinstance(before, (list, tuple)) and isinstance(after, (list, tuple)):
        if len(before) != len(after):
            return f"{len(before)} and {len(after)} values"
        pairs = list(zip(before, after, strict=True))
        return next((d for a, b in pairs if (d := different_outputs(a, b, tolerance))), None)
    if isinstance(before, (int, float)) and isinstance(after, (int, float)):
        return None if close(before, after, tolerance) else f"{before:.6g} and {after:.6g}"
    return None if before == after else f"{before!r} and {after!r}"


def unusable_outputs(outputs: Any) -> str | None:
    """What lets outputs say nothing of a model (None, NaN, an empty list); None where they do."""
    if outputs is None:
        return "None"
    outputs = outputs.tolist() if hasattr(outputs, "tolist") else outputs
    if isinstance(outputs, (Mapping, list, tuple)):
        if not outputs:
            return "nothing in them"
        parts = outputs.values() if isinstance(outputs, Mapping) else outputs
        return next((u for part in parts if (u := unusable_outputs(part))), None)
    return "NaN" if isinstance(outputs, float) and math.isnan(outputs) else None


def shown(names: Sequence[str], most: int = 3) -> str:
    """The first few of ``names``, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
