"""The flat row: what lies where, and that it survives workers, devices and pickling."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from accelerate.utils import send_to_device
from torch.utils.data import DataLoader

from swift_core.flat import FlatBatch, flat_batch

ROWS = [[11, 12, 13], [21], [31, 32, 33], [41, 42]]


def test_every_row_lies_whole_between_its_first_and_last_token() -> None:
    batch = flat_batch(ROWS)
    assert (len(batch), batch.num_tokens, batch.padded_tokens) == (4, 9, 12)
    for row, first, last in zip(ROWS, batch.first.tolist(), batch.last.tolist(), strict=True):
        assert batch.input_ids[first : last + 1].tolist() == row
        assert batch.position_ids[first : last + 1].tolist() == list(range(len(row)))


def test_rows_of_one_length_are_one_group() -> None:
    batch = flat_batch(ROWS)
    assert [(g.count, g.length, g.prefix) for g in batch.groups] == [(1, 1, 0), (1, 2, 0), (2, 3, 0)]
    assert batch.query_bounds.tolist() == [0, 1, 3, 6, 9]
    assert batch.query_bounds.dtype == torch.int32


def test_a_child_goes_on_where_its_parent_ends_and_sees_it() -> None:
    # Row 1 is the prompt of rows 0 and 2.
    batch = flat_batch([[1, 2], [3, 4, 5], [6, 7], [8]], parents=[1, None, 1, None])
    first, last = batch.first[0], batch.last[0]
    assert batch.position_ids[first : last + 1].tolist() == [3, 4]
    assert [(g.count, g.length, g.prefix) for g in batch.groups] == [(1, 1, 0), (1, 3, 0), (2, 2, 3)]
    seen = [batch.input_ids[part].tolist() for part in torch.split(batch.key_index, list(batch.key_lengths))]
    assert seen == [[8], [3, 4, 5], [3, 4, 5, 1, 2], [3, 4, 5, 6, 7]]
    assert batch.key_bounds.tolist() == [0, 1, 4, 9, 14]
    assert batch.padded_tokens == 4 * 5


@pytest.mark.parametrize("parents", [None, [1, None, 1, None]])
def test_rows_come_back_as_they_were_given(parents: Any) -> None:
    types = [[0, 1, 1], [1], [0, 0, 1], [0, 0]]
    ids, found, typed = flat_batch(ROWS, parents=parents, token_type_ids=types).rows()
    assert [row.tolist() for row in ids] == ROWS
    assert found == (parents or [None] * 4)
    assert typed is not None and [row.tolist() for row in typed] == types


def test_rows_may_be_tensors() -> None:
    batch = flat_batch([torch.tensor(row) for row in ROWS])
    assert torch.equal(batch.input_ids, flat_batch(ROWS).input_ids)


@pytest.mark.parametrize(
    ("rows", "parents", "told"),
    [
        ([], None, "at least one row"),
        ([[1], []], None, "row 1 has no tokens"),
        ([[1], [2]], [None, 2], "the parent of row 1 is 2, which is no other row"),
        ([[1], [2]], [0, None], "the parent of row 0 is 0, which is no other row"),
        ([[1], [2], [3]], [None, 0, 1], "row 1, the parent of row 2, has a parent itself"),
    ],
)
def test_what_makes_no_batch_is_refused(rows: Any, parents: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        flat_batch(rows, parents=parents)


def equal(first: FlatBatch, second: FlatBatch) -> bool:
    tensors = dict(first._tensors())
    return tensors.keys() == dict(second._tensors()).keys() and all(
        torch.equal(value, getattr(second, name)) for name, value in tensors.items()
    )


def test_it_pickles_and_moves_as_a_whole() -> None:
    batch = flat_batch(ROWS, parents=[1, None, None, 1])
    assert equal(pickle.loads(pickle.dumps(batch)), batch)
    moved = send_to_device({"query": batch, "n": 3}, torch.device("meta"), non_blocking=True)["query"]
    assert {value.device.type for _, value in moved._tensors()} == {"meta"}
    assert moved.groups == batch.groups
    assert batch.input_ids.device.type == "cpu"


def test_it_comes_whole_out_of_a_worker_process() -> None:
    loader: Any = DataLoader(ROWS, batch_size=4, collate_fn=flat_batch, num_workers=2)  # type: ignore[arg-type]
    (found,) = loader
    assert equal(found, flat_batch(ROWS))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_it_can_be_pinned() -> None:
    assert all(value.is_pinned() for _, value in flat_batch(ROWS).pin_memory()._tensors())
