"""The loss of each task type: which functions are called, and with what.

All take the answers of a batch, the batch as the collator makes it, and the options of the task. A loss is
the sum over pairs (in kto over answers), each times its row's weight, divided by their number; the core
weighs batches by these numbers, so that the gradient is that of the mean over the global batch. Where
``options.needs_token_counts`` the loss is two such means, [2]: over pairs, and over tokens of better answers.
Figures to log: see :mod:`swift_dpo.figures`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from swift_core.hookspecs import LossOutput
from swift_dpo import losses, unpaired
from swift_dpo.answers import Answers
from swift_dpo.figures import mean_of, pair_figures, single_figures
from swift_dpo.mixture import mixed
from swift_dpo.odds import log_odds_ratio
from swift_dpo.options import CpoOptions, DpoOptions, KtoOptions, OrpoOptions, SimpoOptions
from swift_dpo.pairs import pairs_of, with_likelihood
from swift_dpo.running import Running, mean_of_processes

# Shape legend: A answers, P pairs of them.


def dpo_loss(
    answers: Answers, batch: Mapping[str, Any], options: DpoOptions, *, running: Running | None = None
) -> LossOutput:
    """The loss of ``dpo``, one or several added up.

    Args:
        answers: with a reference; without one log-probabilities stand for log-ratios. With ``wpo`` also with
            their confidence.
        batch: see the module.
        options: of the task.
        running: what the run remembers for ``dynamic_beta`` and ``bco_pair``, updated while gradients are
            computed; None: each batch stands for itself.
    """
    pairs = pairs_of(batch, target_margin=options.target_margin or 0.0)
    mix = mixed(answers, pairs, options, running or Running())
    rewards = options.beta * mix.log_ratios
    figures = pair_figures(answers, pairs.better, pairs.worse, rewards, answers.logps)
    if options.dynamic_beta is not None:
        figures["beta"] = torch.as_tensor(mix.beta)
    if not options.needs_token_counts:
        return LossOutput(mix.pair_mean, figures)
    loss, figures["nll_loss"] = with_likelihood(mix.pair_mean, mix.sft_weight, answers, pairs, batch)
    return LossOutput(loss, figures)


def cpo_loss(answers: Answers, batch: Mapping[str, Any], options: CpoOptions) -> LossOutput:
    r"""The loss of ``cpo``: a loss of pairs without a reference, and behaviour cloning.

    .. math:: L = mean_{pairs}\, \ell(\beta (\log \pi(y_w) - \log \pi(y_l)) - m)
        + w\, mean_{tokens}(-\log \pi(y_w))

    Xu et al. 2024, "Contrastive Preference Optimization: Pushing the Boundaries of LLM Performance in Machine
    Translation", equation 5. In ipo log-probabilities are means over tokens. The constrained form:
    :mod:`swift_dpo.constraint`; its collator orders answers by :func:`~swift_dpo.constraint.judged_scores`.

    Args:
        answers: without a reference.
        batch: see the module.
        options: of the task.
    """
    pairs = pairs_of(
        batch,
        target_margin=options.target_margin or 0.0,
        constraint_weight=options.constraint_weight or 0.0,
    )
    logps = _per_token(answers) if options.loss == "ipo" else answers.logps
    difference = pairs.difference(logps)
    logits = options.beta * difference - pairs.margin
    match options.loss:
        case "hinge":
            each = losses.hinge(logits)
        case "ipo":
            each = losses.ipo(difference, beta=options.beta)
        case _:
            each = losses.sigmoid(logits, label_smoothing=options.label_smoothing or 0.0)
    figures = pair_figures(answers, pairs.better, pairs.worse, options.beta * logps, logps)
    if batch.get("violations") is not None:
        violations = batch["violations"]
        figures["violations/chosen"] = mean_of(violations[pairs.better])
        figures["violations/rejected"] = mean_of(violations[pairs.worse])
    if not options.needs_token_counts:
        return LossOutput(pairs.mean(each), figures)
    loss, figures["nll_loss"] = with_likelihood(pairs.mean(each), options.bc_weight, answers, pairs, batch)
    return LossOutput(loss, figures)


def simpo_loss(answers: Answers, batch: Mapping[str, Any], options: SimpoOptions) -> LossOutput:
    r"""The loss of ``simpo``: rewards are mean log-probabilities of tokens, as they are when generating.

    .. math:: L = -\log \sigma\left(\frac{\beta}{|y_w|} \log \pi(y_w) - \frac{\beta}{|y_l|} \log \pi(y_l)
        - \gamma\right)

    Meng et al. 2024, "SimPO: Simple Preference Optimization with a Reference-Free Reward", equation 6; with
    behaviour cloning CPO-SimPO.

    Args:
        answers: without a reference.
        batch: see the module.
        options: of the task.
    """
    pairs = pairs_of(batch, target_margin=options.gamma)
    logps = _per_token(answers)
    logits = options.beta * pairs.difference(logps) - pairs.margin
    each = losses.sigmoid(logits, label_smoothing=options.label_smoothing)
    figures = pair_figures(answers, pairs.better, pairs.worse, options.beta * logps, logps)
    if not options.needs_token_counts:
        return LossOutput(pairs.mean(each), figures)
    loss, figures["nll_loss"] = with_likelihood(pairs.mean(each), options.bc_weight, answers, pairs, batch)
    return LossOutput(loss, figures)


def orpo_loss(answers: Answers, batch: Mapping[str, Any], options: OrpoOptions) -> LossOutput:
    r"""The loss of ``orpo``: the likelihood of better answers, and their odds against the worse ones.

    .. math:: L = mean_{tokens}(-\log \pi(y_w)) - \beta\, mean_{pairs} \log \sigma(\text{log-odds ratio})

    Hong et al. 2024, "ORPO: Monolithic Preference Optimization without Reference Model", equation 6. As
    everywhere here only tokens of answers count: TRL's likelihood takes in the prompt.

    Args:
        answers: without a reference.
        batch: see the module.
        options: of the task.
    """
    pairs = pairs_of(batch)
    logps = _per_token(answers)
    log_odds = log_odds_ratio(logps[pairs.better], logps[pairs.worse])
    log_sigma = functional.logsigmoid(log_odds)
    figures = pair_figures(answers, pairs.better, pairs.worse, options.beta * logps, logps)
    figures["log_odds_ratio"] = mean_of(log_sigma)
    figures["log_odds_chosen"] = mean_of(log_odds)
    pair_mean = pairs.mean(-options.beta * log_sigma)
    loss, figures["nll_loss"] = with_likelihood(pair_mean, 1.0, answers, pairs, batch)
    return LossOutput(loss, figures)


def kto_loss(answers: Answers, batch: Mapping[str, Any], options: KtoOptions) -> LossOutput:
    """The loss of ``kto``: each answer alone, desirable or not.

    The baseline of loss kto is the mean log-ratio of the batch's answers to other prompts, those of all
    processes while gradients are computed; at least 0, and without gradient. That of apo_zero_unpaired is 0:
    it is :func:`swift_dpo.losses.apo_zero` taken apart.

    Args:
        answers: with a reference.
        batch: with ``scores`` [A], above 0 for desirable answers, and ``unrelated``, places of answers to
            other prompts, which are the last ones. They have no loss of their own. ``pair_weight`` weighs
            the others.
        options: of the task.
    """
    log_ratios = answers.logps if answers.reference is None else answers.logps - answers.reference
    desirable = batch["scores"] > 0
    unrelated = batch.get("unrelated")
    judged = len(log_ratios) - (0 if unrelated is None else len(unrelated))
    places = torch.arange(len(log_ratios), device=log_ratios.device)
    figures = single_figures(answers, desirable, places < judged, options.beta * log_ratios)
    if options.loss == "kto":
        if unrelated is None:
            raise ValueError("loss kto compares with answers to other prompts, found none in the batch")
        read = unrelated[answers.tokens[unrelated] > 0]
        others = mean_of_processes(log_ratios[read], together=log_ratios.requires_grad)
        baseline = figures["kl"] = others.clamp(min=0)
    else:
        baseline = torch.zeros((), device=log_ratios.device)
    each = unpaired.kto(
        log_ratios[:judged],
        desirable[:judged],
        beta=options.beta,
        baseline=baseline,
        desirable_weight=options.desirable_weight,
        undesirable_weight=options.undesirable_weight,
    )
    each = each * batch["pair_weight"]
    return LossOutput(each.sum() / max(judged, 1), figures)


def _per_token(answers: Answers) -> Tensor:
    return answers.logps / answers.tokens.clamp(min=1)
