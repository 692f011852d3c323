"""From a flat batch to token vectors, and from these to one vector a row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from swift_core.batching import pack
from swift_core.flat.batch import FlatBatch, flat_batch
from swift_core.flat.check import settle
from swift_core.flat.forward import Rung, run_rung, state_of, unwrapped
from swift_core.flat.processes import (
    callers,
    even_pieces,
    inside_ddp,
    is_first_process,
    is_sharded,
    joined,
)
from swift_core.flat.sequence import shard_of

PoolingMethod = Literal["cls", "mean", "lasttoken"]
Pool: TypeAlias = Callable[[Tensor, FlatBatch], Tensor]

# Shape legend: S rows, N tokens of the flat row, D dimensions, P picked tokens, V vocabulary.


def forward_flat(model: nn.Module, batch: FlatBatch, *, picked: Tensor | None = None) -> Tensor:
    """Run ``model`` on a batch without padding, through its own forward pass.

    The first call looks how this model can be run exactly (:func:`swift_core.flat.settle`) and remembers it.
    With gradients, processes that share their tokens (:func:`swift_core.flat.sequence.share_tokens`) must all
    call it with the same batch, run a part each, and all get the outputs of the whole.

    Args:
        model: one of transformers', perhaps wrapped by peft, DDP, FSDP or torch.compile.
        batch: what :func:`swift_core.flat.flat_batch` made, on the model's device.
        picked: [P] tokens of the flat row whose outputs are wanted; only they meet what comes after attention
            in the last layer, and the vocabulary of a language-model head.

    Returns:
        ``last_hidden_state`` of every token, [N, D], or of those picked, [P, D]; of a model with a head its
        logits, [N, V] or [P, V]. Tokens are in the order of ``batch.input_ids``.
    """
    state = state_of(model)
    if state.rung is None or (batch.has_parents and not state.knows_parents):
        state = settle(model, batch)
        if state.reason and state.asked is None and is_first_process():
            print(f"padding   {type(unwrapped(model)).__name__}: {state.told}", flush=True)
    return run_rung(state.rung or Rung.PADDING, model, batch, picked, shard_of(model, batch))


def pool_segments(hidden: Tensor, batch: FlatBatch, method: PoolingMethod, skip: int = 0) -> Tensor:
    """Reduce token vectors to one vector a row.

    ``cls`` takes the first token of a row, ``lasttoken`` the last one, ``mean`` averages over all of them:
    sum_t h_t / L (Reimers and Gurevych 2019). A parent's tokens do not count as the row's own.

    Args:
        hidden: [N, D] in the order of ``batch.input_ids``.
        batch: where the rows lie.
        method: which of the three.
        skip: tokens at the head of each row that a mean leaves out, such as a prompt's; the last one of a row
            always counts.

    Returns:
        [S, D] in the order of the rows and in the type of ``hidden``; a mean is computed in float32 at least.

    Raises:
        ValueError: ``method`` is none of the three.
    """
    if method == "cls":
        return hidden.index_select(0, batch.first)
    if method == "lasttoken":
        return hidden.index_select(0, batch.last)
    if method != "mean":
        raise ValueError(f"pooling method {method!r} is none of {', '.join(get_args(PoolingMethod))}")
    precise = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
    parts = torch.split(precise, [group.tokens for group in batch.groups])
    # Rows of one length are averaged together: no scattered sums, which would differ from run to run on CUDA.
    means = [
        part.view(group.count, group.length, -1)[:, min(skip, group.length - 1) :].mean(1)
        for part, group in zip(parts, batch.groups, strict=True)
    ]
    return torch.cat(means).index_select(0, batch.order).to(hidden.dtype)  # [S, D]


def segment_vectors(
    model: nn.Module,
    batch: FlatBatch,
    pool: PoolingMethod | Pool,
    *,
    cache_tokens: int | None = None,
) -> Tensor:
    """One vector a row, in pieces when the batch is larger than memory allows (gradient caching).

    With ``cache_tokens`` the rows go through the model in chunks of about so many tokens; only the vectors
    are kept, and each chunk is computed again when its gradient is due. The gradient is that of the whole
    batch, whatever the loss does with the vectors (Gao et al. 2021, "Scaling Deep Contrastive Learning Batch
    Size under Memory Limited Setup"), dropout included.

    Args:
        model: see :func:`forward_flat`.
        batch: S rows.
        pool: a method of :func:`pool_segments`, or what makes [S, D] of token vectors [N, D] and their batch,
            in the order of its rows. With ``cls`` and ``lasttoken`` no more of the last layer is computed
            than these tokens need.
        cache_tokens: about how many tokens are held in memory; None for all at the same time.

    Returns:
        [S, D] in the order of the rows.
    """
    if cache_tokens is None or (batch.num_tokens <= cache_tokens and not is_sharded(model)):
        return _pooled(model, batch, pool)
    chunks, rows = chunks_of(batch, cache_tokens)
    chunks, extra = even_pieces(chunks, model)
    parts = [_checkpointed(call, chunk, pool) for call, chunk in zip(callers(model), chunks, strict=False)]
    places = torch.tensor(rows, device=batch.first.device).argsort()
    return joined(parts, extra).index_select(0, places)


def chunks_of(batch: FlatBatch, tokens: int) -> tuple[list[FlatBatch], list[int]]:
    """Batches of at most ``tokens`` tokens each (or of one row), and the rows that they hold, in order.

    Raises:
        ValueError: rows have parents, which would have to be computed again for each chunk.
    """
    if batch.has_parents:
        raise ValueError("gradient_cache_tokens: rows that share a prefix can't be cut into chunks")
    ids, _, types = batch.rows()
    lengths = [len(row) for row in ids]
    cuts = pack(sorted(range(len(ids)), key=lambda row: lengths[row]), lengths, tokens)
    device = batch.input_ids.device
    chunks = [
        flat_batch(
            [ids[row] for row in cut],
            token_type_ids=None if types is None else [types[row] for row in cut],
        ).to(device)
        for cut in cuts
    ]
    return chunks, [row for cut in cuts for row in cut]


def _pooled(model: nn.Module, batch: FlatBatch, pool: PoolingMethod | Pool) -> Tensor:
    if pool in ("cls", "lasttoken"):
        return forward_flat(model, batch, picked=batch.first if pool == "cls" else batch.last)
    hidden = forward_flat(model, batch)
    return pool(hidden, batch) if callable(pool) else pool_segments(hidden, batch, pool)


def _checkpointed(model: nn.Module, chunk: FlatBatch, pool: PoolingMethod | Pool) -> Tensor:
    """Vectors of a chunk without what their gradient needs, which is computed again in the backward pass."""
    again = False

    def run(_: Tensor) -> Tensor:
        nonlocal again
        # DDP prepares for a backward pass in its forward pass and must not do so in the middle of one.
        call = inside_ddp(model) if again else model
        again = True
        return _pooled(call, chunk, pool)

    # The argument says on which device the random numbers of dropout must be the same again.
    ids = chunk.input_ids
    return checkpoint(run, ids, use_reentrant=False) if torch.is_grad_enabled() else run(ids)
