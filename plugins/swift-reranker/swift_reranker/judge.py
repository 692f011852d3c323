"""Causal models that judge: the log-odds of one answer against another, from two rows of the vocabulary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from swift_core.batching import pad_batch
from swift_core.causal import Vectors, twin_with, vocabulary_head_name
from swift_core.errors import UserError
from swift_core.flat import FlatBatch, Rung, flat_batch, pool_segments, segment_vectors
from swift_core.flat.forward import is_causal_model, run_rung
from swift_core.modes import evaluating

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Shape legend: S rows, N tokens, D dimensions, V vocabulary.

_PROBE_LENGTHS = (5, 9, 3)


class FlatJudge:
    """Put before a ``...ForCausalLM`` class of transformers: scores of flat rows.

    The body gives the vector of each row's last token, and the family's own head gets them with a vocabulary
    of two: whatever else a family does with its logits (scales or caps them) is done.

    Attributes:
        answers: ids of the tokens that speak for a document and against it.
    """

    answers: tuple[int, int]
    base_model_prefix: str

    @property
    def flat_part(self) -> nn.Module:
        """What runs on flat rows: see :mod:`swift_core.flat`."""
        part: nn.Module = getattr(self, self.base_model_prefix)
        return part

    def forward(
        self,
        input_ids: Tensor | None = None,
        *args: Any,
        flat: FlatBatch | None = None,
        **kwargs: Any,  # transformers' contract: each family has its own
    ) -> Any:
        """Scores [S, 1] of ``flat``, or what the class of transformers does with its own arguments."""
        if flat is None:
            return super().forward(input_ids, *args, **kwargs)  # type: ignore[misc]
        return self.flat_scores(segment_vectors(self.flat_part, flat, "lasttoken"))

    def flat_scores(self, vectors: Tensor) -> Tensor:
        """logit(true) - logit(false), [S, 1] in float32, of vectors [S, D]."""
        rows = _TwoRows(self.get_output_embeddings(), self.answers)  # type: ignore[attr-defined]
        twin = twin_with(self, {self.base_model_prefix: Vectors(vectors), vocabulary_head_name(self): rows})
        ones = torch.ones(vectors.shape[0], 1, dtype=torch.long, device=vectors.device)
        with torch.autocast(vectors.device.type, enabled=False):
            logits = super(FlatJudge, twin).forward(input_ids=ones).logits.float()  # type: ignore[misc]
        found: Tensor = logits[:, 0, 0] - logits[:, 0, 1]
        return found.unsqueeze(1)


class _TwoRows(nn.Module):
    """Stands where the head was: two rows of it, in float32."""

    def __init__(self, head: nn.Module, rows: tuple[int, int]) -> None:
        super().__init__()
        weight, bias = head.weight, getattr(head, "bias", None)
        picked = torch.tensor(rows, device=weight.device)  # type: ignore[arg-type]
        self.rows: Tensor = weight[picked]  # type: ignore[index]
        self.shift: Tensor | None = None if bias is None else bias[picked]
        self.weight = self.rows

    def forward(self, hidden: Tensor) -> Tensor:
        return functional.linear(
            hidden.float(), self.rows.float(), None if self.shift is None else self.shift.float()
        )


def as_judge(model: PreTrainedModel, answers: tuple[int, int]) -> None:
    """Make a loaded causal model a :class:`FlatJudge`, in place.

    Raises:
        UserError: two rows of its vocabulary do not give what the whole of it gives.
    """
    kind = type(model)
    # The name stays: it is what config.json says and what users load.
    model.__class__ = type(kind.__name__, (FlatJudge, kind), {"__module__": kind.__module__})
    judge: Any = model
    judge.answers = answers
    reason = _fault(judge)
    if reason is not None:
        raise UserError(
            f"scoring: generative is not possible with {kind.__name__}: {reason}; set scoring=head, or "
            "choose another model"
        )


def with_two_rows(judge: Any) -> None:
    """Make the vocabulary of a judge, in place, that of its two answers: what a graph of it needs."""
    head = judge.get_output_embeddings()
    bias = getattr(head, "bias", None)
    small = nn.Linear(head.weight.shape[1], 2, bias=bias is not None).to(head.weight)
    with torch.no_grad():
        small.weight.copy_(head.weight[list(judge.answers)])
        if bias is not None:
            small.bias.copy_(bias[list(judge.answers)])
    setattr(judge, vocabulary_head_name(judge), small)
    judge.answers = (0, 1)


def _fault(judge: Any) -> str | None:
    """Why scores of ``judge`` are not those of its family; None where they are."""
    head = judge.get_output_embeddings()
    if not vocabulary_head_name(judge) or hasattr(head, "base_layer") or not hasattr(head, "weight"):
        return "its vocabulary head is not a plain layer of it (lora_target_modules must leave it out)"
    if not is_causal_model(judge.flat_part):
        return "its attention looks both ways"
    generator = torch.Generator().manual_seed(0)
    vocabulary = head.weight.shape[0]
    rows = [torch.randint(1, min(vocabulary, 1000), (n,), generator=generator) for n in _PROBE_LENGTHS]
    flat = flat_batch(rows).to(next(judge.parameters()).device)
    with evaluating(judge):
        inputs = pad_batch(rows, pad_token_id=0)
        logits = judge(**{name: tensor.to(flat.input_ids.device) for name, tensor in inputs.items()}).logits
        last = logits[torch.arange(len(rows)), [len(row) - 1 for row in rows]].float()  # [S, V]
        expected = last[:, judge.answers[0]] - last[:, judge.answers[1]]  # [S]
        hidden = run_rung(Rung.PADDING, judge.flat_part, flat)
        found = judge.flat_scores(pool_segments(hidden, flat, "lasttoken"))[:, 0]
    tolerance = 1e-4 if logits.dtype == torch.float32 else 3e-2
    difference = float((found - expected).abs().max() / last.abs().max().clamp(min=1e-3))
    return None if difference <= tolerance else f"its scores differ by {difference:.1e}"
