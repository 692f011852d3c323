"""Candidates of several queries: from a flat list with the row of each to one padded row a query."""

from __future__ import annotations

import torch
from torch import Tensor

# Shape legend: K candidates of all groups, S groups, M candidates of the largest group.

LOWEST = torch.finfo(torch.float32).min
"""What does not count in a softmax. Not -inf: a whole row of it gives gradients that are no numbers."""


def padded(values: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """Lay the values of each group out as a row, in their order, with 0 behind them.

    Args:
        values: [K] or [K, C].
        group: [K] int64, the row of each; a row that no value names is empty.

    Returns:
        [S, M] or [S, M, C], and which of them are values: [S, M] bool.
    """
    sizes = torch.bincount(group)  # [S]
    # Not 0 columns where there are no rows: that would have no largest column.
    widest = int(sizes.max()) if len(sizes) else 1
    order = group.argsort(stable=True)  # [K]
    starts = sizes.cumsum(0) - sizes  # [S]
    place = torch.empty_like(order)
    place[order] = torch.arange(len(group), device=group.device) - starts[group[order]]
    matrix = values.new_zeros(len(sizes), widest, *values.shape[1:])
    matrix[group, place] = values
    return matrix, torch.arange(widest, device=group.device) < sizes[:, None]


def lists(scores: Tensor, targets: Tensor, group: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scores and targets as rows, [S, M] each in float32, and the mask [S, M] of what is there."""
    both, mask = padded(torch.stack([scores.float(), targets.float()], dim=1), group)  # [S, M, 2]
    return both[..., 0], both[..., 1], mask


def sorted_lists(
    scores: Tensor, targets: Tensor, group: Tensor, *, by_score: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The same with the largest score or target first; equal ones keep their order."""
    s, y, mask = lists(scores, targets, group)
    keys = (s.detach() if by_score else y).masked_fill(~mask, -torch.inf)
    order = keys.argsort(dim=1, descending=True, stable=True)
    return s.gather(1, order), y.gather(1, order), mask


def log_shares(scores: Tensor, mask: Tensor) -> Tensor:
    """Logarithm of the softmax of each row, [S, M], 0 for padding."""
    return scores.masked_fill(~mask, LOWEST).log_softmax(1).masked_fill(~mask, 0.0)


def mean_of_rows(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the values of each row that ``mask`` holds, [S], 0 for none."""
    return values.masked_fill(~mask, 0.0).sum(1) / mask.sum(1).clamp_min(1)
