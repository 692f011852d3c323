"""InfoNCE."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def info_nce(
    queries: Tensor, documents: Tensor, targets: Tensor, *, temperature: float, excluded: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    r"""Contrast each query's document with all the other documents.

    .. math:: L = -\frac{1}{B} \sum_i \log
        \frac{\exp(q_i \cdot d_{t_i} / \tau)}{\sum_{j \notin X_i} \exp(q_i \cdot d_j / \tau)}

    van den Oord et al. 2018, "Representation Learning with Contrastive Predictive Coding", equation 4, with
    the softmax over in-batch and hard negatives of Karpukhin et al. 2020 (DPR).

    Args:
        queries: q, [B, D].
        documents: d, [N, D]; each text once.
        targets: t, [B], the document of each query.
        temperature: tau.
        excluded: X, [B, N], true where a document must not count as a negative of a query.

    Returns:
        The loss (scalar, mean over queries) and the share of queries whose own document scores highest.
    """
    scores = queries.float() @ documents.float().T / temperature  # [B, N]
    if excluded is not None:
        scores = scores.masked_fill(excluded, -torch.inf)
    hits = scores.detach().argmax(dim=1) == targets  # [B]
    return functional.cross_entropy(scores, targets), hits.float().mean()
