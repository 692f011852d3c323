"""From a batch to figures of whole answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from swift_core.flat import Rung, state_of
from swift_dpo.answers import Answers

_FEW_TOKENS = 4096
_MANY_TOKENS = 65_536


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
    # An answer to another prompt may have been cut to nothing that counts.
    counts = batch["tokens"].clamp(min=1)
    return Answers(
        logps=_by_answer(found["logps"] * batch["weights"], batch),
        tokens=batch["tokens"],
        confidence=_by_answer(found["confidence"], batch) / counts if confidence else None,
        mean_logits=_by_answer(found["mean_logits"], batch) / counts,
    )


def token_budget(model: nn.Module) -> int:
    """Tokens of a batch without gradients that suit the model's device and the way it runs."""
    # A mask of all tokens against all grows with their square.
    few = next(model.parameters()).device.type == "cpu" or state_of(model).rung is Rung.MASK
    return _FEW_TOKENS if few else _MANY_TOKENS


def _by_answer(values: Tensor, batch: Mapping[str, Any]) -> Tensor:
    """[T] -> [A], sums over the tokens of each answer."""
    # One after the other in float32, hundreds of tokens lose 1e-3, which beta times log-ratios would show.
    wide = values if values.device.type == "mps" else values.double()
    return wide.new_zeros(len(batch["tokens"])).index_add(0, batch["owners"], wide).to(values.dtype)
