"""Means of earlier batches that a loss compares with, and means over all processes."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, distributed

_MOMENTUM = 0.9


@dataclass
class RunningMean:
    """An exponential moving average of batch means, without gradient; the first one is taken as it is.

    Attributes:
        value: a number as a tensor; None before the first batch.
    """

    value: Tensor | None = None

    def update(self, mean: Tensor) -> Tensor:
        """Take in the mean of a batch, and return the new value."""
        old = self.value
        self.value = mean if old is None else _MOMENTUM * old + (1 - _MOMENTUM) * mean
        return self.value


@dataclass(frozen=True)
class Running:
    """What the losses of a run remember; make one per run. A run that is resumed begins to remember anew.

    Attributes:
        margin: of the reward margins beta (u_w - u_l), for ``dynamic_beta``.
        reward: of the rewards beta u of all answers, the shift of ``bco_pair``.
    """

    margin: RunningMean = field(default_factory=RunningMean)
    reward: RunningMean = field(default_factory=RunningMean)


def mean_of_processes(values: Tensor, *, together: bool) -> Tensor:
    """The mean of ``values`` of all processes, without gradient; 0 where there are none.

    Args:
        values: [n], n may differ between processes.
        together: whether all processes call this at the same time, as in training; otherwise, as in
            evaluation, where they may have unequally many batches, this process's own are taken.
    """
    values = values.detach().float()
    pair = torch.stack([values.sum(), values.new_tensor(float(values.numel()))])
    if together and distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(pair)
    return pair[0] / pair[1].clamp(min=1)


def batch_beta(beta: float, margin: Tensor, baseline: Tensor, *, alpha: float) -> Tensor:
    r"""A larger beta for batches whose answers are easy to tell apart, a smaller one for hard ones.

    .. math:: \beta_{batch} = (1 + \alpha (M - M_0)) \beta_0

    Wu et al. 2024, "beta-DPO: Direct Preference Optimization with Dynamic beta", batch level. It is kept
    above beta_0 / 100.

    Args:
        beta: beta_0.
        margin: M, the mean of beta_0 (u_w - u_l) over the batch, without gradient.
        baseline: M_0, its running mean over earlier batches.
        alpha: how much it follows.

    Returns:
        A number as a tensor, without gradient.
    """
    return (beta * (1 + alpha * (margin - baseline))).clamp(min=beta / 100)
