"""The figures of an evaluation, from arrays. All equal scikit-learn's where it has them.

Rows or classes that leave a figure undefined are legal and give no warning; each docstring says what the
figure is then. scikit-learn and scipy are imported where they are used, for they are slow to import.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from swift_cls.calibration import binary_calibration_error, expected_calibration_error

# Shape legend: N rows (at least one), C classes or labels.


def class_figures(
    probabilities: np.ndarray, targets: np.ndarray, predicted: np.ndarray, *, one_label: bool
) -> dict[str, float]:
    """What can be said of single-label and multi-label predictions alike.

    Macro is the mean over classes, as scikit-learn takes them: with ``one_label`` over those that a row has
    or is given, else over all C, with 0 for one that is neither there nor predicted. Weighted is the mean
    weighted by rows; micro counts all cells together, and is the accuracy where each row has and is given
    one class.

    Args:
        probabilities: [N, C]
        targets: [N, C] of 0 and 1.
        predicted: [N, C] of 0 and 1.
        one_label: whether each row has and is given one class.

    Returns:
        ``f1_macro``, ``f1_micro``, ``f1_weighted``, ``precision_macro``, ``recall_macro``; ``roc_auc``, one
        class against the rest, mean over the classes with rows of both kinds; ``average_precision``, mean
        over the classes with rows. Without such a class the last two are NaN.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    hits, given, support = _counts(targets, predicted)
    f1 = _ratio(2 * hits, given + support)
    counted = given + support > 0 if one_label else np.ones(len(f1), bool)
    return {
        "f1_macro": float(f1[counted].mean()),
        "f1_micro": float(_ratio(2 * hits.sum(), given.sum() + support.sum())),
        "f1_weighted": float(_ratio((f1 * support).sum(), support.sum())),
        "precision_macro": float(_ratio(hits, given)[counted].mean()),
        "recall_macro": float(_ratio(hits, support)[counted].mean()),
        "roc_auc": _mean_where(
            (support > 0) & (support < len(targets)), roc_auc_score, probabilities, targets
        ),
        "average_precision": _mean_where(support > 0, average_precision_score, probabilities, targets),
    }


