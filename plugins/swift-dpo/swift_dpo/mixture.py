"""The losses of ``dpo``, added up with their weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from swift_dpo import losses
from swift_dpo.answers import Answers
from swift_dpo.f_divergences import reward
from swift_dpo.options import DpoLoss, DpoOptions
from swift_dpo.pairs import Pairs
from swift_dpo.running import Running, batch_beta, mean_of_processes

SMOOTHING: dict[DpoLoss, float] = {"robust": 0.1, "exo_pair": 1e-3}
"""Defaults of ``label_smoothing`` other than 0."""

ANCHORED: frozenset[DpoLoss] = frozenset({"nca_pair", "bco_pair", "sppo_hard", "apo_zero", "apo_down"})
"""Losses that look at each answer's log-ratio, not only at their difference."""


@dataclass(frozen=True, kw_only=True)
class Mixed:
    """What losses of pairs add up to.

    Attributes:
        pair_mean: their weighed sum, a number.
        sft_weight: the weight of the likelihood of better answers, which is no loss of pairs.
        log_ratios: u, [A]
        beta: that of this batch, a number.
    """

    pair_mean: Tensor
    sft_weight: float
    log_ratios: Tensor
    beta: float | Tensor


@dataclass(frozen=True, kw_only=True)
class _Terms:
    """What losses are computed from.

    Attributes:
        better: u_w, [P]
        worse: u_l, [P]
        rewarded: f'(t) of all answers, [A]; u under the reverse KL.
        tokens: [A]
        beta: of this batch.
    """

    better: Tensor
    worse: Tensor
    rewarded: Tensor
    tokens: Tensor
    beta: float | Tensor


def mixed(answers: Answers, pairs: Pairs, options: DpoOptions, running: Running) -> Mixed:
    """Add up the losses of a batch's pairs.

    Args:
        answers: of the batch.
        pairs: of the batch.
        options: name the losses, and what they read.
        running: updated while gradients are computed.
    """
    log_ratios = answers.logps if answers.reference is None else answers.logps - answers.reference
    beta = _beta(log_ratios, pairs, options, running)
    alpha = 0.5 if options.f_alpha is None else options.f_alpha
    terms = _Terms(
        better=log_ratios[pairs.better],
        worse=log_ratios[pairs.worse],
        rewarded=reward(log_ratios, options.f_divergence, alpha=alpha),
        tokens=answers.tokens.clamp(min=1),
        beta=beta,
    )
    weights = options.loss_weights or [1.0] * len(options.losses)
    pair_mean, sft_weight = log_ratios.sum() * 0, 0.0
    for name, weight in zip(options.losses, weights, strict=True):
        if name == "sft":
            sft_weight += weight
            continue
        each = _loss(name, answers, pairs, terms, options, running)
        if options.wpo:
            each = each * _policy_weight(answers, pairs)
        pair_mean = pair_mean + weight * pairs.mean(each)
    return Mixed(pair_mean=pair_mean, sft_weight=sft_weight, log_ratios=log_ratios, beta=beta)


def _beta(log_ratios: Tensor, pairs: Pairs, options: DpoOptions, running: Running) -> float | Tensor:
    if options.dynamic_beta is None:
        return options.beta
    together = log_ratios.requires_grad
    margin = mean_of_processes(options.beta * pairs.difference(log_ratios), together=together)
    baseline = margin if running.margin.value is None else running.margin.value
    if together:
        running.margin.update(margin)
    return batch_beta(options.beta, margin, baseline, alpha=options.dynamic_beta)


def _loss(
    name: DpoLoss, answers: Answers, pairs: Pairs, terms: _Terms, options: DpoOptions, running: Running
) -> Tensor:
    """The loss ``name`` of each pair, [P]."""
    smoothing = options.label_smoothing
    if smoothing is None:
        smoothing = SMOOTHING.get(name, 0.0)
    if name in ("aot", "aot_unpaired"):
        return _sorted_loss(name, answers, pairs, terms, smoothing)
    if name in ANCHORED:
        return _anchored_loss(name, terms, running)
    if name == "ipo":
        return losses.ipo(pairs.difference(terms.rewarded / terms.tokens), beta=terms.beta)
    rewarded = terms.rewarded / terms.tokens if name == "sigmoid_norm" else terms.rewarded
    logits = terms.beta * pairs.difference(rewarded) - pairs.margin
    match name:
        case "hinge":
            return losses.hinge(logits)
        case "robust":
            return losses.robust(logits, label_smoothing=smoothing)
        case "exo_pair":
            return losses.exo_pair(logits, label_smoothing=smoothing)
        case "discopop":
            return losses.discopop(logits, tau=options.discopop_tau or 0.05)
    return losses.sigmoid(logits, label_smoothing=smoothing)


def _sorted_loss(name: DpoLoss, answers: Answers, pairs: Pairs, terms: _Terms, smoothing: float) -> Tensor:
    if name == "aot_unpaired":
        return losses.aot_unpaired(terms.better, terms.worse, beta=terms.beta, label_smoothing=smoothing)
    policy = pairs.difference(answers.logps)
    reference = torch.zeros_like(policy) if answers.reference is None else pairs.difference(answers.reference)
    return losses.aot(policy, reference, beta=terms.beta, label_smoothing=smoothing)


def _anchored_loss(name: DpoLoss, terms: _Terms, running: Running) -> Tensor:
    beta, better, worse = terms.beta, terms.better, terms.worse
    match name:
        case "nca_pair":
            return losses.nca_pair(better, worse, beta=beta)
        case "bco_pair":
            return losses.bco_pair(better, worse, beta=beta, shift=_shift(terms, running))
        case "sppo_hard":
            return losses.sppo_hard(better, worse, beta=beta)
        case "apo_down":
            return losses.apo_down(better, worse, beta=beta)
    return losses.apo_zero(better, worse, beta=beta)


def _shift(terms: _Terms, running: Running) -> Tensor:
    """Half the mean reward of better answers and half that of worse ones, moving with the run."""
    together = terms.better.requires_grad
    rewards = terms.beta * torch.cat([terms.better, terms.worse])
    mean = mean_of_processes(rewards, together=together)
    if together:
        return running.reward.update(mean)
    return mean if running.reward.value is None else running.reward.value


def _policy_weight(answers: Answers, pairs: Pairs) -> Tensor:
    """The product of both answers' exp(confidence), [P].

    Zhou et al. 2024, "WPO: Enhancing RLHF with Weighted Preference Optimization", equation 2, where answers
    are weighed by how likely the policy is to write them, relative to its sampling anything.
    """
    if answers.confidence is None:
        raise ValueError("wpo weighs pairs by the policy's confidence, which the forward pass did not give")
    confidence = answers.confidence.detach()
    return (confidence[pairs.better] + confidence[pairs.worse]).exp()
