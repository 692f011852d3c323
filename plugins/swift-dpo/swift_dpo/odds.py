"""The log-odds ratio that ORPO raises."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_LARGEST = -1e-7
"""The mean log-probability of a token that counts as certain; beyond it odds are infinite."""


def log_odds_ratio(better: Tensor, worse: Tensor) -> Tensor:
    r"""How much better the odds of one answer are than those of the other.

    .. math:: \log \frac{p_w}{1 - p_w} - \log \frac{p_l}{1 - p_l}

    Hong et al. 2024, "ORPO: Monolithic Preference Optimization without Reference Model", equations 4 and 7,
    where p is the geometric mean of the probabilities of an answer's tokens. The loss of the pair is
    -log sigma of this.

    Args:
        better: log p_w, the mean over tokens, [P]
        worse: log p_l, [P]

    Returns:
        [P]
    """
    better, worse = better.clamp(max=_LARGEST), worse.clamp(max=_LARGEST)
    return (better - worse) - (_log_rest(better) - _log_rest(worse))


def _log_rest(x: Tensor) -> Tensor:
    """log(1 - e^x) for x < 0, by whichever form is exact there (Mächler 2012)."""
    return torch.where(x > -math.log(2), torch.log(-torch.expm1(x)), torch.log1p(-torch.exp(x)))
