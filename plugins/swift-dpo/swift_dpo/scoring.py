"""From a batch to figures of whole answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from swift_dpo.answers import Answers


def answer_scores(model: nn.Module, batch: Mapping[str, Any], *, confidence: bool = False) -> Answers:
    """Run ``model`` on a batch; the reference's figures are left out.

    Args:
        model: see :mod:`swift_dpo.policy`; perhaps wrapped.
        batch: A answers, as the collator makes it.
        confidence: also give :attr:`Answers.confidence`.
    """
    found = model(
        flat=batch["flat"],
        predictors=batch["predictors"],
        targets=batch["targets"],
        confidence=confidence,
    )
    tokens = batch["tokens"]
    return Answers(
        logps=_by_answer(found["logps"] * batch["weights"], batch),
        tokens=tokens,
        confidence=_by_answer(found["confidence"], batch) / tokens if confidence else None,
        mean_logits=_by_answer(found["mean_logits"], batch) / tokens,
    )


def _by_answer(values: Tensor, batch: Mapping[str, Any]) -> Tensor:
    """[T] -> [A], sums over the tokens of each answer."""
    # One after the other in float32, hundreds of tokens lose 1e-3, which beta times log-ratios would show.
    wide = values if values.device.type == "mps" else values.double()
    return wide.new_zeros(len(batch["tokens"])).index_add(0, batch["owners"], wide).to(values.dtype)
