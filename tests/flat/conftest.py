"""Tiny models without dropout and ragged rows for the engine's tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from benchmarks import families


@pytest.fixture
def build() -> Callable[[str], nn.Module]:
    """``build(family)``: a tiny model with weights at which attention matters."""
    return families.build


@pytest.fixture
def rows() -> list[list[int]]:
    """Ragged rows, some equally long, in no order."""
    generator = torch.Generator().manual_seed(1)
    lengths = [5, 17, 40, 1, 17, 9, 23]
    return [torch.randint(4, families.VOCABULARY, (n,), generator=generator).tolist() for n in lengths]
