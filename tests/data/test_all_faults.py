"""Faults of all data sets, and of columns and `encode`, are told at the same time."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from swift_core import TrainingArguments, UserError
from swift_core.data.all_faults import all_of, with_faults_of_sound_rows
from swift_core.data.dataset import RefusedRows
from swift_core.data.places import Places
from swift_core.errors import PluginError
from swift_core.preparation import prepare_task
from swift_core.testing import toy as toy_package
from swift_core.testing.toy import TOY_ROWS, toy_installed

GOOD = {"text": "a match", "topic": "sport"}


def written(path: Path, *rows: Mapping[str, Any]) -> str:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(path)


def test_faults_of_both_data_sets_and_of_encode_are_told_at_once(tmp_path: Path) -> None:
    train = written(tmp_path / "train.jsonl", GOOD, {"text": 5, "topic": "sport"}, {**GOOD, "topic": "rain"})
    evaluation = written(tmp_path / "eval.jsonl", {**GOOD, "topic": "snow"}, GOOD)
    with toy_installed() as toy:
        args = TrainingArguments(toy, dataset=train, eval_dataset=evaluation, cache_dir=str(tmp_path))
        with pytest.raises(UserError) as caught:
            prepare_task(args)
        assert caught.value.faults == (
            f"{train}:2: column 'text': expected a text, found a number (5)",
            f"{train}:3: topic: expected one of sport, money, found 'rain'",
        )
        # Encoding alone fails: both are told too.
        args = args.replace(dataset=written(tmp_path / "train.jsonl", {**GOOD, "topic": "rain"}))
        with pytest.raises(UserError) as caught:
            prepare_task(args)
        assert caught.value.faults == (
            f"{train}:1: topic: expected one of sport, money, found 'rain'",
            f"{evaluation}:1: topic: expected one of sport, money, found 'snow'",
        )
        args = args.replace(
            dataset=written(tmp_path / "train.jsonl", {"text": "", "topic": "sport"}),
            eval_dataset=written(tmp_path / "eval.jsonl", {"text": "a match"}),
        )
        with pytest.raises(UserError) as caught:
            prepare_task(args)
        assert [fault.partition(": ")[0] for fault in caught.value.faults] == [f"{train}:1", evaluation]


def test_a_mistake_in_encode_names_its_package_and_task_type(
    install: Callable[..., Path], tmp_path: Path
) -> None:
    folder = Path(toy_package.__file__).parent
    spec = (folder / "spec.py").read_text().replace("swift_core.testing.toy", "acme_toy")
    hooks = (folder / "hooks.py").read_text().replace('record["text"]', 'record["txt"]')
    files = {"acme_toy/__init__.py": "", "acme_toy/spec.py": spec, "acme_toy/hooks.py": hooks}
    install("acme-toy", files=files, entry_points={"swift.tasks": {"toy-topics": "acme_toy.spec:SPEC"}})
    line = next(n for n, text in enumerate(hooks.splitlines(), start=1) if 'record["txt"]' in text)
    train = written(tmp_path / "train.jsonl", *TOY_ROWS)
    args = TrainingArguments("toy-topics", dataset=train, cache_dir=str(tmp_path))
    with pytest.raises(PluginError) as caught:
        prepare_task(args)
    assert str(caught.value) == (
        f"{train}:1: package acme-toy 1.0, task type 'toy-topics': ToyCollator.encode raised "
        f"KeyError: 'txt' (hooks.py:{line})"
    )
    assert isinstance(caught.value.__cause__, KeyError)
    # A fault of the data beside it hides neither the mistake nor what was raised.
    args = args.replace(dataset=written(tmp_path / "train.jsonl", *TOY_ROWS, {"text": 5, "topic": "sport"}))
    with pytest.raises(UserError) as both:
        prepare_task(args)
    assert [fault.partition(": ")[0] for fault in both.value.faults] == [f"{train}:9", f"{train}:1"]
    assert isinstance(both.value.__cause__, KeyError)


def test_one_failure_is_told_as_it_is_and_the_same_fault_once() -> None:
    def fails(*faults: str, kind: type[UserError] = UserError) -> Callable[[], int]:
        def work() -> int:
            raise kind(*faults, total=len(faults) + 30)

        return work

    assert all_of([lambda: 1, lambda: 2]) == [1, 2]
    with pytest.raises(PluginError, match=r"^a\n"):
        all_of([lambda: 1, fails("a", kind=PluginError)])
    with pytest.raises(UserError) as caught:
        all_of([fails("a", "b"), fails("b", "c", kind=PluginError)])
    assert (caught.value.faults, caught.value.total) == (("a", "b", "c"), 63)
    assert type(caught.value) is UserError


def test_rows_are_not_encoded_where_none_is_refused_or_none_is_sound(tmp_path: Path) -> None:
    def never(data: object) -> None:
        raise AssertionError("encoded")

    def refuses() -> Any:
        from swift_core.data.dataset import load_data
        from swift_core.testing.toy.spec import SPEC

        return load_data([{}], name="train", spec=SPEC, columns={}, split="train", config=None)

    assert with_faults_of_sound_rows(lambda: "data", never) == "data"  # type: ignore[arg-type,return-value]
    with pytest.raises(RefusedRows, match="no row has the column 'text'"):
        with_faults_of_sound_rows(refuses, never)


PLACES = [
    "a-2.jsonl:1",
    "a-2.jsonl:2",
    "a-2.jsonl:4",
    "b.csv:5",
    "b.json:5 (item 1)",
    "b.json:9 (item 2)",
    "b.json:9 (item 3)",
    "row 4 of train_dataset",
    "row 5 of train_dataset",
    "nowhere",
    "nowhere",
    "x:99999999999999999999999",
    "x:007",
]


def test_places_are_kept_as_they_were_said() -> None:
    places = Places(PLACES)
    assert len(places) == len(PLACES)
    assert [places[n] for n in range(len(PLACES))] == PLACES
    chosen = [11, 1, 2, 8]
    assert list(places.select(chosen)) == [PLACES[n] for n in chosen]
    with pytest.raises(IndexError):
        places[len(PLACES)]
