"""A model for measuring: without dropout and gradients, and afterwards as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Without dropout and without gradients; afterwards every module is in the mode it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        # Not inference_mode: buffers that a model makes in its forward pass could not be trained with later.
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True
