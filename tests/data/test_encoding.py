"""Encoding once, the cache of tokens, and what a collator may return."""

from __future__ import annotations

import dataclasses
import errno
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from huggingface_hub import constants

from swift_core import TrainingArguments
from swift_core.data import encoding, token_cache
from swift_core.data.dataset import TaskData, load_data, split_off
from swift_core.data.encoding import LengthStats, encode_data
from swift_core.errors import PluginError, UserError
from swift_core.preparation import encoding_key
from swift_core.spec import Column, TaskSpec

SPEC = TaskSpec(
    name="texts",
    summary="Texts.",
    implementation="texts",
    columns=(Column(name="text", type="text", meaning="The text."),),
)


class Letters:
    """Encodes a text as the code points of its letters."""

    def __init__(
        self, change: Callable[[dict[str, Any]], dict[str, Any]] = lambda features: features
    ) -> None:
        self.calls = 0
        self.change = change

    def encode(self, record: Mapping[str, Any]) -> dict[str, Any]:
        self.calls += 1
        ids = [ord(letter) for letter in record["text"]]
        return self.change({"ids": ids, "length": len(ids)})

    def __call__(self, features: list[Mapping[str, Any]]) -> Mapping[str, Any]:
        raise AssertionError("encoding makes no batches")


def texts(*values: str) -> TaskData:
    rows = [{"text": value} for value in values]
    return load_data(rows, name="train", spec=SPEC, columns={}, split="train", config=None)


def encode(data: TaskData, collator: Letters, folder: Path | None, key: str = "k") -> TaskData:
    return encode_data(data, collator, key=key, cache_dir=folder, progress=False)


def rows_of(data: TaskData) -> list[dict[str, Any]]:
    assert data.features is not None
    return list(data.features)


def test_rows_are_encoded_once_and_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, collator = texts("ab", "c"), Letters()
    expected = [{"ids": [97, 98], "length": 2}, {"ids": [99], "length": 1}]
    assert rows_of(encode(data, collator, tmp_path)) == expected
    again = encode(texts("ab", "c"), collator, tmp_path)
    assert rows_of(again) == expected
    assert again.records is not data.records and again.fingerprint == data.fingerprint
    assert collator.calls == 2
    assert [path.suffix for path in tmp_path.iterdir()] == [".arrow"]
    assert capsys.readouterr() == ("", "")


def test_another_key_or_other_rows_are_encoded_again(tmp_path: Path) -> None:
    collator = Letters()
    encode(texts("a"), collator, tmp_path)
    encode(texts("a"), collator, tmp_path, key="other")
    encode(texts("b"), collator, tmp_path)
    assert collator.calls == 3
    assert len(list(tmp_path.iterdir())) == 3


def test_two_runs_may_write_the_same_file_at_the_same_time(tmp_path: Path) -> None:
    data = texts("a", "b")

    def meanwhile(features: dict[str, Any]) -> dict[str, Any]:
        encode(data, Letters(), tmp_path)
        return features

    assert rows_of(encode(data, Letters(meanwhile), tmp_path)) == rows_of(encode(data, Letters(), tmp_path))
    assert len(list(tmp_path.iterdir())) == 1


def test_parts_of_a_split_do_not_share_a_file(tmp_path: Path) -> None:
    train, held = split_off(texts("a", "b", "c", "d"), 0.5, seed=0)
    parts = [rows_of(encode(part, Letters(), tmp_path)) for part in (train, held)]
    assert sorted(row["ids"] for part in parts for row in part) == [[97], [98], [99], [100]]


def test_the_default_folder_is_in_the_hugging_face_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path))
    encode(texts("a"), Letters(), None)
    assert len(list((tmp_path / "swift" / "tokens").glob("*.arrow"))) == 1


