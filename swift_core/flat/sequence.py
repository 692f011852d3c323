"""Ulysses sequence parallelism: the tokens of one flat row spread over several processes.

Each process holds a share of the row's tokens in all layers. Attention wants whole texts, but is content with
some of the heads: before it an all-to-all exchanges heads for tokens, and after it tokens for heads (Jacobs
et al. 2023, "DeepSpeed Ulysses"). Between the two runs whatever attention would run on one process.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, distributed, nn

from swift_core.errors import SwiftError, UserError
from swift_core.flat.batch import FlatBatch
from swift_core.flat.forward import Rung, set_state, state_of, unwrapped
from swift_core.flat.processes import is_sharded

# Shape legend: P processes of a group, N tokens of the flat row, L tokens of one process (P * L >= N),
# H query heads, K key heads, D dimensions.


@dataclass(frozen=True, eq=False)
class SequenceGroup:
    """The processes that share each flat row; their ranks are consecutive.

    Attributes:
        size: P.
        rank: the place of this process among them.
        handle: the group, as torch.distributed knows it.
    """

    size: int
    rank: int
    handle: Any

    @classmethod
    def joined(cls, size: int) -> SequenceGroup:
        """The group of this process; all processes must call it, and ``size`` divide their number."""
        handle, _ = distributed.new_subgroups(size)
        return cls(size, distributed.get_rank(handle), handle)

    def __deepcopy__(self, memo: dict[int, Any]) -> SequenceGroup:
        """A copy of a model, to merge an adapter into, talks to the same processes."""
        return self


def share_tokens(model: nn.Module, size: int) -> None:
    """From now on ``size`` processes share the flat rows that ``model`` runs on with gradients.

    All processes must call it, after :func:`swift_core.flat.settle`.

    Raises:
        UserError: the model doesn't run on a flat row, or its heads can't be shared out.
    """
    if size == 1:
        return
    base, state = unwrapped(model), state_of(model)
    faults = [_rung_fault(base), heads_fault(getattr(base, "config", None), size)]
    if any(faults):
        raise UserError(*filter(None, faults))
    if state.group is None or state.group.size != size:
        set_state(model, replace(state, group=SequenceGroup.joined(size)))


def _rung_fault(base: nn.Module) -> str | None:
    state = state_of(base)
    if state.rung is Rung.FLAT:
        return None
    name = type(base).__name__
    found = f"{name}, which runs by {state.told}" if state.rung else f"{name}, which the task runs otherwise"
    return (
        f"sequence_parallel_size: expected a model that runs on a flat row, found {found}; set it to 1, or "
        "take another model (docs/batches.md lists families)"
    )


def heads_fault(config: Any, size: int) -> str | None:
    """Why ``size`` processes can't share the heads of a model with that configuration."""
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    heads = getattr(config, "num_attention_heads", None)
    if not isinstance(heads, int) or heads % size == 0:
        return None
    possible = [str(n) for n in range(1, heads + 1) if heads % n == 0]
    return (
        f"sequence_parallel_size: expected a divisor of the model's {heads} attention heads "
        f"({', '.join(possible)}), found {size}"
    )


def shard_of(model: nn.Module, batch: FlatBatch) -> Shard | None:
    """The share of this process of ``batch``, or None where it runs the whole row.

    Without gradients it does: an evaluation gives each process rows of its own, and one may look at the model
    while the others wait.

    Raises:
        UserError: the model does not run on a flat row any more, or its weights are spread over processes.
        SwiftError: the other processes of the group hold another batch.
    """
    group = state_of(model).group
    if group is None or not torch.is_grad_enabled():
        return None
    fault = _rung_fault(unwrapped(model))
    if is_sharded(model):
        fault = (
            "sequence_parallel_size: with FSDP or DeepSpeed it is untested and refused; leave one of them out"
        )
    if fault:
        raise UserError(fault)
    _check_alike(batch, group)
    return Shard(group, batch.num_tokens)


def _check_alike(batch: FlatBatch, group: SequenceGroup) -> None:
    """Parts of different rows would be joined to nonsense in silence, or wait for each other for ever."""
    places = torch.arange(1, batch.num_tokens + 1, device=batch.input_ids.device)
    sums = [(row * places).sum() for row in (batch.input_ids, batch.position_ids)]
    own = torch.stack([places[-1], *sums])
    found = [torch.empty_like(own) for _ in range(group.size)]
    distributed.all_gather(found, own, group=group.handle)
    if any(not torch.equal(own, other) for other in found):
        raise SwiftError(
            f"sequence_parallel_size: the {group.size} processes of a group got different batches; does the "
            "collator, or what compute_loss does before the model runs, draw random numbers of its own?"
        )


