"""The loaded data as a whole: types, many rows, provenance, and the part held out."""

from __future__ import annotations

import errno
import json
import pickle
import tempfile
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from swift_core.data import records
from swift_core.data.dataset import TaskData, load_data, split_off
from swift_core.errors import PluginError, UserError
from swift_core.spec import Column, TaskSpec

SPEC = TaskSpec(
    name="pairs",
    summary="Pairs.",
    implementation="pairs",
    columns=(
        Column(name="text", type="text", meaning="The text."),
        Column(name="tags", type="list[text]", meaning="Words.", required=False),
        Column(name="extra", type="any", meaning="Whatever.", required=False),
    ),
)


def load(dataset: Any, columns: Mapping[str, str] | None = None, split: str = "train") -> TaskData:
    return load_data(dataset, name="train", spec=SPEC, columns=columns or {}, split=split, config=None)


def numbered(count: int) -> list[dict[str, str]]:
    return [{"text": f"row {number}"} for number in range(count)]


def test_types_never_follow_from_the_first_rows() -> None:
    rows = [{"text": "a", "tags": [], "extra": None}] * 1500 + [
        {"text": "b", "tags": ["x"], "extra": {"k": []}}
    ]
    data = load(rows)
    assert data.name == "train" and data.features is None and data.stats is None
    assert len(data.records) == 1501
    # 64-bit offsets, or a large data set can't be one column.
    assert data.records.features["text"].dtype == "large_string"
    assert data.records[1500] == {"text": "b", "tags": ["x"], "extra": {"k": []}}
    assert data.records[0] == {"text": "a", "tags": [], "extra": None}


def test_rows_live_in_a_file_without_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = pa.total_allocated_bytes()
    data = load([{"text": "x" * 1000}] * 20_000)
    assert pa.total_allocated_bytes() - before < 2_000_000
    assert list(tmp_path.iterdir()) == []
    assert pickle.loads(pickle.dumps(data)).records[19_999] == {
        "text": "x" * 1000,
        "tags": None,
        "extra": None,
    }


def test_few_long_rows_are_written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_CHUNK_CHARACTERS", 100)
    data = load([{"text": "x" * 60, "tags": ["y" * 60]}] * 3)
    assert data.records.data.column("text").num_chunks == 3


def test_a_full_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(pa.ipc, "new_stream", full)
    with pytest.raises(UserError) as caught:
        load(numbered(1))
    assert caught.value.faults == (
        f"the temporary folder {tmp_path} is too full for the data; name another with TMPDIR",
    )


def test_fingerprint_follows_content_mapping_and_split_not_the_name(tmp_path: Path) -> None:
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    for path in (one, two):
        path.write_text(json.dumps({"text": "a", "other": "b"}))
    assert load(one).fingerprint == load(two).fingerprint
    assert load([one, two]).fingerprint != load(one).fingerprint
    exact = [load([{"text": "a", "price": Decimal(price)}]).fingerprint for price in ("0.1", "0.9", "0.1")]
    assert exact[0] == exact[2] != exact[1]
    assert load(one, columns={"text": "other"}).fingerprint != load(one).fingerprint
    assert load(one, split="test").fingerprint != load(one).fingerprint


def test_a_task_without_columns_is_a_fault_of_its_package() -> None:
    bare = TaskSpec(name="bare", summary="None.", implementation="bare", columns=())
    with pytest.raises(PluginError, match="task type 'bare' declares no columns"):
        load_data([{}], name="train", spec=bare, columns={}, split="train", config=None)


def test_split_off_is_a_partition_and_repeats_itself() -> None:
    data = load(numbered(100))
    train, held = split_off(data, 0.2, seed=1)
    assert (train.name, len(train.records), held.name, len(held.records)) == ("train", 80, "eval", 20)
    texts = [list(part.records["text"]) for part in (train, held)]
    assert sorted(texts[0] + texts[1]) == sorted(data.records["text"])
    assert all(part == sorted(part, key=lambda text: int(text.split()[1])) for part in texts)
    again = split_off(load(numbered(100)), 0.2, seed=1)
    assert [list(part.records["text"]) for part in again] == texts
    assert [part.fingerprint for part in again] == [train.fingerprint, held.fingerprint]
    other = split_off(data, 0.2, seed=2)
    assert list(other[1].records["text"]) != texts[1]
    assert len({data.fingerprint, train.fingerprint, held.fingerprint, other[0].fingerprint}) == 4
    assert train.sources == held.sources == data.sources


@pytest.mark.parametrize(
    ("rows", "share", "held"), [(2, 0.01, 1), (2, 0.99, 1), (10, 0.01, 1), (10, 0.99, 9)]
)
def test_both_parts_have_a_row(rows: int, share: float, held: int) -> None:
    train, evaluation = split_off(load(numbered(rows)), share, seed=0)
    assert (len(train.records), len(evaluation.records)) == (rows - held, held)


def test_one_row_cannot_be_divided() -> None:
    with pytest.raises(UserError) as caught:
        split_off(load(numbered(1)), 0.5, seed=0)
    assert caught.value.faults == ("eval_split: needs at least 2 rows to divide, found 1 in the train data",)
    with pytest.raises(ValueError, match=r"share=1\.0"):
        split_off(load(numbered(3)), 1.0, seed=0)


def test_equal_values_of_any_kind_stay_in_one_part() -> None:
    prompts: list[Any] = ["a text", ["a list"], {"role": "user"}, {"role": "tool"}, None]
    data = load([{"text": f"row {n}", "extra": prompt} for n in range(4) for prompt in prompts])
    train, held = split_off(data, 0.3, seed=0, together="extra")
    assert len(train.records) == 12 and len(held.records) == 8
    kept = [json.dumps(value) for value in train.records["extra"]]
    assert not set(kept) & {json.dumps(value) for value in held.records["extra"]}