@pytest.mark.parametrize("damage", ["empty", "cut", "garbage", "short", "offsets"])
def test_a_damaged_cache_file_is_made_again(tmp_path: Path, damage: str) -> None:
    data, collator = texts(*["ab"] * 2500), Letters()
    expected = rows_of(encode(data, collator, tmp_path))
    (path,) = tmp_path.iterdir()
    good = path.read_bytes()
    if damage == "short":
        with pa.ipc.open_stream(good) as reader, pa.ipc.new_stream(str(path), reader.schema) as writer:
            writer.write_batch(reader.read_next_batch())
    elif damage == "offsets":
        # 1,000 lists of two: the offsets 0, 2, 4, ... as 32-bit integers.
        offsets = good.index(b"".join(number.to_bytes(4, "little") for number in range(0, 40, 2)))
        path.write_bytes(good[: offsets + 40] + b"\xff\xff\xff\x7f" + good[offsets + 44 :])
    else:
        path.write_bytes({"empty": b"", "cut": good[: len(good) // 2], "garbage": b"\x07" * 5000}[damage])
    assert rows_of(encode(data, collator, tmp_path)) == expected
    assert collator.calls == 5000
    assert path.read_bytes() == good


def warning(folder: Path, reason: str) -> str:
    return (
        f"warning: the token cache {folder} can't be used ({reason}); tokens stay in memory, "
        "and the next run makes them again\n"
    )


def test_a_folder_that_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    assert rows_of(encode(texts("a"), Letters(), blocked / "tokens")) == [{"ids": [97], "length": 1}]
    assert capsys.readouterr().err == warning(blocked / "tokens", "Not a directory")


def test_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*args: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    late = Letters(lambda features: {**features, "more": [[]] if features["length"] == 1 else [[1]]})
    data = texts(*["a"] * 1000, "bc")
    monkeypatch.setattr(token_cache.pa.ipc, "new_stream", full)
    assert rows_of(encode(data, late, tmp_path))[-1] == {"ids": [98, 99], "length": 2, "more": [[1]]}
    assert capsys.readouterr().err == warning(tmp_path, "No space left on device")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("empty", "full"),
    [
        ([], [1, 2]),
        ([], ["x"]),
        ([[]], [[1], [], [2, 3]]),
        ([], [[1], []]),
        (None, 7),
        (None, 0.1),
        (None, "问"),
        (None, [[0.5]]),
        ([None], [1]),
        (1, 2.5),
    ],
)
@pytest.mark.parametrize("full_at", [1, 1500, 2600])
def test_values_read_back_whatever_came_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], empty: Any, full: Any, full_at: int
) -> None:
    def change(features: dict[str, Any]) -> dict[str, Any]:
        return {"length": 1, "value": full if features["length"] == 2 else empty}

    values = ["a"] * 2700
    values[full_at] = "bc"
    rows = rows_of(encode(texts(*values), Letters(change), tmp_path))
    assert [row["value"] for row in rows] == [empty] * full_at + [full] + [empty] * (2699 - full_at)
    assert capsys.readouterr().err == "", "not kept in the cache"


def test_refused_rows_are_all_told_and_nothing_is_kept(tmp_path: Path) -> None:
    class Strict(Letters):
        def encode(self, record: Mapping[str, Any]) -> dict[str, Any]:
            features = super().encode(record)
            if record["text"] == "bad":
                raise ValueError("text: not a word")
            if record["text"] == "worse":
                raise UserError("text: not even that")
            return features

    collator = Strict()
    with pytest.raises(UserError) as caught:
        encode(texts("ok", "bad", "ok", "worse", *["bad"] * 30), collator, tmp_path)
    assert collator.calls == 34
    assert caught.value.faults[:2] == (
        "row 2 of train_dataset: text: not a word",
        "row 4 of train_dataset: text: not even that",
    )
    assert (len(caught.value.faults), caught.value.total) == (20, 32)
    assert list(tmp_path.iterdir()) == []


def lines_of(text: str) -> int:
    """Looks a word up that is not there."""
    return {"a": 1}[text]


def test_what_encode_raises_names_row_file_and_package_and_is_the_cause(tmp_path: Path) -> None:
    class Careless(Letters):
        def encode(self, record: Mapping[str, Any]) -> dict[str, Any]:
            if record["text"] == "bad":
                raise ValueError("text: not a word")
            lines_of(record["text"])
            return super().encode(record)

    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "a"}\n\n{"text": "bad"}\n{"text": "gone"}\n{"text": "bad"}\n')
    data = load_data(str(rows), name="train", spec=SPEC, columns={}, split="train", config=None)
    with pytest.raises(PluginError) as caught:
        encode_data(data, Careless(), key="k", cache_dir=tmp_path, progress=False, owner="package acme 1.0")
    line = lines_of.__code__.co_firstlineno + 2
    own = Path(__file__).name
    assert caught.value.faults == (
        f"{rows}:4: package acme 1.0: "
        "test_what_encode_raises_names_row_file_and_package_and_is_the_cause.<locals>.Careless.encode "
        f"raised KeyError: 'gone' ({own}:{line})",
        f"{rows}:3: text: not a word",
    )
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize("made", [None, ["ids"], 3])
def test_what_is_no_mapping_of_features_is_told(tmp_path: Path, made: Any) -> None:
    with pytest.raises(
        PluginError, match=r"^row 1 of train_dataset: Letters\.encode returned a (None|list|int)"
    ):
        encode(texts("a"), Letters(lambda features: made), tmp_path)


def test_a_file_that_encode_misses_is_no_fault_of_the_cache(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(features: dict[str, Any]) -> dict[str, Any]:
        raise FileNotFoundError(2, "No such file or directory", "image.png")

    with pytest.raises(PluginError, match=r"Letters\.encode raised FileNotFoundError: .*image\.png"):
        encode(texts("a"), Letters(change), tmp_path)
    assert capsys.readouterr().err == ""


def test_rows_that_were_held_out_are_named_as_in_their_file(tmp_path: Path) -> None:
    class Strict(Letters):
        def encode(self, record: Mapping[str, Any]) -> dict[str, Any]:
            raise ValueError(f"text: {record['text']}")

    rows = tmp_path / "rows.csv"
    rows.write_text('text\n"1\n"\n2\n3\n4\n5\n')
    data = load_data(str(rows), name="train", spec=SPEC, columns={}, split="train", config=None)
    for part in split_off(data, 0.4, seed=1):
        with pytest.raises(UserError) as caught:
            encode(part, Strict(), tmp_path)
        wanted = [str(text).strip() for text in part.records["text"]]
        # The first row of the file takes two lines.
        lines = {"1": 2, "2": 4, "3": 5, "4": 6, "5": 7}
        found = [fault.partition(": text: ")[0] for fault in caught.value.faults]
        assert found == [f"{rows}:{lines[text]}" for text in wanted]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda features: {"ids": []}, "Letters.encode: expected a feature 'length' (tokens), found ids"),
        (
            lambda features: {**features, "length": "2"},
            "Letters.encode: feature 'length' must be an integer in every row, found string",
        ),
        (
            lambda features: {**features, "length": 1 if features["length"] == 1 else None},
            "Letters.encode: feature 'length' must be an integer in every row, found int64 with None",
        ),
        (
            lambda features: features if features["length"] == 1 else {**features, "extra": 1},
            "Letters.encode: every row must have the same features, None where it has no value; "
            "the first has ids, length, row 2 has ids, length, extra",
        ),
        (
            lambda features: {**features, "ids": features["ids"] if features["length"] == 1 else 5},
            "Letters.encode: features must be numbers, strings, or lists of them, of one kind in all rows (",
        ),
        (
            lambda features: {**features, "ids": 2**70},
            "Letters.encode: features must be numbers, strings, or lists of them, of one kind in all rows (",
        ),
    ],
)
def test_features_that_break_the_contract(
    tmp_path: Path, change: Callable[[dict[str, Any]], dict[str, Any]], told: str
) -> None:
    with pytest.raises(PluginError) as caught:
        encode(texts("a", "bc"), Letters(change), tmp_path)
    assert caught.value.faults[0].startswith(told)


def test_kinds_that_differ_between_chunks_are_the_plugins_fault(tmp_path: Path) -> None:
    odd = Letters(lambda features: {"length": 1, "value": 1 if features["length"] == 1 else "x"})
    with pytest.raises(PluginError, match="of one kind in all rows"):
        encode(texts(*["a"] * 1000, "bc"), odd, tmp_path)


def test_a_plugin_error_is_not_a_fault_of_the_row(tmp_path: Path) -> None:
    def change(features: dict[str, Any]) -> dict[str, Any]:
        raise PluginError("no tokenizer")

    with pytest.raises(PluginError, match=r"^no tokenizer$"):
        encode(texts("a"), Letters(change), tmp_path)


def test_statistics(tmp_path: Path) -> None:
    cut = Letters(lambda features: {**features, "truncated": max(features["length"] - 2, 0)})
    stats = encode(texts("a", "bb", "ccc", "dddd"), cut, tmp_path).stats
    assert stats == LengthStats(rows=4, tokens=10, longest=4, truncated_rows=2)
    plain = encode(texts("a"), Letters(), tmp_path).stats
    assert plain is not None and plain.truncated_rows == 0


def test_no_rows_are_refused(tmp_path: Path) -> None:
    data = texts("a")
    none = dataclasses.replace(data, records=data.records.select([]))
    with pytest.raises(UserError, match="train: there are no rows to encode"):
        encode(none, Letters(), tmp_path)


def test_a_bar_only_on_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = texts(*["a"] * encoding._BAR_FROM_ROWS)
    encode_data(data, Letters(), key="1", cache_dir=tmp_path, progress=True)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    encode_data(data, Letters(), key="2", cache_dir=tmp_path, progress=True)
    assert "encoding train rows" in capsys.readouterr().err
    encode_data(data, Letters(), key="3", cache_dir=tmp_path, progress=False)
    assert capsys.readouterr().err == ""


def test_tokens_belong_to_all_code_of_the_collators_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "acme_tokens"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "words.py").write_text("LONGEST = 3\n")
    (package / "collator.py").write_text("from acme_tokens import words\n\nclass Words:\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    collator = importlib.import_module("acme_tokens.collator").Words()
    args = TrainingArguments("embedding", model_name_or_path="some/model")
    before = encoding_key(args, collator)
    assert encoding_key(args, collator) == before
    (package / "words.py").write_text("LONGEST = 4\n")
    assert encoding_key(args, collator) != before
