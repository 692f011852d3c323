"""Several calls of one model in a step, when other processes make another number of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

Piece = TypeVar("Piece")


def callers(model: nn.Module) -> Iterator[nn.Module]:
    """What to call for the first, second, ... piece of a step.

    DDP exchanges buffers in each forward pass, so all processes must make equally many: one. The gradients of
    further passes reach its hooks through the parameters all the same.
    """
    yield model
    while True:
        yield inside_ddp(model)


def inside_ddp(model: nn.Module) -> nn.Module:
    """The model without DDP around it, nor torch.compile around that; other wrappers stay."""
    inner = getattr(model, "_orig_mod", model)
    return inner.module if isinstance(inner, DistributedDataParallel) else model


def even_pieces(pieces: list[Piece], model: nn.Module) -> tuple[list[Piece], int]:
    """The pieces, and how many at the end are repeated only to keep other processes company.

    A model whose weights are spread over processes (FSDP, DeepSpeed) gathers them in each pass, so that all
    must make equally many.
    """
    if not is_sharded(model):
        return pieces, 0
    device = next(model.parameters()).device
    most = torch.tensor(len(pieces), device=device)
    distributed.all_reduce(most, distributed.ReduceOp.MAX)
    missing = int(most) - len(pieces)
    return pieces + [pieces[-1]] * missing, missing


def joined(outputs: Sequence[Tensor], extra: int) -> Tensor:
    """The outputs of the pieces, one after another, without the last ``extra``.

    Those take part in the backward pass too, as on the processes that they keep company, with no weight.
    """
    own = len(outputs) - extra
    return torch.cat(list(outputs[:own])) + sum(output.sum() * 0 for output in outputs[own:])


def is_first_process() -> bool:
    """Whether this process is the one that tells things."""
    return not distributed.is_available() or not distributed.is_initialized() or distributed.get_rank() == 0


def is_sharded(model: nn.Module) -> bool:
    """Whether a forward pass waits for other processes."""
    if not distributed.is_available() or not distributed.is_initialized() or distributed.get_world_size() < 2:
        return False
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

    if type(model).__name__ == "DeepSpeedEngine":
        return True
    return any(isinstance(module, (FSDPModule, FullyShardedDataParallel)) for module in model.modules())


def rank_and_world() -> tuple[int, int]:
    """This process's number among those of torch.distributed, and how many they are; 0 and 1 without it."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1
