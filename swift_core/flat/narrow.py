"""A last layer that computes, after attention, only the tokens that somebody reads.

What a classifier reads of a text is one token. The last layer's attention needs all tokens for that, but what
comes after it works on each token alone: for tokens that nobody reads it is work for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from swift_core.causal import twin_with

# Shape legend: N tokens of the flat row, P tokens that are read, D dimensions.

_CHUNK = "feed_forward_chunk"
_FEED_FORWARD = ("mlp", "ffn", "feed_forward")
_ATTENTION = ("self_attn", "attn", "attention")
_QUERY = ("self.query", "q_proj", "q_lin")
_AFTER_ATTENTION = ("output", "o_proj", "out_proj", "dense", "c_proj", "out_lin", "Wo")
"""What families call the parts of a layer that work on each token alone."""
_MOST = 0.75
"""With a greater share of the tokens read, picking them out costs as much as it saves."""


@dataclass(frozen=True)
class Tail:
    """Where the last layer of a model is, and which of its parts work on each token alone.

    Attributes:
        layer: names that lead from the model to the layer.
        parts: for each part the names that lead from the layer to it; the last may be a method.
    """

    layer: tuple[str, ...]
    parts: tuple[tuple[str, ...], ...]


def find_tail(base: Any) -> Tail | None:
    """The tail of ``base``, or None where it has no layout that is known here.

    Whether narrowing it is exact is for :func:`swift_core.flat.settle` to look at.
    """
    config: Any = getattr(base, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    number = getattr(config, "num_hidden_layers", None)
    lists = [
        (name, module)
        for name, module in base.named_modules()
        # A list of another length may hold layers that run several times, or beside one another.
        if isinstance(module, nn.ModuleList) and len(module) == number
    ]
    if not lists or getattr(config, "chunk_size_feed_forward", None):
        return None
    path, layers = lists[0]
    layer = layers[-1]
    names = [name for name in _FEED_FORWARD if _is_plain(getattr(layer, name, None))]
    parts: list[tuple[str, ...]] = [(name,) for name in ([_CHUNK] if hasattr(layer, _CHUNK) else names)]
    if not parts:
        return None
    modules = dict(layer.named_modules())
    for attention in _ATTENTION:
        for known in (_QUERY, _AFTER_ATTENTION):
            found = [f"{attention}.{name}" for name in known if f"{attention}.{name}" in modules]
            parts += [tuple(name.split(".")) for name in found[:1]]
    return Tail((*path.split("."), str(len(layers) - 1)), tuple(parts))


def _is_plain(module: Any) -> bool:
    """Whether a feed-forward has one way for all tokens; experts may count what comes to them."""
    return isinstance(module, nn.Module) and not hasattr(module, "experts")


def narrowed(
    model: nn.Module, base: nn.Module, tail: Tail | None, num_tokens: int, picked: Tensor | None
) -> Callable[..., Any]:
    """What to call instead of ``model`` for the outputs of ``picked`` alone; others come out as rubbish.

    It shares the weights, and ``model`` stays as it is: two threads may be in it, and what computes the layer
    again for its gradient computes the same tokens.

    Args:
        model: perhaps wrapped by DDP or peft; within other wrappers nothing is narrowed.
        base: the part of it that runs on flat rows.
        tail: of ``base``; None to narrow nothing.
        num_tokens: N.
        picked: [P'] places in the flat row, some perhaps more than once; None for all.
    """
    if tail is None or picked is None or len(picked) > _MOST * num_tokens or not _is_open(base):
        return model
    wraps = _names(model, base)
    if wraps is None:
        return model
    # A place that came twice would get its gradient twice.
    last = _Last(torch.unique(picked), num_tokens, tail)
    if isinstance(model, DistributedDataParallel):
        return _InsideDDP(model, _replaced(model.module, (*wraps[1:], *tail.layer), last.layer))
    twin: nn.Module = _replaced(model, (*wraps, *tail.layer), last.layer)
    return twin


@dataclass(frozen=True, eq=False)
class _InsideDDP:
    """DDP around another model for one call. It keeps account of its passes itself: no copy would do."""

    outside: DistributedDataParallel
    twin: nn.Module

    def __call__(self, **inputs: Any) -> Any:
        children = self.outside._modules
        model, children["module"] = children["module"], self.twin
        try:
            return self.outside(**inputs)
        finally:
            children["module"] = model


def _names(model: nn.Module, base: nn.Module) -> tuple[str, ...] | None:
    """The names that lead from ``model`` to ``base``; None where copies on the way would not do."""
    path = next((name for name, module in model.named_modules() if module is base), None)
    if path is None:
        return None
    names = tuple(path.split(".")) if path else ()
    inner = names[1:] if isinstance(model, DistributedDataParallel) else names
    # torch.compile and FSDP's first version (private names), DeepSpeed.
    strange = [name for name in inner if name.startswith("_") or name == "module"]
    return None if strange else names


def _is_open(base: Any) -> bool:
    """Whether nobody asked for outputs in between, for which the library would put hooks on each copy."""
    config = getattr(base, "config", None)
    return not any(getattr(config, f"output_{name}", False) for name in ("hidden_states", "attentions"))


def _replaced(module: Any, names: Sequence[str], make: Callable[[Any], Any]) -> Any:
    """A copy of ``module`` with what lies at the end of ``names`` replaced by what ``make`` makes of it."""
    if not names:
        return make(module)
    child = getattr(module, names[0])
    new = _replaced(child, names[1:], make)
    if isinstance(new, nn.Module):
        twin = twin_with(module, {names[0]: new})
    else:
        twin = twin_with(module, {})
        twin.__dict__[names[0]] = new  # before the method of that name
    own = twin.__dict__.get("forward")
    if isinstance(own, MethodType):  # mixed precision puts one there, which would run the original
        twin.__dict__["forward"] = MethodType(own.__func__, twin)
    return twin


@dataclass(frozen=True, eq=False)
class _Last:
    rows: Tensor
    num_tokens: int
    tail: Tail

    def layer(self, layer: Any) -> Any:
        for part in self.tail.parts:
            layer = _replaced(layer, part, self.part)
        return layer

    def part(self, part: Any) -> Any:
        if isinstance(part, nn.Module):
            return _Narrow(part, self.rows, self.num_tokens)
        rows, tokens = self.rows, self.num_tokens

        # The library looks how many arguments it takes.
        def feed_forward_chunk(hidden: Tensor) -> Tensor:
            return _run(part, rows, tokens, hidden)

        return feed_forward_chunk


class _Narrow(nn.Module):
    """Stands where a part was that works on each token alone."""

    def __init__(self, part: nn.Module, rows: Tensor, num_tokens: int) -> None:
        super().__init__()
        self.part, self.rows, self.num_tokens = part, rows, num_tokens

    def __getattr__(self, name: str) -> Any:
        # Some layers take a norm out of a part and run it themselves.
        known = name in self.__dict__["_modules"]
        return super().__getattr__(name) if known else getattr(self._modules["part"], name)

    def forward(self, *hidden: Tensor) -> Tensor:
        return _run(self.part, self.rows, self.num_tokens, *hidden)


def _run(part: Callable[..., Tensor], rows: Tensor, num_tokens: int, *hidden: Tensor) -> Tensor:
    """[1, N, D] each -> [1, N, D], zero but for ``rows`` [P]; of other shapes what ``part`` gives itself."""
    if any(given.shape[:2] != (1, num_tokens) for given in hidden):
        return part(*hidden)
    found = part(*(given.index_select(1, rows) for given in hidden))  # [1, P, D]
    return found.new_zeros(1, num_tokens, found.shape[-1]).index_copy(1, rows, found)
