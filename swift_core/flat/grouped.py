"""Attention inside segments on any device: segments of one shape are stacked and meet the fused kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from swift_core.flat.batch import FlatBatch, Group

# Shape legend: N tokens of the flat row, H query heads, K key heads (K divides H), D dimensions of a head,
# G segments of a group, L tokens of each, P tokens of each one's parent.

_LEAST_BLOCK = 256
"""Queries handled together inside a sliding window: with fewer the calls cost more than they save."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What a token may see inside its segment, and how scores become weights.

    Attributes:
        causal: only tokens before it, and itself.
        window: only tokens less than so many positions away; None for all.
        scale: factor of the scores; None for 1 / sqrt(D).
        dropout: share of the weights that are dropped.
    """

    causal: bool
    window: int | None = None
    scale: float | None = None
    dropout: float = 0.0


def grouped_attention(query: Tensor, key: Tensor, value: Tensor, flat: FlatBatch, rule: Rule) -> Tensor:
    """Attention of each segment to itself and to its parent, group by group.

    No mask tensor is made for segments without a parent that fit into the window, so the fused kernel runs
    forward and backward with memory linear in N.

    Args:
        query: [N, H, D].
        key: [N, K, D].
        value: [N, K, D].
        flat: where the segments lie.
        rule: what a token may see.

    Returns:
        [N, H, D]
    """
    tokens = [group.tokens for group in flat.groups]
    prefixed = [group.count * group.prefix for group in flat.groups]
    parts = [torch.split(x, tokens) for x in (query, key, value)]
    prefixes: list[Any] = [[None] * len(tokens)] * 2
    if flat.prefix_index is not None:
        prefixes = [torch.split(x.index_select(0, flat.prefix_index), prefixed) for x in (key, value)]
    done = []
    for group, q, k, v, pk, pv in zip(flat.groups, *parts, *prefixes, strict=True):
        keys, values = _with_prefix(k, pk, group), _with_prefix(v, pv, group)  # [G, K, P + L, D]
        done.append(_attend(_stacked(q, group.count), keys, values, rule))  # [G, H, L, D]
    return torch.cat([part.transpose(1, 2).flatten(0, 1) for part in done])  # [N, H, D]


def _stacked(part: Tensor, count: int) -> Tensor:
    """[G * L, H, D] -> [G, H, L, D], without a copy."""
    return part.view(count, len(part) // count, *part.shape[1:]).transpose(1, 2)


def _with_prefix(part: Tensor, prefix: Tensor | None, group: Group) -> Tensor:
    own = _stacked(part, group.count)
    if prefix is None or group.prefix == 0:
        return own
    return torch.cat([_stacked(prefix, group.count), own], dim=2)


def _attend(query: Tensor, key: Tensor, value: Tensor, rule: Rule) -> Tensor:
    """[G, H, L, D] queries, which are the last L of the P + L keys."""
    length, seen = query.shape[2], key.shape[2]
    if rule.window is not None and seen > rule.window:
        return _attend_in_window(query, key, value, rule, rule.window)
    if rule.causal and seen > length:
        return _kernel(
            query, key, value, rule, mask=_visible(seen - length, seen, 0, seen, rule, query.device)
        )
    return _kernel(query, key, value, rule, causal=rule.causal)


def _attend_in_window(query: Tensor, key: Tensor, value: Tensor, rule: Rule, window: int) -> Tensor:
    """Block by block of queries, each with the keys that some of them see: linear in L, not quadratic."""
    length, seen = query.shape[2], key.shape[2]
    before, block = seen - length, max(window, _LEAST_BLOCK)
    done = []
    for begin in range(before, seen, block):
        end = min(begin + block, seen)
        low = max(0, begin - window + 1)
        high = end if rule.causal else min(seen, end + window - 1)
        mask = _visible(begin, end, low, high, rule, query.device)
        queries = query[:, :, begin - before : end - before]
        done.append(_kernel(queries, key[:, :, low:high], value[:, :, low:high], rule, mask=mask))
    return torch.cat(done, dim=2)


def _visible(begin: int, end: int, low: int, high: int, rule: Rule, device: torch.device) -> Tensor:
    """[end - begin, high - low], true where the query at one position sees the key at the other."""
    ahead = torch.arange(low, high, device=device) - torch.arange(begin, end, device=device).unsqueeze(1)
    visible = ahead <= 0 if rule.causal else torch.ones_like(ahead, dtype=torch.bool)
    return visible if rule.window is None else visible & (ahead.abs() < rule.window)


def _kernel(
    query: Tensor, key: Tensor, value: Tensor, rule: Rule, *, causal: bool = False, mask: Tensor | None = None
) -> Tensor:
    return scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=rule.dropout,
        is_causal=causal and query.shape[2] > 1,
        scale=rule.scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )
