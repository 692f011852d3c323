"""What a loss is told of the answers of a batch: figures of whole sequences."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The A answers of a batch under the policy, and under the reference where the task has one.

    Attributes:
        logps: [A] float32, the sum of weight x log p(token) over an answer's tokens.
        tokens: [A] float32, how many tokens that is a sum of, those of weight 0 included.
        reference: [A] the same under the reference, without gradient; None where the task has none.
        confidence: [A] without gradient, the mean over tokens of log p(token) - log sum_v p(v)^2; None unless
            the loss asks for it.
        mean_logits: [A] without gradient, the mean over tokens and vocabulary of the logits; None where a
            family's head does not allow for it.
    """

    logps: Tensor
    tokens: Tensor
    reference: Tensor | None = None
    confidence: Tensor | None = None
    mean_logits: Tensor | None = None
