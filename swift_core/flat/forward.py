"""Running a model on a flat batch, in whatever way is exact for it: the ladder's rungs."""

from __future__ import annotations

import enum
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from swift_core.batching import pad_batch
from swift_core.flat.attention import NotFlatError
from swift_core.flat.batch import FlatBatch
from swift_core.flat.narrow import Tail, narrowed
from swift_core.flat.processes import callers, even_pieces, joined

if TYPE_CHECKING:
    from swift_core.flat.sequence import SequenceGroup, Shard

# Shape legend: S segments, N tokens of the flat row, D dimensions, P picked tokens, V vocabulary,
# B rows and T tokens of a padded sub-batch.

_SIMILAR = 0.8
_FEW_TOKENS = 512
"""Sub-batches hold rows at least so long as this share of their longest, unless that would leave crumbs."""


class Rung(enum.Enum):
    """How a model is run on a flat batch, the best first."""

    FLAT = "flat row"
    FLASH = "flat row by flash-attention"
    MASK = "flat row with a 4-D mask"
    SUB_BATCHES = "sub-batches of similar length"
    PADDING = "one padded batch"


@dataclass(frozen=True)
class FlatState:
    """What is known of a model, kept on the model itself.

    Attributes:
        rung: how it is run; None until a batch was run both ways.
        knows_parents: whether that batch had segments with parents.
        asked: the attention that the user asked for, which is then left alone.
        original: the attention that the model was loaded with, for all rungs but the flat row.
        offset: what is added to a position before it is looked up.
        reason: why no better rung was taken.
        group: the processes that share its flat rows while it trains; None where each has its own.
        tail: what of its last layer is computed for the tokens alone that are read; None for nothing.
    """

    rung: Rung | None = None
    knows_parents: bool = False
    asked: str | None = None
    original: str | None = None
    offset: int = 0
    reason: str = ""
    group: SequenceGroup | None = None
    tail: Tail | None = None

    @property
    def told(self) -> str:
        """The state in words."""
        how = "none" if self.rung in (Rung.FLAT, None) else self.rung.value
        return f"{how} ({self.reason})" if self.reason else how


def transformers_model(model: nn.Module) -> Any:
    """The transformers model inside DDP, torch.compile, peft and their like."""
    inner: Any = model
    while True:
        if isinstance(getattr(inner, "module", None), nn.Module):
            inner = inner.module
        elif isinstance(getattr(inner, "_orig_mod", None), nn.Module):
            inner = inner._orig_mod
        elif hasattr(inner, "get_base_model"):
            inner = inner.get_base_model()
        else:
            return inner


def unwrapped(model: nn.Module) -> Any:
    """The part of a wrapped model that runs on flat rows.

    That is the transformers model, or what its attribute ``flat_part`` says, under a head that does not.
    """
    inner = transformers_model(model)
    return getattr(inner, "flat_part", inner)


def state_of(model: nn.Module) -> FlatState:
    """What is known of ``model``."""
    state = getattr(unwrapped(model), "flat_state", None)
    return state if isinstance(state, FlatState) else FlatState()


def set_state(model: nn.Module, state: FlatState) -> None:
    """Remember what is known of ``model``."""
    unwrapped(model).flat_state = state


def run_rung(
    rung: Rung,
    model: nn.Module,
    batch: FlatBatch,
    picked: Tensor | None = None,
    shard: Shard | None = None,
) -> Tensor:
    """Run ``model`` on ``batch`` as ``rung`` says; see :func:`swift_core.flat.forward_flat`.

    With ``shard``, on the flat row only, this process runs its tokens of the row and gets the outputs of all.
    Without, the last layer is computed, as far as can be, for the tokens picked alone.
    """
    if rung is Rung.SUB_BATCHES:
        return _padded(model, batch, picked, split=True)
    if rung is Rung.PADDING:
        return _padded(model, batch, picked, split=False)
    base = unwrapped(model)
    tokens = [batch.input_ids, batch.position_ids + state_of(base).offset, batch.token_type_ids]
    asked, places = picked, None
    if shard is not None:
        tokens = [None if row is None else shard.own(row) for row in tokens]
        if picked is not None:
            asked, places = shard.picks(picked)
    ids, positions, types = (None if row is None else row.unsqueeze(0) for row in tokens)
    more = _accepted(base, {"use_cache": False, "token_type_ids": types, "logits_to_keep": asked})
    how = _attention(rung, base, batch) | ({} if shard is None else {"shard": shard})
    # A copy for each batch would be compiled for each batch.
    whole = rung is not Rung.FLAT or shard is not None or torch.compiler.is_compiling()
    call = narrowed(model, base, None if whole else state_of(base).tail, batch.num_tokens, picked)
    output = call(input_ids=ids, position_ids=positions, **how, **more)
    found = _output(output)[0]  # [N, D], or [P, V] of a model that has picked itself
    found = found if asked is None or "logits_to_keep" in more else found[asked]
    return found if shard is None else shard.whole(found, places)


def _attention(rung: Rung, base: Any, batch: FlatBatch) -> dict[str, Any]:
    """How the model is told where segments begin and end."""
    if rung is Rung.MASK:
        return {"attention_mask": four_d_mask(base, batch)}
    if rung is Rung.FLASH:
        if batch.has_parents:
            raise NotFlatError("transformers' flash-attention knows no shared prefixes")
        bounds, longest = batch.query_bounds, max(batch.lengths)
        return {
            "attention_mask": None,
            "cu_seq_lens_q": bounds,
            "cu_seq_lens_k": bounds,
            "max_length_q": longest,
            "max_length_k": longest,
        }
    # A mask of four dimensions is passed on by the library as it is, so that none is made. Nobody reads it.
    unread = torch.zeros(1, 1, 1, 1, device=batch.input_ids.device)
    return {"attention_mask": unread, "flat": batch}


