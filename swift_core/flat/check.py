"""Which rung of the ladder a model gets: never a wrong gradient in silence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from swift_core.flat.attention import FLAT
from swift_core.flat.batch import FlatBatch, flat_batch
from swift_core.flat.forward import (
    FlatState,
    Rung,
    position_offset,
    run_rung,
    set_state,
    state_of,
    unwrapped,
)
from swift_core.flat.narrow import Tail, find_tail
from swift_core.flat.processes import inside_ddp
from swift_core.modes import evaluating

_MOST_TOKENS = 4096
_LONGEST = 1024
"""A check is to be cheap: rows are left out, and longer ones are cut, beyond these."""
_TAIL_TOKENS = 512
_FEWEST = 3
_TOLERANCE = {torch.float32: 5e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Relative difference of the tokens' vectors: the largest in float32, a quarter of it in half precision."""


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
    state = replace(state, original=original, offset=position_offset(base))
    set_state(model, state)
    reasons = _why_not_flat(state, base, original)
    with evaluating(base):
        # A check on one process must not wait for others in the forward pass of DDP.
        inner = base if _is_part(base, model) else inside_ddp(model)
        _use(base, original)
        expected = run_rung(Rung.PADDING, inner, sample)
        for rung in _ladder(state, base, original, sample):
            _use(base, FLAT if rung is Rung.FLAT else original)
            fault = _fault(rung, inner, sample, expected)
            if fault is None:
                break
            reasons.append(f"{rung.value}: {fault}")
        tail = _tail(inner, state, batch) if rung is Rung.FLAT else None
    settled = replace(state, rung=rung, knows_parents=batch.has_parents, reason="; ".join(reasons), tail=tail)
    set_state(model, settled)
    return settled


def _is_part(base: nn.Module, model: nn.Module) -> bool:
    """Whether a head lies above ``base``, which gives no vectors of tokens."""
    return any(getattr(module, "flat_part", None) is base for module in model.modules())


def agree(model: nn.Module) -> None:
    """Run ``model`` on all processes as the first one does, which alone may hold its weights by now."""
    own = state_of(model)
    # A group of processes is known by each of them in its own way.
    found = broadcast_object_list([replace(own, group=None)])[0]
    _adopt(model, replace(found, group=own.group))


def run_alike(copy: nn.Module, model: nn.Module) -> None:
    """Run ``copy`` as ``model`` is run: the same weights need no look of their own."""
    _adopt(copy, state_of(model))


def _adopt(model: nn.Module, state: FlatState) -> None:
    set_state(model, state)
    if state.rung is not None:
        _use(unwrapped(model), FLAT if state.rung is Rung.FLAT else state.original)


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
    if any(isinstance(module, nn.Conv1d) for module in base.modules()):
        # In half precision a small leak from text to text can't be told from rounding.
        return ["it has layers that carry a state from token to token"]
    if getattr(base.config, "attention_chunk_size", None) is not None:
        return ["its attention is cut into chunks by a mask"]
    return [] if original == "sdpa" else [f"its attention is its own ({original})"]


def _use(base: Any, attention: str | None) -> None:
    if attention is not None and getattr(base.config, "_attn_implementation", None) != attention:
        base.set_attn_implementation(attention)


def _fault(
    rung: Rung, model: nn.Module, batch: FlatBatch, expected: Tensor, picked: Tensor | None = None
) -> str | None:
    if rung is Rung.PADDING:
        return None
    try:
        found = run_rung(rung, model, batch, picked)
    except Exception as error:  # whatever a family's code makes of a row that it does not expect
        return " ".join(f"{error}".split())[:120] or type(error).__name__
    difference = relative_difference(found, expected)
    if difference <= _TOLERANCE[_precision(expected)]:
        return None
    return f"its outputs differ by {difference:.1e} from those with padding"


def _tail(model: nn.Module, state: FlatState, batch: FlatBatch) -> Tail | None:
    """The tail of a model on the flat row, when what is read of it is the same with it and without."""
    tail = find_tail(unwrapped(model))
    if tail is None:
        return None
    sample = sample_of(batch, most_tokens=_TAIL_TOKENS)
    picked = torch.unique(torch.cat([sample.first, sample.last]))[::2]
    expected = run_rung(Rung.FLAT, model, sample)[picked]
    set_state(model, replace(state, tail=tail))
    fault = _fault(Rung.FLAT, model, sample, expected, picked)
    return tail if fault is None else None


def _precision(output: Tensor) -> torch.dtype:
    kind = output.device.type
    if torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return output.dtype if output.dtype in _TOLERANCE else torch.float32


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """|a - b| / |b| of the tokens' vectors [N, D]: the largest in float32.

    In half precision the mean, or a quarter of the largest where that is more: what leaks from one text into
    the next may hurt few tokens only. Tokens that are not finite with padding either are left out.
    """
    if found.shape != expected.shape:
        return float("inf")
    usable = expected.isfinite().all(dim=-1)
    if not usable.any():
        return 0.0
    exact = expected[usable].float()
    relative = (found[usable].float() - exact).norm(dim=-1) / exact.norm(dim=-1).clamp(min=1e-12)  # [N]
    largest, mean = float(relative.max()), float(relative.mean())
    if mean != mean:  # NaN must not pass
        return float("inf")
    return largest if _precision(expected) == torch.float32 else max(mean, largest / 4)


def sample_of(batch: FlatBatch, most_tokens: int = _MOST_TOKENS) -> FlatBatch:
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
        if chosen and tokens + size > most_tokens:
            continue
        chosen.update(dict.fromkeys(new))
        tokens += size
    place = {row: number for number, row in enumerate(chosen)}
    rows = [ids[row][:_LONGEST] for row in chosen]
    kinds = None if types is None else [types[row][:_LONGEST] for row in chosen]
    within = [None if (p := parents[row]) is None else place[p] for row in chosen]
    if len(rows) < _FEWEST:
        # Alone in the row a text can take nothing from others: parts of it keep it company.
        part = slice(0, max(1, len(rows[0]) // 2))
        rows += [rows[0][part].flip(0), rows[0].flip(0)]
        within += [None, None]
        kinds = None if kinds is None else [*kinds, kinds[0][part].flip(0), kinds[0].flip(0)]
    return flat_batch(rows, parents=within, token_type_ids=kinds).to(batch.input_ids.device)
