"""Rows that a collator leaves out when it encodes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from swift_core.console import data_lines
from swift_core.data.dataset import TaskData, load_data
from swift_core.data.encoding import LengthStats, encode_data
from swift_core.errors import UserError
from swift_core.hookspecs import LeftOut
from swift_core.spec import Column, TaskSpec

SPEC = TaskSpec(
    name="texts",
    summary="Texts.",
    implementation="texts",
    columns=(Column(name="text", type="text", meaning="The text."),),
)


class Short:
    """Encodes texts of at most three letters."""

    def encode(self, record: Mapping[str, Any]) -> dict[str, Any] | LeftOut:
        text = record["text"]
        if not text.isascii():
            return LeftOut("not English")
        return LeftOut("too long") if len(text) > 3 else {"ids": list(text.encode()), "length": len(text)}

    def __call__(self, features: list[Mapping[str, Any]]) -> Mapping[str, Any]:
        raise AssertionError("encoding makes no batches")


def encoded(folder: Path, *values: str) -> TaskData:
    rows = [{"text": value} for value in values]
    data = load_data(rows, name="train", spec=SPEC, columns={}, split="train", config=None)
    return encode_data(data, Short(), key="k", cache_dir=folder, progress=False)


@pytest.mark.parametrize("run", ["first", "from the cache"])
def test_rows_left_out_are_told_by_number_and_nowhere_else(tmp_path: Path, run: str) -> None:
    values = ["long text", "ab", "é", "abc", "other long text"]
    data = encoded(tmp_path, *values)
    if run == "from the cache":
        data = encoded(tmp_path, *values)
    assert data.left_out == {"too long": (1, 5), "not English": (3,)}
    assert data.records["text"] == ["ab", "abc"]
    assert data.features is not None
    assert list(data.features) == [{"ids": [97, 98], "length": 2}, {"ids": [97, 98, 99], "length": 3}]
    assert data.stats == LengthStats(rows=2, tokens=5, longest=3, truncated_rows=0)
    assert data.summary["rows"] == 2 and data.summary["left_out"] == {"too long": 2, "not English": 1}


def test_a_person_sees_how_many_were_left_out_and_why(tmp_path: Path) -> None:
    lines = data_lines({"train on": encoded(tmp_path, "long text", "ab", "é", "longer text")})
    assert lines[1:] == ["left out  2 (too long), 1 (not English)"]


def test_data_of_which_nothing_is_left_out_says_so(tmp_path: Path) -> None:
    data = encoded(tmp_path, "ab", "c")
    assert data.left_out == {} and "left_out" not in data.summary


@pytest.mark.parametrize("kept", [0, 1500, 2999])
def test_whole_chunks_may_be_left_out(tmp_path: Path, kept: int) -> None:
    values = ["far too long"] * 3000
    values[kept] = "ab"
    data = encoded(tmp_path, *values)
    assert data.records["text"] == ["ab"] and len(data.left_out["too long"]) == 2999
    assert data.features is not None and list(data.features) == [{"ids": [97, 98], "length": 2}]


def test_no_row_left_is_an_error_that_counts_the_reasons(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        encoded(tmp_path, "far too long", "é", "longer still")
    assert str(caught.value) == "train: no row is left to use; left out: 2 (too long), 1 (not English)"
