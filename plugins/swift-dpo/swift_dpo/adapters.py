"""A policy without its adapter: the model as it was given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def without_adapter(model: Any) -> Iterator[Any]:
    """``model`` with its adapter of peft off; afterwards it is as it was.

    peft switches it on again as one that is trained, whether it was or not.
    """
    trained = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    with model.disable_adapter():
        yield model
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trained[name])


def adapted(model: nn.Module) -> Any:
    """The model of peft inside FSDP, torch.compile and their like."""
    inner: Any = model
    while not hasattr(inner, "disable_adapter"):
        inner = getattr(inner, "module", None) or inner._orig_mod
    return inner
