"""The classifier: transformers' own class for it, whose body runs on flat rows."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, get_args

import torch
import transformers
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions

from swift_cls.settings import labels_of_folder
from swift_core.adapters import head_modules
from swift_core.batching import pad_batch
from swift_core.errors import UserError, listed
from swift_core.flat import FlatBatch, PoolingMethod, Rung, flat_batch, pool_segments, segment_vectors
from swift_core.flat.forward import is_causal_model, run_rung
from swift_core.model_folders import is_adapter, load_config, resolve_model
from swift_core.models import Head, load_backbone
from swift_core.modes import evaluating

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from swift_cls.collator import ClassificationCollator
    from swift_core.arguments import TrainingArguments

# Shape legend: S rows, K chunks of them, N tokens, B rows and T tokens with padding, D dimensions, C outputs.

_PROBE_LENGTHS = (5, 9, 3)
_SHOWN = 10
_PROBLEMS = {
    "single_label": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}


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
            flat: K chunks.
            owner: [K] the row of each chunk, from 0 to S - 1; None where each row is one chunk.
        """
        if flat is None:
            return super().forward(input_ids, *args, **kwargs)  # type: ignore[misc]
        if self.pooling_method is None:
            return self._padded(flat)
        vectors = self.flat_vectors(flat)  # [K, D]
        return self.flat_logits(vectors if owner is None else pool_chunks(vectors, owner, self.chunk_pooling))

    def flat_vectors(self, flat: FlatBatch) -> Tensor:
        """[K, D] what the head reads."""
        method = self.pooling_method or "mean"
        return segment_vectors(
            self.flat_part, flat, lambda hidden, batch: pool_segments(hidden, batch, method)
        )

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
        return next(parameter.dtype for name in names for parameter in getattr(self, name).parameters())

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


def build_model(args: TrainingArguments, collator: ClassificationCollator) -> Any:
    """The model to train.

    Raises:
        UserError: it can't be built, or can't be used as the options say.
    """
    labels, config = collator.known_labels, load_config(args)
    # Of the folder that is loaded now, which may be a checkpoint of the run.
    known = labels_of_folder(resolve_model(args), config)
    has_head = known is not None and (known.problem, known.names) == (labels.problem, labels.names)
    if known is not None and not has_head and is_adapter(resolve_model(args)):
        raise UserError(
            f"model_name_or_path: the adapter {args.core.model_name_or_path} has a head for the labels "
            f"{listed(known.names[:_SHOWN])}, and the data has others; export its run as hf and start there"
        )
    config.num_labels = len(labels)
    config.problem_type = _PROBLEMS[labels.problem]
    if labels.names:
        config.id2label = dict(enumerate(labels.names))
        config.label2id = {name: number for number, name in enumerate(labels.names)}
    # Without one, transformers refuses batches of a decoder, or reads the vector of a padding token.
    config.get_text_config().pad_token_id = config.pad_token_id = collator.tokenizer.pad_token_id
    head = Head(
        config=config,
        prepare=partial(_prepare, args=args, fresh=not has_head),
        task_type="SEQ_CLS",
    )
    return load_backbone(args, transformers.AutoModelForSequenceClassification, head)


def _prepare(model: PreTrainedModel, *, args: TrainingArguments, fresh: bool) -> PreTrainedModel:
    if fresh:
        for name in head_modules(model):
            _start_afresh(getattr(model, name), model)
    kind = type(model)
    # The name stays: it is what config.json says and what users load.
    model.__class__ = type(kind.__name__, (FlatClassifier, kind), {"__module__": kind.__module__})
    classifier: Any = model
    own = own_pooling(model)
    asked = args.task.pooling_method
    classifier.pooling_method, classifier.family_pooling = asked or own, own
    classifier.chunk_pooling = "max" if args.task.long_text == "chunk_max" else "mean"
    _check_pooling(args, own, kind.__name__)
    if classifier.pooling_method is not None:
        for name in head_modules(model):
            getattr(model, name).float()
    return model


def _start_afresh(head: nn.Module, model: PreTrainedModel) -> None:
    """A head that came with the model, for other labels, is of no use."""
    for parameter in head.parameters():
        parameter._is_hf_initialized = False  # type: ignore[attr-defined]  # else the library leaves it alone
    head.apply(model._init_weights)


def _check_pooling(args: TrainingArguments, own: PoolingMethod | None, kind: str) -> None:
    asked = args.task.pooling_method
    faults = []
    if asked not in (None, own) and "hf" in args.core.export_formats:
        faults.append(
            f"pooling_method: transformers' {kind} reads {own or 'something else'}, found {asked}, so the "
            "format hf would give other labels; leave pooling_method out, or export as onnx"
        )
    if asked is None and own is None and args.core.sequence_parallel_size > 1:
        faults.append(
            f"sequence_parallel_size: {kind} runs on padded rows, which can't be shared; set pooling_method"
        )
    if asked is None and own is None and args.task.long_text.startswith("chunk"):
        faults.append(
            f"long_text: the head of {kind} can't be given the vectors of chunks; set pooling_method"
        )
    if faults:
        raise UserError(*faults)


def own_pooling(model: Any) -> PoolingMethod | None:
    """Which token vectors the family's own head reads, found by trying; None where it is none of the ways."""
    config = model.config.get_text_config()
    generator = torch.Generator().manual_seed(0)
    usable = [n for n in range(min(config.vocab_size, 1000)) if n != config.pad_token_id]
    picks = [torch.randint(len(usable), (length,), generator=generator) for length in _PROBE_LENGTHS]
    rows = [torch.tensor(usable)[pick] for pick in picks]
    device = next(model.parameters()).device
    with evaluating(model):
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
