"""The loss of answers that are judged alone, desirable or not."""

from __future__ import annotations

import torch
from torch import Tensor


def kto(
    log_ratios: Tensor,
    desirable: Tensor,
    *,
    beta: float,
    baseline: Tensor,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    r"""Judge answers against what the policy gains over the reference anyway, as people weigh gain and loss.

    .. math:: L = \lambda_D (1 - \sigma(\beta (u - z_0))) \text{ or }
        \lambda_U (1 - \sigma(\beta (z_0 - u)))

    Ethayarajh et al. 2024, "KTO: Model Alignment as Prospect Theoretic Optimization". z_0 is the mean
    log-ratio of answers to other prompts, at least 0 (:func:`swift_dpo.objectives.kto_loss`).

    Args:
        log_ratios: u = log pi(y|x) - log pi_ref(y|x), [A]
        desirable: bool, [A]
        beta: strength of the pull to the reference.
        baseline: z_0, a number without gradient.
        desirable_weight: lambda_D.
        undesirable_weight: lambda_U.

    Returns:
        [A]
    """
    gain = beta * (log_ratios - baseline)
    return torch.where(
        desirable, desirable_weight * torch.sigmoid(-gain), undesirable_weight * torch.sigmoid(gain)
    )
