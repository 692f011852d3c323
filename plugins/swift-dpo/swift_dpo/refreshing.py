"""A reference that follows the policy: TR-DPO.

Gorbatovski et al. 2024, "Learn Your Reference Model for Real Good Alignment" (arXiv 2404.09656).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from swift_core.errors import UserError
from swift_core.flat.forward import transformers_model
from swift_dpo.reference import Reference

FILE = "reference.safetensors"
"""The weights of the moved reference in a checkpoint, by the names of the model's parameters."""
_SHOWN = 3


class MovingReference:
    r"""Moves the weights of a reference towards those of the policy, every so many steps.

    .. math:: \pi_{ref} \leftarrow \alpha \pi_\theta + (1 - \alpha) \pi_{ref}

    Parameters are mixed; buffers stay, as in TRL. Every process mixes what it holds, which is the same.
    """

    def __init__(self, reference: Reference, policy: nn.Module, *, every: int, alpha: float) -> None:
        """Compare the two models.

        Args:
            reference: loaded here if it was not.
            policy: the model in training, whole on each process.
            every: steps between two moves.
            alpha: share of the policy; 1 makes the reference a copy.

        Raises:
            UserError: their weights can't be mixed.
        """
        self._reference, self._policy = reference, policy
        self._every, self._alpha = every, alpha
        if AcceleratorState().distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
            raise UserError(
                "reference_sync_steps: the weights of the policy are spread over processes (FSDP or "
                "DeepSpeed), and those of the reference are whole; start without them, or leave it out"
            )
        own, other = _shapes(policy), _shapes(self._moved)
        unlike = sorted(name for name in own.keys() | other.keys() if own.get(name) != other.get(name))
        if unlike:
            raise UserError(
                f"reference: expected the weights of the policy in name and shape, to mix them "
                f"(reference_sync_steps), found {len(unlike)} others, such as {', '.join(unlike[:_SHOWN])}; "
                "name a model of the same architecture, or leave reference_sync_steps out"
            )

    @property
    def _moved(self) -> nn.Module:
        return self._reference.second_model(self._policy)

    @torch.no_grad()
    def step_taken(self, step: int) -> None:
        """Mix after every step whose number is a multiple of ``every``."""
        if step % self._every:
            return
        policy = dict(_weights(self._policy))
        for name, weight in _weights(self._moved):
            weight.lerp_(policy[name].to(weight.dtype), self._alpha)
        self._reference.moved = True

    def save(self, folder: Path) -> None:
        """Write the weights of the reference beside those of the policy."""
        weights = {name: weight.detach().contiguous() for name, weight in _weights(self._moved)}
        save_file(weights, folder / FILE)

    @torch.no_grad()
    def restore(self, folder: Path) -> None:
        """Give the reference the weights that it had in a checkpoint.

        Raises:
            UserError: they are not there, or not those of this model.
        """
        path = folder / FILE
        if not path.is_file():
            raise UserError(
                f"--resume: {folder} has no {FILE}, the reference that reference_sync_steps had moved, and "
                "without it the run would go on otherwise; name another checkpoint, or start a new run"
            )
        weights = dict(_weights(self._moved))
        with safe_open(path, framework="pt") as file:
            if set(file.keys()) != weights.keys():
                raise UserError(f"--resume: {path} holds the weights of another model; start a new run")
            for name, weight in weights.items():
                weight.copy_(file.get_tensor(name))
        self._reference.moved = True


def moving_reference(reference: Reference, policy: nn.Module) -> MovingReference | None:
    """What the options of the reference ask for; None where it stays as it was.

    Raises:
        UserError: see :class:`MovingReference`.
    """
    every = reference.sync_steps
    if every is None:
        return None
    return MovingReference(reference, policy, every=every, alpha=reference.mixup_alpha)


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: weight.shape for name, weight in _weights(model)}


def _weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Names and parameters, tied ones once, of what is inside DDP and torch.compile."""
    yield from transformers_model(model).named_parameters()