def single_figures(probabilities: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """What can be said where each row has one class; the one with the highest probability is predicted.

    Args:
        probabilities: [N, C]
        targets: [N] int.

    Returns:
        ``accuracy``; ``mcc``, Matthews' correlation coefficient (Gorodkin 2004), 0.0 where all rows have or
        are given the same class; ``log_loss``; ``ece``, see :func:`expected_calibration_error`.
    """
    count = probabilities.shape[1]
    predicted = probabilities.argmax(1)
    true = probabilities[np.arange(len(targets)), targets]  # [N]
    return {
        "accuracy": float(np.mean(predicted == targets)),
        "mcc": _matthews(confusion(predicted, targets, count)),
        "log_loss": float(-_log(true).mean()),
        "ece": expected_calibration_error(probabilities, targets),
    }


def multi_figures(probabilities: np.ndarray, targets: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """What can be said where a row may have several labels or none.

    Args:
        probabilities: [N, C]
        targets: [N, C] of 0 and 1.
        predicted: [N, C] of 0 and 1.

    Returns:
        ``subset_accuracy``, the share of rows that are right in all labels; ``hamming_loss``, the share of
        wrong cells; ``f1_samples``, the mean of each row's F1, 0 for a row that has no label even if it is
        given none (scikit-learn's zero_division=0); ``binary_log_loss``, mean over cells; ``binary_ece``,
        see :func:`binary_calibration_error`.
    """
    wrong = (targets != 0) != (predicted != 0)  # [N, C]
    hits, given, support = _counts(targets.T, predicted.T)  # [N]
    true = np.where(targets, probabilities, 1 - probabilities)  # [N, C]
    return {
        "subset_accuracy": float(1 - wrong.any(1).mean()),
        "hamming_loss": float(wrong.mean()),
        "f1_samples": float(_ratio(2 * hits, given + support).mean()),
        "binary_log_loss": float(-_log(true).mean()),
        "binary_ece": binary_calibration_error(probabilities, targets),
    }


def score_figures(predictions: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """What can be said of predicted numbers.

    Args:
        predictions: [N]
        targets: [N]

    Returns:
        ``mse``, ``mae``; ``r2``, where all targets are equal 1.0 for exact predictions and else 0.0, and 0.0
        for one row; ``pearson`` and ``spearman``, 0.0 where predictions or targets are all equal (undefined,
        but NaN is not JSON). Only if all targets are whole numbers ``qwk``, the quadratic weighted kappa
        (Cohen 1968) of the predictions, rounded and clipped to the range of the targets; 0.0 where all
        targets are equal.
    """
    from scipy.stats import rankdata

    predictions, targets = np.asarray(predictions, np.float64), np.asarray(targets, np.float64)
    figures = {
        "mse": float(np.square(predictions - targets).mean()),
        "mae": float(np.abs(predictions - targets).mean()),
        "r2": _determination(predictions, targets),
        "pearson": _correlation(predictions, targets),
        "spearman": _correlation(rankdata(predictions), rankdata(targets)),
    }
    if (targets == np.rint(targets)).all():
        figures["qwk"] = _quadratic_kappa(np.rint(predictions).clip(targets.min(), targets.max()), targets)
    return figures


def per_class(predicted: np.ndarray, targets: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
    """Precision, recall and F1 of each class, 0.0 where undefined, and its number of rows.

    Args:
        predicted: [N, C] of 0 and 1.
        targets: [N, C] of 0 and 1.
        names: [C]

    Returns:
        [C] of ``label``, ``precision``, ``recall``, ``f1``, ``support``.
    """
    hits, given, support = _counts(targets, predicted)
    columns = (
        names,
        _ratio(hits, given).tolist(),
        _ratio(hits, support).tolist(),
        _ratio(2 * hits, given + support).tolist(),
        support.tolist(),
    )
    keys = ("label", "precision", "recall", "f1", "support")
    return [dict(zip(keys, row, strict=True)) for row in zip(*columns, strict=True)]


def confusion(predicted: np.ndarray, targets: np.ndarray, count: int) -> np.ndarray:
    """How many rows of each class (first axis) were given each class (second axis).

    Args:
        predicted: [N] int.
        targets: [N] int.
        count: C

    Returns:
        [C, C] int.
    """
    cells = np.asarray(targets, np.int64) * count + np.asarray(predicted, np.int64)
    return np.bincount(cells, minlength=count * count).reshape(count, count)


def confusion_rows(matrix: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
    """The cells of a confusion matrix that are not zero, as rows of ``true``, ``predicted``, ``count``.

    Args:
        matrix: [C, C], see :func:`confusion`.
        names: [C]
    """
    return [
        {"true": names[true], "predicted": names[given], "count": int(matrix[true, given])}
        for true, given in np.argwhere(matrix).tolist()
    ]


def _counts(targets: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows that have and are given each class, that are given it, and that have it; each [C]."""
    has, given = targets != 0, predicted != 0
    return (has & given).sum(0), given.sum(0), has.sum(0)


def _ratio(part: Any, whole: Any) -> np.ndarray:
    """part / whole, and 0 where the whole is 0, as scikit-learn's zero_division=0 has it."""
    quotient: np.ndarray = np.divide(part, whole, out=np.zeros(np.shape(whole)), where=np.asarray(whole) != 0)
    return quotient


def _mean_where(
    defined: np.ndarray,
    figure: Callable[[np.ndarray, np.ndarray], float],
    probabilities: np.ndarray,
    targets: np.ndarray,
) -> float:
    values = [figure(targets[:, c], probabilities[:, c]) for c in np.flatnonzero(defined)]
    return float(np.mean(values)) if values else float("nan")


def _log(probabilities: np.ndarray) -> np.ndarray:
    """The logarithm of probabilities kept off 0 and 1 by their type's step, as scikit-learn's log_loss."""
    step = np.finfo(probabilities.dtype).eps
    return np.log(np.asarray(probabilities.clip(step, 1 - step), np.float64))


def _matthews(matrix: np.ndarray) -> float:
    """(c s - t . p) / sqrt((s^2 - p . p)(s^2 - t . t)): c of s rows right; t have, p are given each class."""
    true, given = matrix.sum(1).astype(np.float64), matrix.sum(0).astype(np.float64)  # [C]
    rows = true.sum()
    spread = np.sqrt(rows**2 - given @ given) * np.sqrt(rows**2 - true @ true)
    return float((np.trace(matrix) * rows - true @ given) / spread) if spread else 0.0


def _determination(predictions: np.ndarray, targets: np.ndarray) -> float:
    """1 - sum((y - x)^2) / sum((y - mean(y))^2)."""
    if len(targets) < 2:
        return 0.0
    left = np.square(targets - predictions).sum()
    if np.ptp(targets) == 0:
        return float(left == 0)
    return float(1 - left / np.square(targets - targets.mean()).sum())


def _correlation(left: np.ndarray, right: np.ndarray) -> float:
    # Asked of the values: the mean of equal ones can miss them by a rounding, and that would correlate.
    if np.ptp(left) == 0 or np.ptp(right) == 0:
        return 0.0
    left, right = left - left.mean(), right - right.mean()
    return float(np.clip(left @ right / (np.linalg.norm(left) * np.linalg.norm(right)), -1.0, 1.0))


def _quadratic_kappa(left: np.ndarray, right: np.ndarray) -> float:
    """1 - E[(x_i - y_i)^2] / E[(x_i - y_j)^2] over rows i and j.

    With squares, the second mean is var(x) + var(y) + (mean(x) - mean(y))^2: no table of all pairs of values
    is needed, which would not fit in memory for targets from 0 to a million.
    """
    chance = left.var() + right.var() + (left.mean() - right.mean()) ** 2
    return float(1 - np.square(left - right).mean() / chance) if np.ptp(right) else 0.0
