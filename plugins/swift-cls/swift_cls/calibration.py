"""How honest probabilities are, and what makes them more so: a temperature, and thresholds for labels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

# Shape legend: N rows, C classes or labels.

_COLDEST, _HOTTEST = 0.05, 20.0


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis, in float64."""
    logits = np.asarray(logits, np.float64)
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-z)), in float64."""
    return np.exp(-np.logaddexp(0.0, -np.asarray(logits, np.float64)))


def expected_calibration_error(probabilities: np.ndarray, targets: np.ndarray, bins: int = 15) -> float:
    """How far the probability of the predicted class is from the share of right predictions.

    ``sum_b |B_b| / N * |accuracy(B_b) - confidence(B_b)|`` over bins ((b - 1) / bins, b / bins] of the top
    probability. Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3.

    Args:
        probabilities: [N, C] with N above 0.
        targets: [N] int.
        bins: of equal width.
    """
    confidence = np.asarray(probabilities.max(1), np.float64)  # [N]
    return _binned_gap(confidence, probabilities.argmax(1) == targets, bins)


def binary_calibration_error(probabilities: np.ndarray, targets: np.ndarray, bins: int = 15) -> float:
    """How far the probability of a label is from the share of rows that have it, mean over labels.

    As :func:`expected_calibration_error`, over bins of the label's probability.

    Args:
        probabilities: [N, C] with N above 0.
        targets: [N, C] of 0 and 1.
        bins: of equal width.
    """
    gaps = [
        _binned_gap(np.asarray(column, np.float64), target, bins)
        for column, target in zip(probabilities.T, targets.T, strict=True)
    ]
    return float(np.mean(gaps))


def _binned_gap(confidence: np.ndarray, outcomes: np.ndarray, bins: int) -> float:
    inner = np.linspace(0, 1, bins + 1)[1:-1]
    place = np.searchsorted(inner, confidence, side="left")  # [N], a value on an edge is in the bin below it
    # |B| / N * |mean - mean| = |sum - sum| / N
    gap = np.bincount(place, outcomes, minlength=bins) - np.bincount(place, confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(confidence))


def fit_temperature(logits: np.ndarray, targets: np.ndarray) -> float:
    """The temperature T from 0.05 to 20 that makes ``softmax(logits / T)`` fit best.

    It minimises the log-loss, which is convex in 1 / T, so the minimum found is the only one. With
    ``targets`` of [N, C] it is that of ``sigmoid(logits / T)``, summed over labels. Guo et al. 2017, "On
    Calibration of Modern Neural Networks", section 4.2.

    Args:
        logits: [N, C]
        targets: [N] int, or [N, C] of 0 and 1.

    Returns:
        T. 1.0 where the rows cannot tell: there are none, all are right (the best T would be 0, whatever the
        logits), no T is better than 1, or a logit is NaN or infinite.
    """
    logits = np.asarray(logits, np.float64)
    if not logits.size or not np.isfinite(logits).all():
        return 1.0
    if targets.ndim == 1:
        relative = logits - logits.max(1, keepdims=True)  # [N, C], at most 0
        right = relative[np.arange(len(targets)), targets]  # [N]
        return _best_temperature(
            lambda scale: float(np.mean(np.log(np.exp(scale * relative).sum(1)) - scale * right)),
            undecided=bool((right == 0).all()),
        )
    margin = np.where(targets, logits, -logits)  # [N, C], the logit of what is true
    return _best_temperature(
        lambda scale: float(np.logaddexp(0.0, -scale * margin).mean()), undecided=bool((margin >= 0).all())
    )


def _best_temperature(loss: Callable[[float], float], *, undecided: bool) -> float:
    """Minimise ``loss`` of 1 / T over log T."""
    # Imported here: scipy.optimize is slow to import, and most users of this module do not fit.
    from scipy.optimize import minimize_scalar

    if undecided:
        return 1.0
    found = minimize_scalar(
        lambda logarithm: loss(float(np.exp(-logarithm))),
        bounds=(np.log(_COLDEST), np.log(_HOTTEST)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(found.x)) if found.fun < loss(1.0) else 1.0


def fit_threshold(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """The one threshold for all labels that gives the highest micro-F1.

    A label is predicted where its probability is at least the threshold. The best cut is found exactly, by
    sorting; the threshold lies halfway between the probabilities around it. Of equally good ones the
    closest to 0.5 is taken, and 0.5 where no row has a label.

    Args:
        probabilities: [N, C]
        targets: [N, C] of 0 and 1.
    """
    return _best_threshold(probabilities.ravel(), targets.ravel())


def fit_thresholds(probabilities: np.ndarray, targets: np.ndarray) -> list[float]:
    """A threshold for each label that gives the highest F1 of the label. See :func:`fit_threshold`.

    Args:
        probabilities: [N, C]
        targets: [N, C] of 0 and 1.

    Returns:
        [C], 0.5 for a label that no row has.
    """
    columns = zip(probabilities.T, targets.T, strict=True)
    return [_best_threshold(column, target) for column, target in columns]


def _best_threshold(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """The threshold with the highest F1 of a flat list of probabilities and outcomes, both [M]."""
    positives = int(np.count_nonzero(targets))
    if not positives:
        return 0.5
    order = np.argsort(-probabilities, kind="stable")
    falling = probabilities[order]
    below = np.append(falling[1:], falling.dtype.type(0))  # [M]
    hits = np.cumsum(targets[order] != 0)
    f1 = 2 * hits / (np.arange(1, len(falling) + 1) + positives)  # of predicting the first 1, 2, ..., M
    # Equal probabilities cannot be cut apart.
    f1[:-1][falling[:-1] == below[:-1]] = -1.0
    middle = below + (falling - below) / 2
    # In the type of the probabilities: of two neighbouring floats, the middle may be the lower one.
    middle = np.where(middle > below, middle, falling)
    best = middle[f1 == f1.max()]
    return float(best[np.abs(best - 0.5).argmin()])
