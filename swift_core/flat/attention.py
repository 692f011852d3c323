"""The engine's attention, plugged into transformers through its public interface."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from swift_core.flat.batch import FlatBatch
from swift_core.flat.cuda import choose_backend
from swift_core.flat.grouped import Rule
from swift_core.matmul import with_default_library

if TYPE_CHECKING:
    from swift_core.flat.sequence import Shard

FLAT = "swift_flat"
"""Name of the attention in transformers. Only this name is added: nobody else's attention changes."""

_NOT_HERE = ("softcap", "s_aux", "position_bias")
"""What some families ask of their attention and the fused kernels don't do."""


class NotFlatError(Exception):
    """The model asks of attention what the engine can't do on a flat row; it is served another way."""


def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    flat: FlatBatch | None = None,
    shard: Shard | None = None,
    **kwargs: Any,  # transformers' contract: each family passes what it likes
) -> tuple[Tensor, None]:
    """Attention in the signature of transformers; without ``flat`` it is transformers' own SDPA.

    Args:
        module: the attention layer.
        query: [1, H, N, D] with ``flat``.
        key: [1, K, N, D].
        value: [1, K, N, D].
        attention_mask: not looked at with ``flat``.
        dropout: on the attention weights.
        scaling: factor of the scores.
        is_causal: default: what the layer or its configuration says.
        flat: the batch that the row holds.
        shard: which of the row's tokens this process holds, where several share them; N is their number then.
        kwargs: what else a family passes; ``sliding_window`` is used.

    Returns:
        [1, N, H, D] and None for the weights.

    Raises:
        NotFlatError: the layer wants something that is not done on flat rows.
    """
    if flat is None:
        return sdpa_attention_forward(
            module,
            query,
            key,
            value,
            attention_mask,
            dropout=dropout,
            scaling=scaling,
            is_causal=is_causal,
            **kwargs,
        )
    wanted = [name for name in _NOT_HERE if kwargs.get(name) is not None]
    if wanted:
        raise NotFlatError(f"its attention uses {' and '.join(wanted)}")
    # Some families write 0 for none.
    has_window = bool(getattr(getattr(module, "config", None), "sliding_window", None))
    if has_window and "sliding_window" not in kwargs:
        raise NotFlatError("its attention has a window that only its mask tells")
    tokens = flat.num_tokens if shard is None else shard.length
    if not query.shape[2] == key.shape[2] == tokens or len(query) != 1:
        raise NotFlatError("it changes the row of tokens before attention sees it")
    rule = Rule(
        causal=_is_causal(module, is_causal),
        window=kwargs.get("sliding_window"),
        scale=scaling,
        dropout=dropout,
    )
    return _attend(query, key, value, flat, rule, shard), None


@torch.compiler.disable  # type: ignore[untyped-decorator]  # shapes differ in every batch: compiling would never end
def _attend(
    query: Tensor, key: Tensor, value: Tensor, flat: FlatBatch, rule: Rule, shard: Shard | None
) -> Tensor:
    kind = query.device.type
    if torch.is_autocast_enabled(kind):  # SDPA is told by the library; the other kernels are not
        lower = torch.get_autocast_dtype(kind)
        query, key, value = query.to(lower), key.to(lower), value.to(lower)
    rows = [x.squeeze(0).transpose(0, 1) for x in (query, key, value)]  # [N, H, D]
    backend = choose_backend(query, rule)
    if shard is not None:
        rows = shard.heads(*rows)  # some of the heads, all of the tokens
    out = with_default_library(lambda q, k, v: backend(q, k, v, flat, rule), rows)  # [N, H, D]
    return (out if shard is None else shard.tokens(out)).unsqueeze(0)


def _is_causal(module: nn.Module, asked: bool | None) -> bool:
    if getattr(getattr(module, "config", None), "is_causal", True) is False:
        return False
    return bool(getattr(module, "is_causal", True) if asked is None else asked)


AttentionInterface.register(FLAT, attention_forward)
AttentionMaskInterface.register(FLAT, sdpa_mask)
