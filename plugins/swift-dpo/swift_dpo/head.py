"""Log-probabilities of tokens without the logits of all of them in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

# Shape legend: T tokens that are predicted, C of them in a chunk, D dimensions, V vocabulary.

_CHUNK_NUMBERS = 2**24
"""Logits of a chunk: 64 MiB in float32, enough rows for the matrix product to run at full speed."""
_KEPT_NUMBERS = 2**26
"""Logits that wait for the backward pass at most: 256 MiB; those of a step of four pairs often fit."""
_FEWEST_ROWS = 64


class TokenScores(NamedTuple):
    """What is known of T predicted tokens.

    Attributes:
        logps: [T] float32, log p(token).
        confidence: [T] without gradient, log p(token) - log sum_v p(v)^2; None unless asked for.
        mean_logits: [T] without gradient, the mean over the vocabulary.
    """

    logps: Tensor
    confidence: Tensor | None
    mean_logits: Tensor


def linear_token_scores(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *, confidence: bool = False
) -> TokenScores:
    """Scores of tokens under a head that is one linear layer.

    Where its weights are frozen, the gradient of each log-probability is taken in the forward pass, while the
    logits are there: g_t = W[y_t] - sum_v p_v W[v], which the backward pass only scales. Weights that learn
    need the loss's own gradient first, so all their chunks but the last are computed again.

    Args:
        hidden: [T, D] what the head reads.
        weight: [V, D].
        bias: [V] or None.
        targets: [T] the tokens.
        confidence: also give that.
    """
    if torch.is_autocast_enabled(hidden.device.type):
        lower = torch.get_autocast_dtype(hidden.device.type)
        hidden, weight = hidden.to(lower), weight.to(lower)
        bias = None if bias is None else bias.to(lower)
    logps, sharpness = _LinearLogps.apply(hidden, weight, bias, targets, confidence)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        means = (hidden.detach() @ weight.detach().mean(0)).float()  # [T]
        if bias is not None:
            means += bias.detach().float().mean()
    return TokenScores(logps, logps.detach() - sharpness if confidence else None, means)


class _LinearLogps(torch.autograd.Function):
    """log softmax(h W^T + b)[y] for each token, chunk by chunk."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, confidence: bool
    ) -> tuple[Tensor, Tensor]:
        logps = hidden.new_empty(len(hidden), dtype=torch.float32)
        sharpness = torch.zeros_like(logps)  # log sum_v p(v)^2
        frozen = ctx.needs_input_grad[0] and not (ctx.needs_input_grad[1] or ctx.needs_input_grad[2])
        gradient = torch.empty_like(hidden) if frozen else None
        learns = ctx.needs_input_grad[0] and not frozen
        kept_from = len(hidden) - (_KEPT_NUMBERS // len(weight) if learns else 0)
        ctx.kept = []
        for chunk in _chunks(len(hidden), len(weight)):
            logits = _logits(hidden[chunk], weight, bias)  # [C, V]
            picked = logits.gather(1, targets[chunk, None])  # [C, 1]
            highest = logits.amax(1, keepdim=True)  # [C, 1]
            parts = logits.sub_(highest).exp_()  # [C, V], shares of total
            total = parts.sum(1, keepdim=True)  # [C, 1]
            logps[chunk] = (picked - highest - total.log())[:, 0]
            if confidence:
                sharpness[chunk] = parts.square().sum(1).log() - 2 * total[:, 0].log()
            if gradient is not None:
                gradient[chunk] = weight[targets[chunk]] - parts.div_(total).to(weight.dtype) @ weight
            if chunk.start >= kept_from:
                ctx.kept.append((parts, total))
        ctx.mark_non_differentiable(sharpness)
        ctx.save_for_backward(hidden, weight, bias, targets, logps, gradient)
        return logps, sharpness

    @staticmethod
    # The gradient is written down without its own: a second derivative would be wrong in silence.
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, logps, gradient = ctx.saved_tensors
        if gradient is not None:
            return gradient * upstream[:, None].to(gradient.dtype), None, None, None, None
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        d_hidden = torch.empty_like(hidden) if wants_hidden else None
        d_weight = torch.zeros_like(weight) if wants_weight else None
        d_bias = torch.zeros_like(bias) if wants_bias else None
        for chunk in reversed(list(_chunks(len(hidden), len(weight)))):
            column, scale = targets[chunk, None], upstream[chunk, None]
            if ctx.kept:
                # Taken out, for it is changed here: a second backward pass computes it again.
                parts, total = ctx.kept.pop()
                d_logits = parts.mul_(-scale / total)
            else:
                logits = _logits(hidden[chunk], weight, bias)  # [C, V]
                total = logits.gather(1, column) - logps[chunk, None]  # [C, 1]
                d_logits = logits.sub_(total).exp_().mul_(-scale)
            # d log p(y) / d logits = onehot(y) - p
            d_logits.scatter_add_(1, column, scale)
            d_logits = d_logits.to(weight.dtype)
            if d_hidden is not None:
                d_hidden[chunk] = d_logits @ weight
            if d_weight is not None:
                d_weight.addmm_(d_logits.T, hidden[chunk])
            if d_bias is not None:
                d_bias += d_logits.sum(0)
        return d_hidden, d_weight, d_bias, None, None


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    # Not as [V, C], which a CPU writes faster: a token's sums would then depend on its place in the batch.
    return functional.linear(hidden, weight, bias).float()


def _chunks(rows: int, vocabulary: int) -> Iterator[slice]:
    """Slices of rows; what is left over comes first, so that the last one is a full one."""
    size = max(_FEWEST_ROWS, _CHUNK_NUMBERS // vocabulary)
    starts = range(rows % size - size if rows % size else 0, rows, size)
    return (slice(max(start, 0), start + size) for start in starts)


def own_token_scores(
    hidden: Tensor, logits_of: Callable[[Tensor], Tensor], vocabulary: int, targets: Tensor, confidence: bool
) -> TokenScores:
    """The same under a family's own head, whatever it does to its logits; each chunk is computed twice.

    Args:
        hidden: [T, D].
        logits_of: gives logits [C, V] of vectors [C, D].
        vocabulary: about V.
        targets: [T].
        confidence: see :func:`linear_token_scores`.
    """

    def scores(part: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = logits_of(part).float()  # [C, V]
        every = functional.log_softmax(logits, dim=1)
        picked = every.gather(1, wanted[:, None])[:, 0]  # [C]
        with torch.no_grad():
            sharpness = (2 * every).logsumexp(1) if confidence else torch.zeros_like(picked)
        return picked, sharpness, logits.detach().mean(1)

    def once(part: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if not torch.is_grad_enabled():
            return scores(part, wanted)
        found: tuple[Tensor, Tensor, Tensor] = checkpoint(scores, part, wanted, use_reentrant=False)
        return found

    parts = [once(hidden[chunk], targets[chunk]) for chunk in _chunks(len(hidden), vocabulary)]
    logps, sharpness, means = (torch.cat(column) for column in zip(*parts, strict=True))
    return TokenScores(logps, logps.detach() - sharpness if confidence else None, means)


def is_linear(head: nn.Module) -> bool:
    """Whether a head is one plain layer, perhaps sharing its weights with the token embeddings."""
    return isinstance(head, nn.Linear) and not hasattr(head, "base_layer")
