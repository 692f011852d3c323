"""Figures beside a loss are means over items, of all batches and processes between two logs."""

import pytest
import torch
from accelerate import Accelerator

from swift_core.figures import LossFigures


def test_figures_are_weighed_by_what_they_are_means_of():
    figures = LossFigures()
    figures.add({"all": 0.5, "some": torch.tensor([3.0, 2.0]), "none": torch.tensor([0.0, 0.0])}, 4)
    figures.add({"all": torch.tensor(2.0), "some": torch.tensor([5.0, 1.0])}, 1)
    found = figures.flush(Accelerator(cpu=True))
    assert found == pytest.approx({"all": (4 * 0.5 + 2.0) / 5, "some": (3.0 + 5.0) / 3})
    assert figures.flush(Accelerator(cpu=True)) == {}
