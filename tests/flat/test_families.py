"""Every family of the docs' table: its rung, and loss and gradients equal to those with padding."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.families import DECODERS, ENCODERS, FAMILIES, compare

PAGE = Path(__file__).parents[2] / "docs" / "batches.md"


def documented() -> dict[str, str]:
    rows = re.findall(
        r"^\| ([a-z0-9_-]+) \| ([^|]+) \|", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    return {family: rung for family, rung in rows if family in FAMILIES}


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_equal_those_with_padding(family: str) -> None:
    found = compare(family)
    assert found.loss < 1e-5
    assert found.gradient < 1e-5
    assert found.state.rung is not None
    assert documented()[family] == found.state.rung.value


def test_the_table_is_long_enough() -> None:
    assert len(ENCODERS) >= 12 and len(DECODERS) >= 25
    assert documented().keys() == FAMILIES.keys()
