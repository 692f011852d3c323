"""Tells when preferences are learned by forgetting the good answers."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from statistics import fmean

from torch import Tensor

_LOGS = 3
"""Figures are averaged over so many of them, which tames single batches."""
_BATCHES = 25
"""Figures of a run in training are read from the device once in so many batches."""


class LikelihoodAlarm:
    """Listens to logged figures, and speaks once.

    A loss of differences falls too when the chosen answer gets less likely and the rejected one even less
    (Pal et al. 2024, "Smaug: Fixing Failure Modes of Preference Optimisation with DPO-Positive"; Razin et al.
    2025, "Unintentional Unalignment: Likelihood Displacement in Direct Preference Optimization"). Accuracy
    does not show it: what gains the probability is other text.
    """

    def __init__(self, *, threshold: float = 0.1) -> None:
        """Make an alarm that speaks beyond ``threshold``, in nats per token of the chosen answers."""
        self._threshold = threshold
        self._kl: deque[float] = deque(maxlen=_LOGS)
        self._accuracy: deque[float] = deque(maxlen=_LOGS)
        self._first_accuracy: float | None = None
        self._spoken = False

    def heard(self, figures: Mapping[str, float]) -> str | None:
        """Take in what was logged; returns what to tell, which is nothing most of the time.

        Args:
            figures: with ``kl_token/chosen`` (mean log-ratio of policy to reference per token) and
                ``rewards/accuracies``; without them nothing happens.
        """
        kl, accuracy = figures.get("kl_token/chosen"), figures.get("rewards/accuracies")
        if kl is None or accuracy is None or self._spoken:
            return None
        if self._first_accuracy is None:
            self._first_accuracy = accuracy
        self._kl.append(kl)
        self._accuracy.append(accuracy)
        change, now = fmean(self._kl), fmean(self._accuracy)
        if len(self._kl) < _LOGS or change >= -self._threshold or now <= self._first_accuracy:
            return None
        self._spoken = True
        return (
            f"chosen answers got less likely than under the reference, by {-change:.2g} nats a token (more "
            f"than {self._threshold:g}), while accuracy rose from {self._first_accuracy:.2f} to {now:.2f}: "
            "the difference is learned, the answers are forgotten; add sft to the losses, raise beta, or "
            "lower the learning rate"
        )


class TrainingAlarm:
    """The same for figures of batches in training, which stay on their device between two looks at them."""

    def __init__(self, *, batches: int = _BATCHES) -> None:
        """Look once in so many ``batches``."""
        self._alarm, self._every = LikelihoodAlarm(), batches
        self._sums: dict[str, Tensor | float] = {}
        self._seen = 0

    def heard(self, figures: Mapping[str, Tensor | float]) -> str | None:
        """Take in the figures of a batch, see :mod:`swift_dpo.figures`; returns what to tell, if anything.

        Figures of answers that are judged alone tell of no accuracy, and are not listened to.
        """
        if "rewards/accuracies" not in figures:
            return None
        for name in ("kl_token/chosen", "rewards/accuracies"):
            if name in figures:
                self._sums[name] = self._sums.get(name, 0) + figures[name]
        self._seen += 1
        if self._seen % self._every:
            return None
        sums, self._sums = self._sums, {}
        return self._alarm.heard({name: float(total) / self._every for name, total in sums.items()})
