"""Preference pairs of a batch, as losses see them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from swift_dpo.answers import Answers


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """P pairs of a batch's answers.

    Attributes:
        better: [P] places among the answers.
        worse: [P]
        margin: [P] how much larger the better one's reward should be; below 0: it may be so much smaller.
        weight: [P] what each counts.
    """

    better: Tensor
    worse: Tensor
    margin: Tensor
    weight: Tensor

    def difference(self, values: Tensor) -> Tensor:
        """Of [A] values, that of the better answer less that of the worse: [P]."""
        return values[self.better] - values[self.worse]

    def mean(self, losses: Tensor) -> Tensor:
        """The weighed sum of [P] losses over P: the mean where all weigh 1; 0 without pairs."""
        return (self.weight * losses).sum() / max(len(losses), 1)


def pairs_of(
    batch: Mapping[str, Any], *, target_margin: float = 0.0, constraint_weight: float = 0.0
) -> Pairs:
    """The pairs of a batch, each with its own margin and what options add to all.

    Args:
        batch: with ``better``, ``worse``, ``margin``, ``pair_weight``, and perhaps ``violations``.
        target_margin: added to all.
        constraint_weight: see :mod:`swift_dpo.constraint`.
    """
    better, worse = batch["better"], batch["worse"]
    margin = batch["margin"] + target_margin
    if constraint_weight and batch.get("violations") is not None:
        violations = batch["violations"]
        margin = margin + constraint_weight * (violations[worse] - violations[better])
    return Pairs(better=better, worse=worse, margin=margin, weight=batch["pair_weight"])


def with_likelihood(
    pair_mean: Tensor, weight: float, answers: Answers, pairs: Pairs, batch: Mapping[str, Any]
) -> tuple[Tensor, Tensor]:
    """The loss of the pairs beside that of behaviour cloning: the mean NLL of tokens of better answers.

    An answer that is the better one of several pairs counts in each.

    Args:
        pair_mean: a number.
        weight: what the second mean weighs.
        answers: of the batch.
        pairs: of the batch.
        batch: its ``num_items`` is (pairs, tokens of their better answers).

    Returns:
        The two means, [2], and the figure ``nll_loss``: sum and count, [2].
    """
    _, tokens = batch["num_items"]
    total = -(pairs.weight * answers.logps[pairs.better]).sum()
    loss = torch.stack([pair_mean, weight * total / max(tokens, 1)])
    return loss, torch.stack([total.detach(), total.detach().new_full((), float(tokens))])