@dataclass(frozen=True, eq=False)
class Shard:
    """The share of one process of a flat row of N tokens: L of them, from ``rank * L`` on."""

    group: SequenceGroup
    num_tokens: int

    @property
    def length(self) -> int:
        """L, alike on all processes, as their collectives want it."""
        return math.ceil(self.num_tokens / self.group.size)

    def own(self, row: Tensor) -> Tensor:
        """[N] -> [L]; beyond the end of the row the last token is repeated, and no output of it is used."""
        start = self.group.rank * self.length
        places = torch.arange(start, start + self.length, device=row.device)
        return row[places.clamp(max=self.num_tokens - 1)]

    def heads(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        """[L, H, D], [L, K, D], [L, K, D] of all heads -> [N, H / P, D] and so on of all tokens.

        Where P does not divide K, key heads are repeated: each process gets those that its query heads see.
        """
        if query.shape[1] % self.group.size:
            raise UserError(
                f"sequence_parallel_size: expected a divisor of the {query.shape[1]} attention heads of a "
                f"layer, found {self.group.size}"
            )
        copies = self.group.size // math.gcd(self.group.size, key.shape[1])
        if copies > 1:
            key, value = key.repeat_interleave(copies, dim=1), value.repeat_interleave(copies, dim=1)
        return [self._of_all_tokens(part) for part in (query, key, value)]

    def _of_all_tokens(self, part: Tensor) -> Tensor:
        """[L, H, D] -> [N, H / P, D]"""
        length, heads, size = *part.shape[:2], self.group.size
        by_heads = part.reshape(length, size, heads // size, -1).transpose(0, 1)  # [P, L, H / P, D]
        # What comes back is as large; P now says whose tokens they are.
        return _exchange(by_heads, self.group).flatten(0, 1)[: self.num_tokens]

    def tokens(self, part: Tensor) -> Tensor:
        """[N, H / P, D] of all tokens -> [L, H, D] of all heads."""
        missing = self.group.size * self.length - self.num_tokens
        filled = nn.functional.pad(part, (0, 0, 0, 0, 0, missing))  # [P * L, H / P, D]
        by_tokens = filled.view(self.group.size, self.length, *part.shape[1:])  # [P, L, H / P, D]
        return _exchange(by_tokens, self.group).transpose(0, 1).flatten(1, 2)

    def picks(self, picked: Tensor) -> tuple[Tensor, Tensor]:
        """Which of the L tokens are wanted here, and where each of those ``picked`` is in `whole`.

        Every process keeps equally many, some for nothing.
        """
        owner, place = picked // self.length, picked % self.length  # [P'] and [P'], P' the picked ones
        order = owner.argsort(stable=True)
        counts = torch.bincount(owner, minlength=self.group.size)  # [P]
        most = int(counts.max())
        begins = (counts.cumsum(0) - counts)[owner[order]]
        slots = torch.empty_like(order)
        slots[order] = torch.arange(len(order), device=order.device) - begins
        kept = place.new_zeros(most)
        mine = owner == self.group.rank
        kept[slots[mine]] = place[mine]
        return kept, owner * most + slots

    def whole(self, part: Tensor, places: Tensor | None) -> Tensor:
        """Outputs of all processes, on each: of the N tokens, or of those at ``places``.

        Each process computes the whole loss from them, so each token's gradient is the sum of P alike ones.
        DDP's mean over processes takes that factor away again, as it does for what lies behind the model.
        """
        joint: Tensor = _Gather.apply(part, self.group)  # type: ignore[no-untyped-call]
        return joint[: self.num_tokens] if places is None else joint[places]


def _exchange(parts: Tensor, group: SequenceGroup) -> Tensor:
    """[P, ...] for each process -> [P, ...] from each process."""
    return _AllToAll.apply(parts, group)  # type: ignore[no-any-return,no-untyped-call]


class _AllToAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, parts: Tensor, group: SequenceGroup) -> Tensor:
        ctx.group = group
        found = torch.empty(parts.shape, dtype=parts.dtype, device=parts.device)
        distributed.all_to_all_single(found, parts.contiguous(), group=group.handle)
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _exchange(gradients[0], ctx.group), None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor, group: SequenceGroup) -> Tensor:
        ctx.group = group
        found = [torch.empty_like(part, memory_format=torch.contiguous_format) for _ in range(group.size)]
        distributed.all_gather(found, part.contiguous(), group=group.handle)
        return torch.cat(found)  # [P * L, D]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        # gloo has no reduce_scatter in older versions: what each process owes each other one, then the sum.
        owed = gradients[0].reshape(ctx.group.size, -1, gradients[0].shape[-1])  # [P, L, D]
        return _exchange(owed, ctx.group).sum(0), None
