"""The losses, each a function of scores and targets that gives one number per group.

A group is a query with its candidates; scores come flat, with the row of each, in any order. The caller takes
the plain mean over rows, so the gradient of a global batch does not depend on how it is cut. All compute in
float32, whatever the type of the scores. A group that has nothing to compare gives 0.

``sentence_transformers.cross_encoder.losses`` gives the same values and gradients for one group. For several,
its BinaryCrossEntropyLoss and MSELoss take the mean over all candidates of the batch, its LambdaLoss,
RankNetLoss and MarginMSELoss that over all pairs: long lists count more.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from swift_reranker.groups import LOWEST, lists, log_shares, mean_of_rows, padded, sorted_lists
from swift_reranker.pair_weights import Weighting, normal_gains, pair_weights

# Shape legend: K candidates of all groups, S groups, M candidates of the largest. group: int64, 0 to S - 1.


def binary_cross_entropy(scores: Tensor, labels: Tensor, group: Tensor) -> Tensor:
    r"""Judge each candidate on its own, mean over the candidates of a group.

    .. math:: L = -\frac{1}{M} \sum_i \left(y_i \log \sigma(s_i) + (1 - y_i) \log(1 - \sigma(s_i))\right)

    Nogueira and Cho 2019, "Passage Re-ranking with BERT", equation 1, there as a sum.

    Args:
        scores: s, [K] logits.
        labels: y, [K] from 0 to 1; a teacher's probabilities too.
        group: [K]

    Returns:
        [S]
    """
    losses = functional.binary_cross_entropy_with_logits(scores.float(), labels.float(), reduction="none")
    return mean_of_rows(*padded(losses, group))


def mean_squared_error(scores: Tensor, labels: Tensor, group: Tensor) -> Tensor:
    r"""Bring each score, without a sigmoid, to a grade or a teacher's score: L = mean((s_i - y_i)^2).

    Args:
        scores: s, [K]
        labels: y, [K]
        group: [K]

    Returns:
        [S]
    """
    return mean_of_rows(*padded((scores.float() - labels.float()).square(), group))


def softmax_cross_entropy(
    scores: Tensor, labels: Tensor, group: Tensor, *, temperature: float = 1.0
) -> Tensor:
    r"""Find each positive among the negatives of its group.

    .. math:: L = -\frac{1}{|P|} \sum_{p \in P}
        \log \frac{e^{s_p / \tau}}{e^{s_p / \tau} + \sum_{n \in N} e^{s_n / \tau}}

    Positives do not compete with each other: with all of them in the sum, no scores would bring the loss
    below log |P|. With one positive this is the loss of Gao et al. 2021, "Rethink Training of BERT Rerankers
    in Multi-Stage Retrieval Pipeline", as FlagEmbedding trains with it.

    Args:
        scores: s, [K]
        labels: [K]; above 0 a positive, otherwise a negative. A group that lacks either gives 0.
        group: [K]
        temperature: tau.

    Returns:
        [S]
    """
    s, y, mask = lists(scores.float() / temperature, labels, group)
    positive = mask & (y > 0)
    negatives = s.masked_fill(positive | ~mask, LOWEST).logsumexp(1)  # [S]
    return mean_of_rows(functional.softplus(negatives[:, None] - s), positive)


def ranknet(
    scores: Tensor,
    labels: Tensor,
    group: Tensor,
    *,
    k: int | None = None,
    sigma: float = 1.0,
    reduction_log: Literal["binary", "natural"] = "binary",
) -> Tensor:
    r"""Order each pair of a group as its labels order it.

    .. math:: L = \frac{1}{|T|} \sum_{(i, j) \in T} \log_2\left(1 + e^{-\sigma (s_i - s_j)}\right), \quad
        T = \{(i, j): y_i > y_j\}

    Burges et al. 2005, "Learning to Rank using Gradient Descent", section 3.

    Args:
        scores: s, [K]
        labels: y, [K]
        group: [K]
        k: see :func:`lambda_loss`.
        sigma: scale of the differences.
        reduction_log: base of the logarithm, 2 or e.

    Returns:
        [S]
    """
    return lambda_loss(scores, labels, group, weighting="none", k=k, sigma=sigma, reduction_log=reduction_log)


def lambda_loss(
    scores: Tensor,
    labels: Tensor,
    group: Tensor,
    *,
    weighting: Weighting = "ndcg_loss2++",
    k: int | None = None,
    sigma: float = 1.0,
    mu: float = 10.0,
    eps: float = 1e-10,
    reduction_log: Literal["binary", "natural"] = "binary",
) -> Tensor:
    r"""Order each pair of a group, the more eagerly the more nDCG it would bring.

    .. math:: L = \frac{1}{|T|} \sum_{(i, j) \in T} w_{ij} \log_2(1 + e^{-\sigma (s_i - s_j)}), \quad
        T = \{(i, j): y_i > y_j\}

    With gains G = (2^y - 1) / maxDCG, the discount D(r) = log2(1 + r), and r_i the rank of i by score, w is

    - ``lambda_rank``: abs(1 / D(r_i) - 1 / D(r_j)) abs(G_i - G_j), what nDCG changes by if they swap;
    - ``ndcg_loss2``: (1 / D(d) - 1 / D(d + 1)) abs(G_i - G_j) with d = abs(r_i - r_j), of a tighter bound;
    - ``ndcg_loss2++``: mu times the second plus the first;
    - ``none``: 1, which is :func:`ranknet`.

    Wang et al. 2018, "The LambdaLoss Framework for Ranking Metric Optimization". As in sentence-transformers,
    the mean over pairs stands where the paper has the sum. Weights have no gradient. Equal scores rank in the
    order of the group.

    Args:
        scores: s, [K]
        labels: y, [K]; below 0 there is no gain.
        group: [K]
        weighting: see above.
        k: only pairs with a candidate among the first k by score count, and maxDCG is that of k. None: all.
        sigma: scale of the differences.
        mu: see ``ndcg_loss2++``.
        eps: least maxDCG.
        reduction_log: base of the logarithm, 2 or e.

    Returns:
        [S]
    """
    s, y, mask = sorted_lists(scores, labels, group, by_score=True)
    pairs = (y[:, :, None] > y[:, None]) & mask[:, :, None] & mask[:, None]  # [S, M, M]
    top = torch.arange(s.shape[1], device=s.device) < (s.shape[1] if k is None else k)  # [M]
    losses = functional.softplus(-sigma * (s[:, :, None] - s[:, None]))
    if reduction_log == "binary":
        losses = losses / math.log(2)
    if weighting != "none":
        losses = losses * pair_weights(normal_gains(y, top, eps), weighting, mu)
    return mean_of_rows(losses.flatten(1), (pairs & (top[:, None] | top)).flatten(1))


def listnet(scores: Tensor, labels: Tensor, group: Tensor) -> Tensor:
    r"""Give the candidates the distribution of their labels.

    .. math:: L = -\sum_i softmax(y)_i \log softmax(s)_i

    Cao et al. 2007, "Learning to Rank: From Pairwise Approach to Listwise Approach", top one probability.

    Args:
        scores: s, [K]
        labels: y, [K]
        group: [K]

    Returns:
        [S]
    """
    s, y, mask = lists(scores, labels, group)
    target = y.masked_fill(~mask, LOWEST).softmax(1)
    return -(target * log_shares(s, mask)).sum(1)


def list_mle(scores: Tensor, labels: Tensor, group: Tensor) -> Tensor:
    r"""Make the order of the labels the most likely one.

    .. math:: L = -\sum_r \log \frac{e^{s_{\pi_r}}}{\sum_{j \ge r} e^{s_{\pi_j}}}

    with pi the candidates by label, the largest first. Equal labels keep their order in the group, which is
    then learned too: for lists in which most labels are 0, another loss serves better. Xia et al. 2008,
    "Listwise Approach to Learning to Rank: Theory and Algorithm". In sentence-transformers it is that with
    ``respect_input_order=False``.

    Args:
        scores: s, [K]
        labels: [K]
        group: [K]

    Returns:
        [S]
    """
    log_likelihood, _ = _plackett_luce(scores, labels, group)
    return -log_likelihood.sum(1)


def p_list_mle(scores: Tensor, labels: Tensor, group: Tensor) -> Tensor:
    r"""The loss of :func:`list_mle` in which the first places count more.

    .. math:: L = -\sum_r \frac{\alpha_r}{\sum_i \alpha_i}
        \log \frac{e^{s_{\pi_r}}}{\sum_{j \ge r} e^{s_{\pi_j}}}, \quad \alpha_r = 2^{M - r} - 1

    Lan et al. 2014, "Position-Aware ListMLE: A Sequential Learning Process for Ranking"; weights are
    normalised as in sentence-transformers.

    Args:
        scores: s, [K]
        labels: [K]
        group: [K]

    Returns:
        [S]
    """
    log_likelihood, mask = _plackett_luce(scores, labels, group)
    length = mask.sum(1, keepdim=True).float()  # [S, 1]
    rank = torch.arange(1, mask.shape[1] + 1, device=mask.device)  # [M]
    # Divided by 2^(M - 1), which the normalisation takes away again, so that long lists do not overflow.
    alpha = ((1.0 - rank).exp2() - (1.0 - length).exp2()).masked_fill(~mask, 0.0)  # [S, M]
    alpha = alpha / alpha.sum(1, keepdim=True).clamp_min(1e-10)
    return -(alpha * log_likelihood).sum(1)


def _plackett_luce(scores: Tensor, labels: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """Log-likelihood of each choice among what is left, [S, M], 0 for padding, and the mask."""
    s, _, mask = sorted_lists(scores, labels, group, by_score=False)
    s = s.masked_fill(~mask, LOWEST)
    # The largest becomes 0: float32 is finest there, and the logarithm of a share stays what it is.
    s = s - s.detach().amax(1, keepdim=True)
    left = s.flip(1).logcumsumexp(1).flip(1)  # [S, M]
    return (s - left).masked_fill(~mask, 0.0), mask


def margin_mse(scores: Tensor, teacher: Tensor, group: Tensor) -> Tensor:
    r"""Give each pair of a group the margin that a teacher gives it.

    .. math:: L = \frac{1}{|T|} \sum_{(i, j) \in T} (s_i - s_j - (t_i - t_j))^2, \quad
        T = \{(i, j): t_i > t_j\}

    Hofstätter et al. 2020, "Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge
    Distillation", equation 4, where each pair is a positive and a negative.

    Args:
        scores: s, [K]
        teacher: t, [K]
        group: [K]

    Returns:
        [S]
    """
    s, t, mask = lists(scores, teacher, group)
    wanted = t[:, :, None] - t[:, None]  # [S, M, M]
    pairs = (wanted > 0) & mask[:, :, None] & mask[:, None]
    errors = (s[:, :, None] - s[:, None] - wanted).square()
    return mean_of_rows(errors.flatten(1), pairs.flatten(1))


def kl_divergence(
    scores: Tensor,
    teacher: Tensor,
    group: Tensor,
    *,
    temperature: float = 1.0,
    teacher_temperature: float = 1.0,
) -> Tensor:
    r"""Give the candidates of a group the distribution that a teacher gives them.

    .. math:: L = KL(softmax(t / \tau_t) \| softmax(s / \tau))

    Lin et al. 2020, "Distilling Dense Representations for Ranking using Tightly-Coupled Teachers", 3.2.

    Args:
        scores: s, [K]
        teacher: t, [K]
        group: [K]
        temperature: tau.
        teacher_temperature: tau_t.

    Returns:
        [S]
    """
    cooled = scores.float() / temperature
    s, t, mask = lists(cooled, teacher.float() / teacher_temperature, group)
    target = log_shares(t, mask)
    return (target.exp() * (target - log_shares(s, mask))).sum(1)
