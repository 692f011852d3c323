"""Rows that a task makes into other rows, before anything is held out of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from swift_core.console import data_lines
from swift_core.data.dataset import TaskData, load_data, split_off
from swift_core.data.encoding import encode_data
from swift_core.errors import PluginError, UserError
from swift_core.spec import Column, TaskSpec

CODE = """
import datasets
from swift_core.errors import UserError


def by_first_letter(records):
    words = {}
    for row in records:
        words.setdefault(row["words"][0][0], []).extend(row["words"])
    if len(words) == len(records):
        return records, None
    made = datasets.Dataset.from_dict({"words": list(words.values())}, features=records.features)
    return made, f"{len(records)} rows are {len(made)} lists: one for each letter"


def refusing(records):
    raise UserError("words: expected others")


def bare(records):
    return records


def untold(records):
    return records, 7


def renamed(records):
    return records.rename_column("words", "letters"), None


def emptied(records):
    return records.select([]), None
"""


@pytest.fixture(autouse=True, scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder: Path = tmp_path_factory.mktemp("module")
    (folder / "letters_task.py").write_text(CODE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield


def spec(gather: str | None) -> TaskSpec:
    return TaskSpec(
        name="letters",
        summary="Words.",
        implementation="letters",
        columns=(Column(name="words", type="texts", meaning="Words."),),
        gather=gather,
    )


def load(
    words: list[str], gather: str | None = "letters_task:by_first_letter", name: str = "train"
) -> TaskData:
    rows = [{"words": word} for word in words]
    return load_data(rows, name=name, spec=spec(gather), columns={}, split="train", config=None)


class Lengths:
    """Encodes words as their lengths, and knows no short ones."""

    def encode(self, record: Any) -> dict[str, Any]:
        if min(map(len, record["words"])) < 3:
            raise ValueError("words: expected three letters")
        return {"ids": [len(word) for word in record["words"]], "length": len(record["words"])}

    def __call__(self, features: Any) -> Any:
        raise AssertionError("encoding makes no batches")


def encoded(data: TaskData, folder: Path) -> TaskData:
    return encode_data(data, Lengths(), key="k", cache_dir=folder, progress=False)


def test_rows_become_others_which_is_told_and_known_by_the_fingerprint(tmp_path: Path) -> None:
    words = ["ant", "bee", "ape", "bat", "cat"]
    data = load(words)
    assert list(data.records["words"]) == [["ant", "ape"], ["bee", "bat"], ["cat"]]
    assert data.sources[0].rows == 5
    assert data.summary["gathered"] == data.gathered == "5 rows are 3 lists: one for each letter"
    plain = load(words, gather=None)
    assert plain.fingerprint != data.fingerprint == load(words).fingerprint
    assert "gathered" not in plain.summary
    # The same cache: what was kept of the plain rows is not taken for the others.
    assert encoded(plain, tmp_path).stats.rows == 5
    assert list(encoded(data, tmp_path).features["ids"]) == [[3, 3], [3, 3], [3]]


def test_rows_that_stay_as_they_are_keep_their_fingerprint() -> None:
    data = load(["ant", "bee"])
    assert data.gathered is None
    assert data.fingerprint == load(["ant", "bee"], gather=None).fingerprint


def test_what_belongs_together_is_never_split() -> None:
    data = load([f"{letter}{number}" for number in range(3) for letter in "abcdefghij"])
    train, held = split_off(data, 0.3, seed=0)
    assert (len(train.records), len(held.records)) == (7, 3)
    assert all(len(words) == 3 for part in (train, held) for words in part.records["words"])


def test_a_person_sees_once_what_was_done(tmp_path: Path) -> None:
    data = load(["ant", "ape", "bee", "cat"])
    parts = [encoded(part, tmp_path) for part in split_off(data, 0.4, seed=0)]
    lines = data_lines({"train on": parts[0], "evaluate": parts[1]})
    assert [line[:10] for line in lines] == ["train on  ", "gathered  ", "evaluate  "]
    assert lines[1] == "gathered  4 rows are 3 lists: one for each letter"
    other = encoded(load(["dog", "doe"], name="eval"), tmp_path)
    lines = data_lines({"train on": parts[0], "evaluate": other})
    assert lines[3] == "gathered  2 rows are 1 lists: one for each letter"


def test_a_row_that_can_not_be_encoded_is_counted_among_the_gathered(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train gathered row 2: words: expected three letters"):
        encoded(load(["ant", "ape", "bee", "b"]), tmp_path)
    with pytest.raises(UserError, match=r"row 2 of train_dataset: words: expected three letters"):
        encoded(load(["ant", "b"]), tmp_path)


@pytest.mark.parametrize(
    ("function", "told"),
    [
        ("bare", r"must return a datasets\.Dataset and a text or None, found a value of type Dataset"),
        ("untold", r"must tell what it did in a text, or None, found a number \(7\)"),
        ("renamed", r"must keep .* expected words: list<.*, found letters: list<"),
        ("emptied", "must return rows, found none"),
        ("lost", "can't be loaded"),
    ],
)
def test_a_package_that_gathers_wrongly_is_named(function: str, told: str) -> None:
    with pytest.raises(PluginError, match=rf"task type 'letters': letters_task:{function} {told}"):
        load(["ant", "ape"], gather=f"letters_task:{function}")


def test_rows_may_be_refused() -> None:
    with pytest.raises(UserError) as caught:
        load(["ant"], gather="letters_task:refusing")
    assert caught.value.faults == ("words: expected others",)


@pytest.mark.parametrize("path", ["letters_task", "letters task:by", "letters_task:", ":by"])
def test_a_path_names_a_function(path: str) -> None:
    with pytest.raises(ValueError, match=r"gather=.*: expected 'package\.module:function'"):
        spec(path)
