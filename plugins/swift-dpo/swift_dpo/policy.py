"""Causal models on flat rows: the log-probability of every answer token, and of nothing else."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from swift_core.batching import pad_batch
from swift_core.causal import Vectors, twin_with, vocabulary_head_name
from swift_core.errors import UserError
from swift_core.flat import FlatBatch, Rung, flat_batch, forward_flat
from swift_core.flat.forward import is_causal_model, run_rung
from swift_core.modes import evaluating
from swift_dpo.head import TokenScores, is_linear, linear_token_scores, own_token_scores

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Shape legend: N tokens of the flat row, T predicted tokens, D dimensions, V vocabulary.

_PROBE_LENGTHS = (5, 9, 3)


class FlatPolicy:
    """Put before a ``...ForCausalLM`` class of transformers: token scores of flat rows.

    The body gives the vectors of all tokens; only those that predict a token of an answer meet the
    vocabulary, chunk by chunk.

    Attributes:
        plain_head: the family's logits are those of its linear head, so its gradient can be written down.
    """

    plain_head: bool
    base_model_prefix: str

    @property
    def flat_part(self) -> nn.Module:
        """What runs on flat rows: see :mod:`swift_core.flat`."""
        part: nn.Module = getattr(self, self.base_model_prefix)
        return part

    def token_scores(
        self, flat: FlatBatch, predictors: Tensor, targets: Tensor, confidence: bool
    ) -> dict[str, Tensor | None]:
        """What :class:`swift_dpo.head.TokenScores` holds, by name.

        Args:
            flat: N tokens.
            predictors: [T] places in the flat row.
            targets: [T] the token that follows each.
            confidence: also give that.
        """
        hidden = forward_flat(self.flat_part, flat, picked=predictors)  # [T, D]
        return self.scores_of_vectors(hidden, targets, confidence)._asdict()

    def scores_of_vectors(self, hidden: Tensor, targets: Tensor, confidence: bool) -> TokenScores:
        """Scores of ``targets`` [T], given the vectors [T, D] before them."""
        head: Any = self.get_output_embeddings()  # type: ignore[attr-defined]
        if self.plain_head:
            return linear_token_scores(hidden, head.weight, head.bias, targets, confidence=confidence)
        vocabulary = self.config.get_text_config().vocab_size  # type: ignore[attr-defined]
        return own_token_scores(hidden, self.own_logits, vocabulary, targets, confidence)

    def own_logits(self, vectors: Tensor) -> Tensor:
        """Logits [T, V] of vectors [T, D], as the family's own forward pass makes them."""
        twin = twin_with(self, {self.base_model_prefix: Vectors(vectors)})
        ones = torch.ones(vectors.shape[0], 1, dtype=torch.long, device=vectors.device)
        logits: Tensor = super(FlatPolicy, twin).forward(input_ids=ones).logits  # type: ignore[misc]
        return logits[:, 0]


def _forward(
    self: Any,
    *args: Any,
    flat: FlatBatch | None = None,
    predictors: Tensor | None = None,
    targets: Tensor | None = None,
    confidence: bool = False,
    **kwargs: Any,  # transformers' contract: each family has its own
) -> Any:
    """Token scores of ``flat``, or what the class of transformers does with its own arguments."""
    if flat is None:
        return super(FlatPolicy, self).forward(*args, **kwargs)
    return self.token_scores(flat, predictors, targets, confidence)


def as_policy(model: PreTrainedModel) -> None:
    """Make a loaded causal model a :class:`FlatPolicy`, in place.

    Raises:
        UserError: its logits are not those of its head on the vectors of its body.
    """
    kind = type(model)

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return _forward(self, *args, **kwargs)

    # Generation looks there for what the family takes (masks, logits_to_keep).
    forward.__signature__ = inspect.signature(kind.forward)  # type: ignore[attr-defined]
    # The name stays: it is what config.json says and what users load.
    members = {"__module__": kind.__module__, "forward": forward}
    model.__class__ = type(kind.__name__, (FlatPolicy, kind), members)
    policy: Any = model
    policy.plain_head = False
    reason = _fault(policy)
    if reason is not None:
        raise UserError(
            f"model_name_or_path: {kind.__name__} can't be trained on preferences: {reason}; choose another "
            "causal language model"
        )


def _fault(policy: Any) -> str | None:
    """Why token scores of ``policy`` are not its family's; None where they are. Finds ``plain_head``."""
    head = policy.get_output_embeddings()
    if head is None or not vocabulary_head_name(policy):
        return "its vocabulary head is not a layer of it"
    if not is_causal_model(policy.flat_part):
        return "its attention looks both ways"
    generator = torch.Generator().manual_seed(0)
    vocabulary = policy.config.get_text_config().vocab_size
    rows = [torch.randint(1, min(vocabulary, 1000), (n,), generator=generator) for n in _PROBE_LENGTHS]
    device = next(policy.parameters()).device
    flat = flat_batch(rows).to(device)
    places = torch.cat([first + torch.arange(len(r)) for first, r in zip(flat.first, rows, strict=True)])
    targets = torch.zeros(len(places), dtype=torch.long, device=device)
    with evaluating(policy):
        inputs = {name: tensor.to(device) for name, tensor in pad_batch(rows, pad_token_id=0).items()}
        logits = policy(**inputs).logits.float()  # [B, T, V]
        whole = torch.cat([logits[n, : len(row)] for n, row in enumerate(rows)])  # [T, V]
        expected = whole.log_softmax(1)[:, 0]
        hidden = run_rung(Rung.PADDING, policy.flat_part, flat)[places.to(device)]
        for plain in [True, False] if is_linear(head) else [False]:
            policy.plain_head = plain
            found = policy.scores_of_vectors(hidden, targets, False).logps
            difference = float((found - expected).abs().max())
            if difference <= (1e-4 if hidden.dtype == torch.float32 else 5e-2):
                return None
    return f"its log-probabilities differ by {difference:.1e}"
