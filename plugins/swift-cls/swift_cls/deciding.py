"""From logits to probabilities, and from these to labels: with the temperature and thresholds of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from swift_cls.calibration import sigmoid, softmax

if TYPE_CHECKING:
    from swift_cls.collator import Decision
    from swift_cls.options import Problem

# Shape legend: N rows, C outputs.


def probabilities(logits: np.ndarray, problem: Problem, decision: Decision) -> np.ndarray:
    """Probabilities [N, C] of logits [N, C], divided by the temperature; for scores the logits themselves."""
    if problem == "regression":
        return np.asarray(logits, np.float64)
    squash = sigmoid if problem == "multi_label" else softmax
    return squash(logits / decision.temperature)


def chosen(values: np.ndarray, problem: Problem, decision: Decision) -> np.ndarray:
    """What is decided of probabilities [N, C]: ids [N], or for several labels booleans [N, C]."""
    if problem == "multi_label":
        several: np.ndarray = values >= np.asarray(decision.threshold)
        return several
    ids: np.ndarray = values.argmax(1)
    return ids
