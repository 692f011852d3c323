"""What a pair of candidates weighs in :func:`swift_reranker.losses.lambda_loss`.

Everything here is in the order of the scores: column r - 1 is the candidate of rank r.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

# Shape legend: S groups, M candidates of the largest group.

Weighting = Literal["ndcg_loss2++", "ndcg_loss2", "lambda_rank", "none"]

_LARGEST_POWER = 64.0
"""Of 2, in a gain. float32 ends at 2^128, and sums must fit too."""


def normal_gains(labels: Tensor, top: Tensor, eps: float) -> Tensor:
    """Gains (2^y - 1) / maxDCG.

    Args:
        labels: y, [S, M], 0 for padding. Below 0 there is no gain.
        top: [M] bool, the places that count in maxDCG.
        eps: least maxDCG.

    Returns:
        [S, M]
    """
    labels = labels.relu()
    # All is divided by 2^shift, maxDCG too, so that large labels do not overflow.
    shift = (labels.amax(1, keepdim=True) - _LARGEST_POWER).relu()  # [S, 1]
    gains = (labels - shift).exp2() - (-shift).exp2()
    best = gains.sort(1, descending=True).values * _inverse_discounts(gains) * top
    return gains / best.sum(1, keepdim=True).clamp_min(eps)


def pair_weights(gains: Tensor, weighting: Weighting, mu: float) -> Tensor:
    """w of a pair, see :func:`swift_reranker.losses.lambda_loss`.

    Args:
        gains: [S, M].
        weighting: how to weigh; not ``none``.
        mu: weight of ``ndcg_loss2`` in ``ndcg_loss2++``.

    Returns:
        [S, M, M]; a candidate and itself are no pair, and what stands there means nothing.
    """
    shares = _inverse_discounts(gains)  # [M]
    places = torch.arange(len(shares), device=gains.device)
    swapped = (shares[:, None] - shares).abs()  # [M, M]
    distance = (places[:, None] - places).abs()  # [M, M]
    bound = shares[distance - 1] - shares[distance]  # 1 / D(d) stands at d - 1
    scheme = {"lambda_rank": swapped, "ndcg_loss2": bound, "ndcg_loss2++": mu * bound + swapped}[weighting]
    return scheme * (gains[:, :, None] - gains[:, None]).abs()


def _inverse_discounts(gains: Tensor) -> Tensor:
    """1 / D(r) = 1 / log2(1 + r) of the ranks 1 to M, [M]."""
    return 1 / torch.arange(2, gains.shape[1] + 2, device=gains.device, dtype=gains.dtype).log2()
