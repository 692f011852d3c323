"""Rewards under other divergences from the reference than the reverse KL."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from swift_dpo.options import FDivergence

_LARGEST_EXPONENT = 80.0
"""e^80 is 5.5e34, which float32 holds together with a beta and a difference."""

_NEAR_ONE = 1e-6


def reward(log_ratio: Tensor, divergence: FDivergence, *, alpha: float = 0.5) -> Tensor:
    r"""f'(t) of the probability ratio t = e^u, which is the reward over beta under an f-divergence.

    ========================  =================================
    ``reverse_kl``            u, that of DPO
    ``forward_kl``            1 - 1 / t
    ``js_divergence``         log(2 t / (1 + t))
    ``alpha_divergence``      (t^(alpha - 1) - 1) / (alpha - 1)
    ========================  =================================

    Wang et al. 2024, "Beyond Reverse KL: Generalizing Direct Preference Optimization with Diverse Divergence
    Constraints"; its alpha is 1 less the one here, which is TRL's. Only differences of two answers
    to one prompt mean something: a term of the prompt is left out.

    Args:
        log_ratio: u, any shape.
        divergence: see above.
        alpha: of ``alpha_divergence``; 1 is ``reverse_kl``.

    Returns:
        As ``log_ratio``; powers beyond e^80 are cut, and have no gradient.
    """
    match divergence:
        case "forward_kl":
            return -torch.expm1((-log_ratio).clamp(max=_LARGEST_EXPONENT))
        case "js_divergence":
            return math.log(2) + functional.logsigmoid(log_ratio)
        case "alpha_divergence" if abs(alpha - 1) >= _NEAR_ONE:
            power = alpha - 1
            return torch.expm1((power * log_ratio).clamp(max=_LARGEST_EXPONENT)) / power
    return log_ratio
