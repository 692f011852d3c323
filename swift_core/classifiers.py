"""Classifiers of transformers whose body runs on flat rows: a score or labels for each text.

A task whose model is a ``...ForSequenceClassification`` class prepares it with :func:`as_flat_classifier`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions

from swift_core.adapters import head_modules
from swift_core.batching import pad_batch
from swift_core.flat import FlatBatch, PoolingMethod, Rung, flat_batch, pool_segments, segment_vectors
from swift_core.flat.forward import is_causal_model, run_rung
from swift_core.modes import evaluating

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Shape legend: S rows, K chunks of them, N tokens, B rows and T tokens with padding, D dimensions, C outputs.

_PROBE_LENGTHS = (5, 9, 3)


class FlatClassifier:
    """Put before a ``...ForSequenceClassification`` class of transformers: its forward pass on flat rows.

    The body gives vectors of tokens, these are pooled, and the family's own head gets each pooled vector as
    the only token of a text. So whatever a family's head does (another dense layer, an activation) is done.

    Attributes:
        pooling_method: which token vectors the head reads; None where none of the ways is the family's own,
            and the model runs on padded rows.
        family_pooling: the family's own way, None where it is none of them.
        chunk_pooling: ``mean`` or ``max`` over the chunks of a text.
    """

    pooling_method: PoolingMethod | None
    family_pooling: PoolingMethod | None
    chunk_pooling: str
    base_model_prefix: str
    config: Any

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
        owner: Tensor | None = None,
        **kwargs: Any,  # transformers' contract: each family has its own
    ) -> Any:
        """Logits [S, C] of ``flat``, or what the class of transformers does with its own arguments.

        Args:
            flat: K chunks; what has a parent is read with it before it.
            owner: [K] the row of each chunk, from 0 to S - 1; None where each row is one chunk.
        """
        if flat is None:
            return super().forward(input_ids, *args, **kwargs)  # type: ignore[misc]
        if self.pooling_method != "lasttoken":
            flat = flat.joined()
        if self.pooling_method is None:
            return self._padded(flat)
        vectors = self.flat_vectors(flat)  # [K, D]
        return self.flat_logits(vectors if owner is None else pool_chunks(vectors, owner, self.chunk_pooling))

    def flat_vectors(self, flat: FlatBatch) -> Tensor:
        """[K, D] what the head reads."""
        method = self.pooling_method or "mean"
        return segment_vectors(self.flat_part, flat, method)

    def flat_logits(self, vectors: Tensor) -> Tensor:
        """Logits [S, C] of pooled vectors [S, D], in the type of the head: float32."""
        twin = object.__new__(type(self))
        # A copy that shares the weights: two threads may be in here.
        stub = _Pooled(vectors, self.flat_part, self._head_dtype)
        modules = {**self.__dict__["_modules"], self.base_model_prefix: stub}
        twin.__dict__ = {**self.__dict__, "_modules": modules}
        ones = torch.ones(vectors.shape[0], 1, dtype=torch.long, device=vectors.device)
        pad = self.config.get_text_config().pad_token_id
        with torch.autocast(vectors.device.type, enabled=False):
            output = super(FlatClassifier, twin).forward(  # type: ignore[misc]
                input_ids=ones if pad != 1 else ones * 0, attention_mask=ones
            )
        logits: Tensor = output.logits
        return logits

    @property
    def _head_dtype(self) -> torch.dtype:
        names = head_modules(self)  # type: ignore[arg-type]
        heads: list[nn.Module] = [getattr(self, name) for name in names]
        return next(parameter.dtype for head in heads for parameter in head.parameters())

    def _padded(self, flat: FlatBatch) -> Tensor:
        ids, _, types = flat.rows()
        pad = self.config.get_text_config().pad_token_id
        inputs = pad_batch(ids, pad_token_id=pad or 0)
        if types is not None:
            inputs["token_type_ids"] = pad_batch(types, pad_token_id=0)["input_ids"]
        device = flat.input_ids.device
        logits: Tensor = super().forward(**{n: t.to(device) for n, t in inputs.items()}).logits  # type: ignore[misc]
        return logits


class _Pooled(nn.Module):
    """Stands where the body was: gives the vectors it was made with, each as a text of one token."""

    def __init__(self, vectors: Tensor, body: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.hidden, self.dtype = vectors.unsqueeze(1), dtype  # [S, 1, D]
        # Not a submodule: it belongs to the body.
        self.poolers = [pooler] if (pooler := getattr(body, "pooler", None)) is not None else []

    def forward(self, *_: Any, **__: Any) -> BaseModelOutputWithPoolingAndCrossAttentions:
        # Under autocast the vectors may be of another type than the weights.
        pooled = [
            pooler(self.hidden.to(next(pooler.parameters()).dtype)).to(self.dtype) for pooler in self.poolers
        ]
        return BaseModelOutputWithPoolingAndCrossAttentions(
            last_hidden_state=self.hidden.to(self.dtype), pooler_output=pooled[0] if pooled else None
        )


def pool_chunks(vectors: Tensor, owner: Tensor, how: str) -> Tensor:
    """One vector a text from those of its chunks.

    Args:
        vectors: [K, D].
        owner: [K] the text of each chunk, from 0 to S - 1, each at least once.
        how: ``mean`` or ``max`` (of each component).

    Returns:
        [S, D]
    """
    rows = int(owner.max()) + 1
    index = owner.unsqueeze(1).expand_as(vectors)
    empty = torch.zeros(rows, vectors.shape[1], dtype=vectors.dtype, device=vectors.device)
    reduced = "amax" if how == "max" else "mean"
    return empty.scatter_reduce(0, index, vectors, reduced, include_self=False)


def as_flat_classifier(
    model: PreTrainedModel,
    *,
    fresh_head: bool,
    pooling_method: PoolingMethod | None = None,
    chunk_pooling: str = "mean",
) -> Any:
    """Make a loaded ``...ForSequenceClassification`` model a :class:`FlatClassifier`, in place.

    Args:
        model: of its family's own class, whose name it keeps: it is what config.json says and users load.
        fresh_head: start the head at random, also where the model came with one (for other labels). Where it
            came with none, the library has started it, as it does for its own users with the same seed.
        pooling_method: which token vectors the head reads; None for the family's own way.
        chunk_pooling: see :class:`FlatClassifier`.

    Returns:
        ``model``; its head is in float32 where it can be called alone.
    """
    heads = [getattr(model, name) for name in head_modules(model)]
    if fresh_head and _may_come_with_head(model):
        for head in heads:
            _start_afresh(head, model)
    kind = type(model)
    model.__class__ = type(kind.__name__, (FlatClassifier, kind), {"__module__": kind.__module__})
    classifier: Any = model
    classifier.family_pooling = own_pooling(model)
    classifier.pooling_method = pooling_method or classifier.family_pooling
    classifier.chunk_pooling = chunk_pooling
    if classifier.pooling_method is not None:
        for head in heads:
            head.float()
    return classifier


def _may_come_with_head(model: PreTrainedModel) -> bool:
    known = model.config.architectures or ("ForSequenceClassification",)
    return any(name.endswith("ForSequenceClassification") for name in known)


def _start_afresh(head: nn.Module, model: PreTrainedModel) -> None:
    """A head that came with the model, for other labels, is of no use."""
    for parameter in head.parameters():
        parameter._is_hf_initialized = False  # type: ignore[attr-defined]  # else the library leaves it alone
    head.apply(model._init_weights)


def own_pooling(model: Any) -> PoolingMethod | None:
    """Which token vectors the family's own head reads, found by trying; None where it is none of the ways."""
    config = model.config.get_text_config()
    generator = torch.Generator().manual_seed(0)
    usable = [n for n in range(min(config.vocab_size, 1000)) if n != config.pad_token_id]
    picks = [torch.randint(len(usable), (length,), generator=generator) for length in _PROBE_LENGTHS]
    rows = [torch.tensor(usable)[pick] for pick in picks]
    device = next(model.parameters()).device
    # Where a run computes in mixed precision, the roundings of one way would hide which one it is.
    with evaluating(model), torch.autocast(device.type, enabled=False):
        inputs = {n: t.to(device) for n, t in pad_batch(rows, pad_token_id=config.pad_token_id or 0).items()}
        expected = model(**inputs).logits.float()
        flat = flat_batch(rows).to(device)
        hidden = run_rung(Rung.PADDING, model.flat_part, flat)
        differences = {
            method: _difference(model, hidden, flat, method, expected) for method in get_args(PoolingMethod)
        }
    tolerance = 1e-4 if next(model.parameters()).dtype == torch.float32 else 3e-2
    likely = "lasttoken" if is_causal_model(model.flat_part) else "cls"
    # A head that starts at zero agrees with all of them.
    best = min(differences, key=lambda method: (differences[method], method != likely))
    return best if differences[best] <= tolerance else None


def _difference(
    model: Any, hidden: Tensor, flat: FlatBatch, method: PoolingMethod, expected: Tensor
) -> float:
    """The largest difference of a logit, relative to the largest logit."""
    try:
        found = model.flat_logits(pool_segments(hidden, flat, method))
    except Exception:  # whatever a family's head makes of texts of one token
        return float("inf")
    if found.shape != expected.shape:
        return float("inf")
    scale = expected.abs().max().clamp(min=1e-3)
    return float((found - expected).abs().max() / scale)
