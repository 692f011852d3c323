"""Attention inside segments on CUDA: one call for all segments, whatever their lengths."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from swift_core.flat.batch import FlatBatch
from swift_core.flat.grouped import Rule, grouped_attention

# Shape legend: N tokens of the flat row, M keys with parents repeated, H query heads, K key heads,
# D dimensions of a head.

Backend = Callable[[Tensor, Tensor, Tensor, FlatBatch, Rule], Tensor]


def choose_backend(query: Tensor, rule: Rule) -> Backend:
    """The fastest attention that is exact for this input on this machine.

    On CUDA in half precision: ``torch.nn.attention.varlen`` (torch 2.10 and later), else flash-attn, else
    FlexAttention. Its kernels have no dropout on the weights (flash-attn does), and none of them takes
    float32; what is left over goes group by group through SDPA, as on the CPU.
    """
    if not query.is_cuda or query.dtype not in (torch.float16, torch.bfloat16):
        return grouped_attention
    if rule.dropout == 0 and _has("torch.nn.attention.varlen"):
        return varlen_attention
    if _has("flash_attn"):
        return flash_attention
    return flex_attention if rule.dropout == 0 else grouped_attention


@lru_cache  # asked in every layer of every step
def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def varlen_attention(query: Tensor, key: Tensor, value: Tensor, flat: FlatBatch, rule: Rule) -> Tensor:
    """torch's own variable-length attention; see :func:`swift_core.flat.grouped.grouped_attention`."""
    from torch.nn.attention.varlen import varlen_attn

    key, value = _keys(key, flat), _keys(value, flat)  # [M, K, D]
    # torch 2.10 has no such argument, and needs none where all heads have keys of their own.
    more: dict[str, Any] = {"enable_gqa": True} if query.shape[1] != key.shape[1] else {}
    return varlen_attn(  # type: ignore[return-value]  # one tensor unless return_aux is set
        query.contiguous(),
        key.contiguous(),
        value.contiguous(),
        flat.query_bounds,
        flat.key_bounds,
        max(flat.lengths),
        max(flat.key_lengths),
        scale=rule.scale,
        window_size=_window(rule),
        **more,
    )


def flash_attention(query: Tensor, key: Tensor, value: Tensor, flat: FlatBatch, rule: Rule) -> Tensor:
    """flash-attn's variable-length attention; see :func:`swift_core.flat.grouped.grouped_attention`."""
    from flash_attn import flash_attn_varlen_func

    return flash_attn_varlen_func(  # type: ignore[no-any-return]
        query,
        _keys(key, flat),
        _keys(value, flat),
        flat.query_bounds,
        flat.key_bounds,
        max(flat.lengths),
        max(flat.key_lengths),
        dropout_p=rule.dropout,
        softmax_scale=rule.scale,
        causal=rule.causal,
        window_size=(-1, -1) if rule.window is None else _window(rule),
    )


def flex_attention(query: Tensor, key: Tensor, value: Tensor, flat: FlatBatch, rule: Rule) -> Tensor:
    """FlexAttention with a block mask; see :func:`swift_core.flat.grouped.grouped_attention`."""
    from torch.nn.attention import flex_attention as flex
    from transformers.integrations.flex_attention import compile_friendly_flex_attention

    attend: Any = compile_friendly_flex_attention if query.is_cuda else flex.flex_attention
    q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (query, key, value))  # [1, H, N, D]
    gqa = query.shape[1] != key.shape[1]
    mask = _block_mask(flat, rule.causal, rule.window)
    found: Tensor = attend(q, k, v, block_mask=mask, scale=rule.scale, enable_gqa=gqa)  # [1, H, N, D]
    return found.squeeze(0).transpose(0, 1)


@lru_cache(maxsize=4)  # the layers of a model ask for the same one or two, one after another
def _block_mask(flat: FlatBatch, causal: bool, window: int | None) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    own, parent = flat.segment_numbers  # [N], [N]
    position = flat.position_ids  # [N]

    def visible(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        ahead = position[k] - position[q]
        seen = (own[k] == own[q]) | (own[k] == parent[q])
        if causal:
            seen = seen & (ahead <= 0)
        return seen if window is None else seen & (ahead.abs() < window)

    count = flat.num_tokens
    return create_block_mask(visible, None, None, count, count, device=position.device)


def _keys(part: Tensor, flat: FlatBatch) -> Tensor:
    return part if flat.key_index is None else part.index_select(0, flat.key_index)


def _window(rule: Rule) -> tuple[int, int]:
    """Tokens seen to the left and to the right; -1 for all. With fewer queries than keys the kernels align
    the last query with the last key, which is what a segment after its parent wants."""
    reach = -1 if rule.window is None else rule.window - 1
    return reach, 0 if rule.causal else reach
