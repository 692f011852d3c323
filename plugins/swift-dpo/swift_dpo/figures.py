"""What is logged beside a loss, under TRL's names where TRL has them.

Each is a tensor on the device: a number, the mean over the items of the batch, or two, a sum and how many it
is a sum of, for figures of only some of the items. Nothing is read from the device here.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from swift_dpo.answers import Answers

Figures = dict[str, Tensor]


def pair_figures(answers: Answers, better: Tensor, worse: Tensor, rewards: Tensor, logps: Tensor) -> Figures:
    """Rewards, log-probabilities, logits and KL of both sides, and how often the better answer wins.

    ``rewards/accuracies_longer`` is the accuracy on pairs whose better answer is the longer one in tokens,
    ``_shorter`` that where it is the shorter: far apart, they tell that length is what is learned. ``kl/*``
    is log pi - log pi_ref of whole answers, ``kl_token/*`` that by their number of tokens.

    Args:
        answers: of the batch.
        better: [P] places among the answers.
        worse: [P]
        rewards: [A]
        logps: [A] as the task reports them, sums or means.
    """
    best, worst = rewards.detach()[better], rewards.detach()[worse]
    right = (best > worst).float()
    longer = answers.tokens[better] > answers.tokens[worse]
    shorter = answers.tokens[better] < answers.tokens[worse]
    figures = {
        "rewards/chosen": mean_of(best),
        "rewards/rejected": mean_of(worst),
        "rewards/accuracies": mean_of(right),
        "rewards/margins": mean_of(best - worst),
        "rewards/accuracies_longer": _some(right, longer),
        "rewards/accuracies_shorter": _some(right, shorter),
    }
    for side, places in (("chosen", better), ("rejected", worse)):
        for name, values in _of_answers(answers, logps):
            figures[f"{name}/{side}"] = mean_of(values[places])
        if answers.mean_logits is not None:
            # By token, as TRL: a long answer counts for more.
            tokens = answers.tokens[places]
            logits = (answers.mean_logits[places] * tokens).sum()
            figures[f"logits/{side}"] = torch.stack([logits, tokens.sum()])
    return figures


def single_figures(answers: Answers, desirable: Tensor, judged: Tensor, rewards: Tensor) -> Figures:
    """The same of answers that are judged alone: ``chosen`` are desirable ones, ``rejected`` the others.

    Args:
        answers: of the batch.
        desirable: bool, [A]
        judged: bool, [A]; the others (answers to other prompts) are left out.
        rewards: [A]
    """
    figures: Figures = {}
    for side, wanted in (("chosen", desirable & judged), ("rejected", ~desirable & judged)):
        figures[f"rewards/{side}"] = _some(rewards.detach(), wanted)
        for name, values in _of_answers(answers, answers.logps):
            figures[f"{name}/{side}"] = _some(values, wanted)
        if answers.mean_logits is not None:
            weight = answers.tokens * wanted
            figures[f"logits/{side}"] = torch.stack([(answers.mean_logits * weight).sum(), weight.sum()])
    return figures


def mean_of(values: Tensor) -> Tensor:
    """The mean, without gradient; 0 where there are none."""
    return values.detach().sum() / max(len(values), 1)


def _of_answers(answers: Answers, logps: Tensor) -> Iterator[tuple[str, Tensor]]:
    yield "logps", logps.detach()
    if answers.reference is not None:
        log_ratios = answers.logps.detach() - answers.reference
        yield "kl", log_ratios
        yield "kl_token", log_ratios / answers.tokens.clamp(min=1)


def _some(values: Tensor, wanted: Tensor) -> Tensor:
    """Sum and count of those that are wanted, [2]."""
    return torch.stack([torch.where(wanted, values, 0.0).sum(), wanted.sum().to(values.dtype)])