def four_d_mask(base: Any, batch: FlatBatch) -> Tensor:
    """[1, 1, N, N], 0 where a token sees another one and the least number where not."""
    windows = [getattr(base.config, name, None) for name in ("sliding_window", "local_attention")]
    if any(windows):
        raise NotFlatError("some of its layers see a window only, for which one mask is not enough")
    own, parent = batch.segment_numbers
    visible = own == own.unsqueeze(1)
    if batch.has_parents:
        visible |= own == parent.unsqueeze(1)
    if is_causal_model(base):
        visible &= batch.position_ids <= batch.position_ids.unsqueeze(1)
    dtype = next(base.parameters()).dtype
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill(~visible, torch.finfo(dtype).min)[None, None]


def is_causal_model(base: nn.Module) -> bool:
    """Whether attention looks back only, as the layers of the model say themselves."""
    if getattr(getattr(base, "config", None), "is_causal", True) is False:
        return False
    flags = [module.is_causal for module in base.modules() if hasattr(module, "is_causal")]
    return all(bool(flag) for flag in flags) and bool(flags)


def position_offset(base: nn.Module) -> int:
    """What is added to a position before it is looked up: RoBERTa and its kin begin after the padding id."""
    for name, module in base.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            return 0 if module.padding_idx is None else module.padding_idx + 1
    return 0


def _accepted(base: Any, wanted: Mapping[str, Any]) -> dict[str, Any]:
    known = inspect.signature(base.forward).parameters
    return {name: value for name, value in wanted.items() if name in known and value is not None}


def _output(output: Any) -> Tensor:
    hidden = getattr(output, "last_hidden_state", None)
    found: Tensor = output.logits if hidden is None else hidden
    return found


def _padded(model: nn.Module, batch: FlatBatch, picked: Tensor | None, *, split: bool) -> Tensor:
    """The model's ordinary forward pass on padded rows, each with its parent's tokens before its own."""
    ids, parents, types = batch.rows()
    whole = [_with_parent(ids, parents, row) for row in range(len(ids))]
    typed = None if types is None else [_with_parent(types, parents, row) for row in range(len(ids))]
    lengths = [len(row) for row in whole]
    order = sorted(range(len(ids)), key=lambda row: -lengths[row])
    pieces, extra = even_pieces(_similar(order, lengths) if split else [order], model)
    parts, places = [], []
    for call, rows in zip(callers(model), pieces, strict=False):
        wanted = [_wanted(batch, row, len(ids[row]), lengths[row], picked) for row in rows]
        row_types = None if typed is None else [typed[row] for row in rows]
        columns = [column for column, _ in wanted]
        parts.append(
            _ordinary(call, [whole[row] for row in rows], row_types, columns, only=picked is not None)
        )
        places.append(torch.cat([place for _, place in wanted]))
    found = torch.cat(places[: len(pieces) - extra])  # [N or P], where each output lies in the flat row
    outputs = joined(parts, extra)  # [N or P, D]
    if picked is None:
        return outputs[found.argsort()]
    lookup = torch.empty(batch.num_tokens, dtype=torch.long, device=found.device)
    lookup[found] = torch.arange(len(found), device=found.device)
    return outputs[lookup[picked]]


def _wanted(
    batch: FlatBatch, row: int, own: int, length: int, picked: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Which columns of a padded row are wanted, and where their tokens lie in the flat row."""
    places = torch.arange(own, device=batch.first.device) + batch.first[row]
    columns = torch.arange(length - own, length, device=places.device)
    if picked is None:
        return columns, places
    kept = torch.isin(places, picked)
    return columns[kept], places[kept]


def _with_parent(rows: Sequence[Tensor], parents: Sequence[int | None], row: int) -> Tensor:
    parent = parents[row]
    return rows[row] if parent is None else torch.cat([rows[parent], rows[row]])


def _similar(order: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
    """Cut rows that lie longest first into sub-batches in which little is padding."""
    cuts, longest, tokens = [0], lengths[order[0]], 0
    for place, row in enumerate(order):
        if lengths[row] < _SIMILAR * longest and tokens >= _FEW_TOKENS:
            cuts.append(place)
            longest, tokens = lengths[row], 0
        tokens += lengths[row]
    return [list(order[start:end]) for start, end in pairwise([*cuts, len(order)])]


def _ordinary(
    model: nn.Module,
    rows: Sequence[Tensor],
    types: Sequence[Tensor] | None,
    columns: Sequence[Tensor],
    *,
    only: bool,
) -> Tensor:
    """Outputs of the padded rows at ``columns`` of each, one after another; [sum of columns, D or V]."""
    base = unwrapped(model)
    device = rows[0].device
    # On the right: positions that are counted from the left stay right for every model.
    inputs = {name: tensor.to(device) for name, tensor in pad_batch(rows, pad_token_id=_pad_id(base)).items()}
    if types is not None:
        inputs["token_type_ids"] = pad_batch(types, pad_token_id=0)["input_ids"].to(device)
    more = _accepted(base, {"use_cache": False})
    row_index = torch.cat([torch.full_like(c, row) for row, c in enumerate(columns)])
    column_index = torch.cat(list(columns))
    if only:
        kept = torch.unique(column_index)
        more |= _accepted(base, {"logits_to_keep": kept})
        if "logits_to_keep" in more:
            column_index = torch.searchsorted(kept, column_index)
    return _output(model(**inputs, **more))[row_index, column_index]  # [B, T, D] -> [..., D]


def _pad_id(base: Any) -> int:
    pad = getattr(getattr(base, "config", None), "pad_token_id", None)
    return pad if isinstance(pad, int) and pad >= 0 else 0
