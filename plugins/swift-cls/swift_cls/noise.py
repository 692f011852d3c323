"""Rows whose label may be wrong, by confident learning (Northcutt et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Shape legend: N rows, C labels.

_FOLDS = 5


@dataclass(frozen=True, kw_only=True)
class Noise:
    """What was found.

    Attributes:
        suspects: rows that count off the diagonal of the confident joint, the surest first.
        suggested: for each of them the label that it may have.
        margins: p of the suggested label less p of the given one, for each of them.
        joint: [C, C] counts: rows given one label that are confidently of another.
    """

    suspects: tuple[int, ...]
    suggested: tuple[int, ...]
    margins: tuple[float, ...]
    joint: np.ndarray


def out_of_fold(vectors: np.ndarray, labels: np.ndarray, *, folds: int = _FOLDS, seed: int = 0) -> np.ndarray:
    """Probabilities of each row by a logistic regression that did not see it.

    Args:
        vectors: [N, D], of a frozen model.
        labels: [N] int from 0, each at least ``folds`` times.
        folds: parts of the data.
        seed: of the split.

    Returns:
        [N, C]
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    split = StratifiedKFold(folds, shuffle=True, random_state=seed)
    # Unit variance makes one strength of the penalty fit the vectors of every model.
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300))
    found: np.ndarray = cross_val_predict(model, vectors, labels, cv=split, method="predict_proba")
    return found


def confident_learning(probabilities: np.ndarray, labels: np.ndarray) -> Noise:
    """Which rows are given one label and are confidently of another.

    A row is confidently of label j when p_j is at least t_j, the mean of p_j over the rows given j; of
    several such j it counts for the one with the largest p_j (equations 1 and 2 of the paper). Suspects are
    the rows off the diagonal ("prune by the confident joint"), sorted by the margin between both labels.

    Args:
        probabilities: [N, C], out of fold.
        labels: [N] int, the given ones.
    """
    count = probabilities.shape[1]
    thresholds = np.array([probabilities[labels == j, j].mean() for j in range(count)])  # [C]
    confident = probabilities >= thresholds  # [N, C]
    best = np.where(confident, probabilities, -1.0).argmax(1)
    counted = confident.any(1)
    joint = np.zeros((count, count), dtype=int)
    np.add.at(joint, (labels[counted], best[counted]), 1)
    rows = np.flatnonzero(counted & (best != labels))
    margins = probabilities[rows, best[rows]] - probabilities[rows, labels[rows]]
    order = np.argsort(-margins, kind="stable")
    return Noise(
        suspects=tuple(rows[order].tolist()),
        suggested=tuple(best[rows][order].tolist()),
        margins=tuple(margins[order].tolist()),
        joint=joint,
    )


def confused_pairs(noise: Noise, names: Sequence[str]) -> list[tuple[str, str, int]]:
    """Given and suggested label with the number of rows, the most frequent first."""
    pairs = [
        (names[i], names[j], int(noise.joint[i, j]))
        for i in range(len(names))
        for j in range(len(names))
        if i != j and noise.joint[i, j]
    ]
    return sorted(pairs, key=lambda pair: -pair[2])
