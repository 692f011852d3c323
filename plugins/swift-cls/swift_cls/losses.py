"""The losses, each a function of logits and targets that gives one number per row.

The caller takes the plain mean over rows. torch's own weighted mean divides by the sum of the weights of the
rows it is given, so cutting a batch into micro-batches would change the gradient: a micro-batch of rare rows
would count as much as one of frequent rows. Here the divisor is the number of rows, so the gradient of a
global batch does not depend on how it is cut. All losses compute in float32, whatever the type of the logits.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, inf
from torch.nn import functional

# Shape legend: S rows (sequences), C classes or labels.


def cross_entropy(
    logits: Tensor, targets: Tensor, *, class_weights: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    r"""Cross entropy of each row.

    .. math:: L_i = -(1 - \epsilon) w_{y_i} \log p_{i y_i} - \frac{\epsilon}{C} \sum_c w_c \log p_{ic}

    Label smoothing: Szegedy et al. 2016, "Rethinking the Inception Architecture", section 7.

    Args:
        logits: [S, C]; p is their softmax.
        targets: y, [S] int, from 0 to C - 1.
        class_weights: w, [C]. None: all 1.
        label_smoothing: epsilon, from 0 to 1.

    Returns:
        [S]
    """
    weights = None if class_weights is None else class_weights.float()
    return functional.cross_entropy(
        logits.float(), targets, weights, label_smoothing=label_smoothing, reduction="none"
    )


def focal(logits: Tensor, targets: Tensor, *, gamma: float, class_weights: Tensor | None = None) -> Tensor:
    r"""Cross entropy in which rows that are right already count less.

    .. math:: L_i = -w_{y_i} (1 - p_{i y_i})^\gamma \log p_{i y_i}

    Lin et al. 2017, "Focal Loss for Dense Object Detection", equation 5, with the softmax for the sigmoid.

    Args:
        logits: [S, C] with at least two classes; p is their softmax.
        targets: y, [S] int, from 0 to C - 1.
        gamma: from 0, which is cross entropy, up.
        class_weights: w, [C]. None: all 1.

    Returns:
        [S]
    """
    shares = logits.float().log_softmax(1)  # [S, C]
    right = shares.gather(1, targets[:, None]).squeeze(1)  # [S]
    # log(1 - p) from the other classes: of 1 - p itself, a power below 1 has no finite gradient at p = 1.
    wrong = shares.scatter(1, targets[:, None], -inf).logsumexp(1)  # [S]
    losses = -(gamma * wrong).exp() * right
    return losses if class_weights is None else losses * class_weights.float()[targets]


def logit_adjusted(
    logits: Tensor,
    targets: Tensor,
    *,
    priors: Tensor,
    tau: float = 1.0,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    r"""Cross entropy of ``logits + tau * log(priors)``: rare classes win a larger margin.

    .. math:: L_i = -w_{y_i} \log \frac{e^{z_{i y_i} + \tau \log \pi_{y_i}}}
        {\sum_c e^{z_{ic} + \tau \log \pi_c}}

    Menon et al. 2021, "Long-tail Learning via Logit Adjustment", equation 10. Only the loss is adjusted: a
    prediction is the largest of the plain logits.

    Args:
        logits: z, [S, C]
        targets: y, [S] int, from 0 to C - 1.
        priors: pi, [C] the share of each class in the training data, each above 0.
        tau: 0 is cross entropy; 1 is consistent for the balanced error.
        class_weights: see :func:`cross_entropy`.
        label_smoothing: see :func:`cross_entropy`.

    Returns:
        [S]
    """
    adjusted = logits.float() + tau * priors.float().log()  # [S, C]
    return cross_entropy(adjusted, targets, class_weights=class_weights, label_smoothing=label_smoothing)


def binary_cross_entropy(
    logits: Tensor, targets: Tensor, *, positive_weights: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    r"""Cross entropy of each label on its own, mean over labels.

    .. math:: L_i = -\frac{1}{C} \sum_c w_c y'_{ic} \log p_{ic} + (1 - y'_{ic}) \log(1 - p_{ic}), \quad
        y' = (1 - \epsilon) y + \epsilon / 2

    Args:
        logits: [S, C]; p is their sigmoid.
        targets: y, [S, C] of 0 and 1, any type.
        positive_weights: w, [C]. None: all 1.
        label_smoothing: epsilon, from 0 to 1.

    Returns:
        [S]
    """
    smooth = targets.float() * (1 - label_smoothing) + label_smoothing / 2
    weights = None if positive_weights is None else positive_weights.float()
    losses = functional.binary_cross_entropy_with_logits(
        logits.float(), smooth, pos_weight=weights, reduction="none"
    )  # [S, C]
    return losses.mean(1)


def binary_focal(
    logits: Tensor, targets: Tensor, *, gamma: float, positive_weights: Tensor | None = None
) -> Tensor:
    r"""Cross entropy of each label in which labels that are right already count less, mean over labels.

    .. math:: L_i = -\frac{1}{C} \sum_c w_c^{y_{ic}} (1 - q_{ic})^\gamma \log q_{ic}

    with q the probability of what is true: p where y is 1, 1 - p where it is 0. Lin et al. 2017, "Focal Loss
    for Dense Object Detection", equation 5.

    Args:
        logits: [S, C]; p is their sigmoid.
        targets: y, [S, C] of 0 and 1, any type.
        gamma: from 0, which is cross entropy, up.
        positive_weights: w, [C]. None: all 1.

    Returns:
        [S]
    """
    positive = targets.bool()
    margin = logits.float().where(positive, -logits.float())  # [S, C], the logit of what is true
    losses = -(gamma * functional.logsigmoid(-margin)).exp() * functional.logsigmoid(margin)
    if positive_weights is not None:
        losses = losses * positive_weights.float().where(positive, 1.0)
    return losses.mean(1)


def squared_error(predictions: Tensor, targets: Tensor) -> Tensor:
    r"""L_i = (x_i - y_i)^2.

    Args:
        predictions: x, [S]
        targets: y, [S]

    Returns:
        [S]
    """
    return (predictions.float() - targets.float()).square()


def balanced_weights(counts: Sequence[int]) -> list[float]:
    """Class weights N / (C * n_c): each class counts as much as any other in the sum over all rows.

    King and Zeng 2001, "Logistic Regression in Rare Events Data"; scikit-learn's ``"balanced"``.

    Args:
        counts: n, [C] rows of each class.

    Raises:
        ValueError: a class has no rows; the message names its index.
    """
    _check_counts(counts)
    return [sum(counts) / (len(counts) * count) for count in counts]


def positive_weights(counts: Sequence[int], rows: int) -> list[float]:
    """Positive weights (N - n_c) / n_c: the rows with a label count as much as those without.

    A label that all rows have gets 1 in place of 0, with which nothing would ever say that it is there.

    Args:
        counts: n, [C] rows that have each label.
        rows: N

    Raises:
        ValueError: a label has no rows; the message names its index.
    """
    _check_counts(counts)
    return [(rows - count) / count or 1.0 for count in counts]


def _check_counts(counts: Sequence[int]) -> None:
    if empty := [index for index, count in enumerate(counts) if count < 1]:
        raise ValueError(f"expected at least one row of each class, found none at index {empty}")
