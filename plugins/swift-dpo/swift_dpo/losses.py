"""The losses of preference pairs, each a function of figures of whole answers that gives one number per pair.

The caller takes the mean over the pairs of the global batch. In the formulas w is the better answer of a pair
and l the worse; u = log pi(y|x) - log pi_ref(y|x) is an answer's log-ratio, [P] as ``better`` and ``worse``;
z, [P], is ``logits``: beta (u_w - u_l) less the target margin, where u may have gone through an f-divergence
(:mod:`swift_dpo.f_divergences`) or have been divided by the number of tokens. sigma is the logistic function.

``trl.DPOTrainer`` has the same values and gradients, but for what each docstring says.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

# Shape legend: P pairs of answers. beta: a number, or a tensor without dimensions (dynamic beta).


def sigmoid(logits: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    r"""Prefer the better answer, as often as labels are right.

    .. math:: L = -(1 - \epsilon) \log \sigma(z) - \epsilon \log \sigma(-z)

    Rafailov et al. 2023, "Direct Preference Optimization", equation 7; with smoothing Mitchell 2023, "A note
    on DPO with noisy preferences and relationship to IPO" (cDPO). TRL ignores the smoothing.

    Args:
        logits: z, [P]
        label_smoothing: epsilon, the share of pairs whose order is thought to be wrong.

    Returns:
        [P]
    """
    return -(1 - label_smoothing) * functional.logsigmoid(logits) - label_smoothing * functional.logsigmoid(
        -logits
    )


def hinge(logits: Tensor) -> Tensor:
    r"""Prefer the better answer by a margin of 1, and no further: L = max(0, 1 - z).

    Zhao et al. 2023, "SLiC-HF: Sequence Likelihood Calibration with Human Feedback"; with log-ratios in place
    of log-probabilities Liu et al. 2024, "Statistical Rejection Sampling Improves Preference Optimization".

    Args:
        logits: z, [P]

    Returns:
        [P]
    """
    return functional.relu(1 - logits)


def ipo(difference: Tensor, *, beta: float | Tensor) -> Tensor:
    r"""Bring the difference of the log-ratios to one size, and not on for ever as certain labels would.

    .. math:: L = \left(\bar u_w - \bar u_l - \frac{1}{2 \beta}\right)^2

    Azar et al. 2024, "A General Theoretical Paradigm to Understand Learning from Human Preferences",
    equation 17, where beta is called tau. The bar is the mean over tokens, as its authors compute it.

    Args:
        difference: [P]
        beta: strength of the pull to the reference.

    Returns:
        [P]
    """
    return (difference - 1 / (2 * beta)).square()


def robust(logits: Tensor, *, label_smoothing: float = 0.1) -> Tensor:
    r"""What :func:`sigmoid` would be without the wrong labels, in expectation.

    .. math:: L = \frac{-(1 - \epsilon) \log \sigma(z) + \epsilon \log \sigma(-z)}{1 - 2 \epsilon}

    Chowdhury et al. 2024, "Provably Robust DPO: Aligning Language Models with Noisy Feedback".

    Args:
        logits: z, [P]
        label_smoothing: epsilon, the share of pairs whose order is wrong; below 1/2.

    Returns:
        [P]
    """
    right, wrong = functional.logsigmoid(logits), functional.logsigmoid(-logits)
    return (label_smoothing * wrong - (1 - label_smoothing) * right) / (1 - 2 * label_smoothing)


def exo_pair(logits: Tensor, *, label_smoothing: float = 1e-3) -> Tensor:
    r"""Match the policy's choice between two answers to the labels, by the reverse KL divergence.

    .. math:: L = \sigma(z) \log \frac{\sigma(z)}{1 - \epsilon}
        + \sigma(-z) \log \frac{\sigma(-z)}{\epsilon}

    Ji et al. 2024, "Towards Efficient Exact Optimization of Language Model Alignment", equation 16.

    Args:
        logits: z, [P]
        label_smoothing: epsilon, above 0.

    Returns:
        [P]
    """
    right = functional.logsigmoid(logits) - math.log1p(-label_smoothing)
    wrong = functional.logsigmoid(-logits) - math.log(label_smoothing)
    return torch.sigmoid(logits) * right + torch.sigmoid(-logits) * wrong


def nca_pair(better: Tensor, worse: Tensor, *, beta: float | Tensor) -> Tensor:
    r"""Raise the reward of the better answer itself, not only above the other's.

    .. math:: L = -\log \sigma(\beta u_w) - \tfrac12 \log \sigma(-\beta u_w)
        - \tfrac12 \log \sigma(-\beta u_l)

    Chen et al. 2024, "Noise Contrastive Alignment of Language Models with Explicit Rewards", for two answers
    to a prompt.

    Args:
        better: u_w, [P]
        worse: u_l, [P]
        beta: strength of the pull to the reference.

    Returns:
        [P]
    """
    best, worst = beta * better, beta * worse
    pull = functional.logsigmoid(-best) + functional.logsigmoid(-worst)
    return -functional.logsigmoid(best) - 0.5 * pull


def bco_pair(better: Tensor, worse: Tensor, *, beta: float | Tensor, shift: float | Tensor = 0.0) -> Tensor:
    r"""Tell better answers from worse ones, each on its own, about the mean reward.

    .. math:: L = -\log \sigma(\beta u_w - \delta) - \log \sigma(\delta - \beta u_l), \quad
        \delta = \tfrac12 (E[\beta u_w] + E[\beta u_l])

    Jung et al. 2024, "Binary Classifier Optimization for Large Language Model Alignment".
    TRL leaves delta out.

    Args:
        better: u_w, [P]
        worse: u_l, [P]
        beta: strength of the pull to the reference.
        shift: delta, without gradient.

    Returns:
        [P]
    """
    return -functional.logsigmoid(beta * better - shift) - functional.logsigmoid(shift - beta * worse)


def sppo_hard(better: Tensor, worse: Tensor, *, beta: float | Tensor) -> Tensor:
    r"""Bring each answer's log-ratio to what its chance of winning says, 1 and 0.

    .. math:: L = \left(u_w - \frac{1}{2 \beta}\right)^2 + \left(u_l + \frac{1}{2 \beta}\right)^2

    Wu et al. 2024, "Self-Play Preference Optimization for Language Model Alignment", equation 4.7 with hard
    chances.

    Args:
        better: u_w, [P]
        worse: u_l, [P]
        beta: strength of the pull to the reference.

    Returns:
        [P]
    """
    return (better - 0.5 / beta).square() + (worse + 0.5 / beta).square()


def aot(policy: Tensor, reference: Tensor, *, beta: float | Tensor, label_smoothing: float = 0.0) -> Tensor:
    r"""Let the policy's margins as a whole lie above those of the reference, smallest against smallest.

    .. math:: L_i = -(1 - \epsilon) \log \sigma(\beta d_i) - \epsilon \log \sigma(-\beta d_i), \quad
        d = sort(policy) - sort(reference)

    Melnyk et al. 2024, "Distributional Preference Alignment of LLMs via Optimal Transport" (paired).
    Which pairs meet depends on the whole batch: it must be large, and one cut into micro-batches
    gives another loss.

    Args:
        policy: log pi(y_w) - log pi(y_l), [P]
        reference: the same of the reference, [P]
        beta: strength of the pull to the reference.
        label_smoothing: epsilon.

    Returns:
        [P], the i-th no longer of the i-th pair.
    """
    return sigmoid(beta * (policy.sort().values - reference.sort().values), label_smoothing=label_smoothing)


def aot_unpaired(
    better: Tensor, worse: Tensor, *, beta: float | Tensor, label_smoothing: float = 0.0
) -> Tensor:
    """Let log-ratios of better answers as a whole lie above those of worse ones; see :func:`aot`.

    The unpaired form of the same paper: sorted u_w against sorted u_l.

    Args:
        better: u_w, [P]
        worse: u_l, [P]
        beta: strength of the pull to the reference.
        label_smoothing: epsilon.

    Returns:
        [P], the i-th no longer of the i-th pair.
    """
    return sigmoid(beta * (better.sort().values - worse.sort().values), label_smoothing=label_smoothing)


def apo_zero(better: Tensor, worse: Tensor, *, beta: float | Tensor) -> Tensor:
    r"""Make better answers likelier and worse ones less likely than under the reference.

    .. math:: L = 1 - \sigma(\beta u_w) + \sigma(\beta u_l)

    D'Oosterlinck et al. 2024, "Anchored Preference Optimization and Contrastive Revisions", equation 7: for
    data whose better answers are better than the model's own.

    Args:
        better: u_w, [P]
        worse: u_l, [P]
        beta: strength of the pull to the reference.

    Returns:
        [P]
    """
    return torch.sigmoid(-beta * better) + torch.sigmoid(beta * worse)


def apo_down(better: Tensor, worse: Tensor, *, beta: float | Tensor) -> Tensor:
    r"""Make both answers less likely than under the reference, the worse one the more.

    .. math:: L = \sigma(\beta u_w) + 1 - \sigma(\beta (u_w - u_l))

    Equation 8 of the paper of :func:`apo_zero`: for data whose better answers are worse than the model's own.

    Args:
        better: u_w, [P]
        worse: u_l, [P]
        beta: strength of the pull to the reference.

    Returns:
        [P]
    """
    return torch.sigmoid(beta * better) + torch.sigmoid(beta * (worse - better))


def discopop(logits: Tensor, *, tau: float = 0.05) -> Tensor:
    r"""A blend of the logistic and the exponential loss that a language model found.

    .. math:: L = -\sigma(-z / \tau) \log \sigma(z) + \sigma(z / \tau) e^{-z}

    Lu et al. 2024, "Discovering Preference Optimization Algorithms with and for Large Language Models",
    equation 5. The second term is computed in logarithms: TRL's is NaN for z below -88.

    Args:
        logits: z, [P]
        tau: temperature of the blend, at most 1.

    Returns:
        [P]
    """
    exponential = (functional.logsigmoid(logits / tau) - logits).exp()
    return exponential - torch.sigmoid(-logits / tau) * functional.logsigmoid(logits)
