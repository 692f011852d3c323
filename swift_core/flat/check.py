"""Which rung of the ladder a model gets: never a wrong gradient in silence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from swift_core.flat.attention import FLAT
from swift_core.flat.batch import FlatBatch, flat_batch
from swift_core.flat.forward import FlatState, Rung, run_rung, set_state, state_of, unwrapped

_MOST_TOKENS = 4096
_LONGEST = 1024
"""A check is to be cheap: rows are left out, and longer ones are cut, beyond these."""
_TOLERANCE = {torch.float32: 5e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Largest relative difference of a token's vector in float32, mean difference in half precision."""


def settle(model: nn.Module, batch: FlatBatch) -> FlatState:
    """Decide how ``model`` is run on flat batches: as the first rung that gives what padding gives.

    A part of ``batch`` is run both ways, without gradient and dropout.

    Args:
        model: may be wrapped; all its processes must call with the same batch.
        batch: a real one.

    Returns:
        The state, which the model now carries.
    """
    state, base, sample = state_of(model), unwrapped(model), sample_of(batch)
    original = _attention_of(base)
    reasons = _why_not_flat(state, base, original)
    with _measuring(base):
        # The base: a check on one process must not wait for others in a wrapper's forward pass.
        inner = _without_processes(model)
        _use(base, original)
        expected = run_rung(Rung.PADDING, inner, sample)
        for rung in _ladder(state, base, original, sample):
            _use(base, FLAT if rung is Rung.FLAT else original)
            fault = _fault(rung, inner, sample, expected)
            if fault is None:
                break
            reasons.append(f"{rung.value}: {fault}")
    settled = replace(
        state, rung=rung, knows_parents=batch.has_parents, original=original, reason="; ".join(reasons)
    )
    set_state(model, settled)
    return settled


def run_alike(copy: nn.Module, model: nn.Module) -> None:
    """Run ``copy`` as ``model`` is run: the same weights need no look of their own."""
    state = state_of(model)
    set_state(copy, state)
    if state.rung is not None:
        _use(unwrapped(copy), FLAT if state.rung is Rung.FLAT else state.original)


def _attention_of(base: Any) -> str | None:
    """The attention that the model was loaded with."""
    known = state_of(base).original
    found = getattr(getattr(base, "config", None), "_attn_implementation", None)
    return known if known is not None else found


def _ladder(state: FlatState, base: Any, original: str | None, batch: FlatBatch) -> Iterator[Rung]:
    if not _why_not_flat(state, base, original):
        yield Rung.FLAT
    if str(original).startswith("flash_attention") and not batch.has_parents:
        yield Rung.FLASH
    if batch.has_parents and original in ("sdpa", "eager"):
        yield Rung.MASK
    yield Rung.SUB_BATCHES
    yield Rung.PADDING


def _why_not_flat(state: FlatState, base: Any, original: str | None) -> list[str]:
    if state.asked is not None:
        return [f"attn_implementation={state.asked} was asked for"]
    if not hasattr(base, "set_attn_implementation") or not base._can_set_attn_implementation():
        return ["its attention can't be exchanged"]
    return [] if original == "sdpa" else [f"its attention is its own ({original})"]


def _use(base: Any, attention: str | None) -> None:
    if attention is not None and getattr(base.config, "_attn_implementation", None) != attention:
        base.set_attn_implementation(attention)


def _fault(rung: Rung, model: nn.Module, batch: FlatBatch, expected: Tensor) -> str | None:
    if rung is Rung.PADDING:
        return None
    try:
        found = run_rung(rung, model, batch)
    except Exception as error:  # whatever a family's code makes of a row that it does not expect
        return " ".join(f"{error}".split())[:120] or type(error).__name__
    difference = relative_difference(found, expected)
    # NaN must not pass; a model whose outputs are NaN anyway is not ours to judge.
    if difference <= _TOLERANCE[_precision(expected)] or not expected.isfinite().all():
        return None
    return f"its outputs differ by {difference:.1e} from those with padding"


def _precision(output: Tensor) -> torch.dtype:
    kind = output.device.type
    if torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return output.dtype if output.dtype in _TOLERANCE else torch.float32


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """|a - b| / |b| of the tokens' vectors [N, D]: the largest in float32, the mean in half precision."""
    if found.shape != expected.shape:
        return float("inf")
    distance = (found.float() - expected.float()).norm(dim=-1)
    relative = distance / expected.float().norm(dim=-1).clamp(min=1e-12)  # [N]
    worst = relative.max() if _precision(expected) == torch.float32 else relative.mean()
    return float("inf") if worst.isnan() else float(worst)


def sample_of(batch: FlatBatch) -> FlatBatch:
    """Rows of ``batch`` of all lengths, few and short enough for a check."""
    ids, parents, types = batch.rows()
    by_length = sorted(range(len(ids)), key=lambda row: len(ids[row]))
    # From both ends, so that the longest and the shortest are in.
    wanted = [row for pair in zip(by_length, reversed(by_length), strict=True) for row in pair]
    chosen: dict[int, None] = {}
    tokens = 0
    for row in wanted:
        parent = parents[row]
        new = [r for r in ([row] if parent is None else [parent, row]) if r not in chosen]
        size = sum(min(len(ids[r]), _LONGEST) for r in new)
        if chosen and tokens + size > _MOST_TOKENS:
            continue
        chosen.update(dict.fromkeys(new))
        tokens += size
    place = {row: number for number, row in enumerate(chosen)}
    return flat_batch(
        [ids[row][:_LONGEST] for row in chosen],
        parents=[None if (p := parents[row]) is None else place[p] for row in chosen],
        token_type_ids=None if types is None else [types[row][:_LONGEST] for row in chosen],
    ).to(batch.input_ids.device)


def _without_processes(model: nn.Module) -> nn.Module:
    """``model`` without a wrapper that talks to other processes; adapters stay."""
    inner = model
    while isinstance(found := getattr(inner, "module", None), nn.Module):
        inner = found
    return inner


@contextmanager
def _measuring(model: nn.Module) -> Iterator[None]:
    """Without dropout and gradients, each module afterwards in the mode it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True
