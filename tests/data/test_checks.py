"""Rows against the columns of a task, and how much is said about many faults."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from swift_core.data.dataset import TaskData, load_data
from swift_core.errors import UserError
from swift_core.spec import Column, ColumnType, TaskSpec


def spec_of(*columns: tuple[str, ColumnType, bool]) -> TaskSpec:
    return TaskSpec(
        name="pairs",
        summary="Pairs.",
        implementation="pairs",
        columns=tuple(
            Column(name=name, type=type_, meaning=name, required=required)
            for name, type_, required in columns
        ),
    )


PAIRS = spec_of(("query", "text", True), ("positive", "text", True), ("note", "string", False))


def load(rows: Any, spec: TaskSpec = PAIRS, columns: dict[str, str] | None = None) -> TaskData:
    return load_data(rows, name="train", spec=spec, columns=columns or {}, split="train", config=None)


def error(rows: Any, spec: TaskSpec = PAIRS, columns: dict[str, str] | None = None) -> UserError:
    with pytest.raises(UserError) as caught:
        load(rows, spec, columns)
    return caught.value


@pytest.mark.parametrize(
    ("type_", "value", "stored"),
    [
        ("text", " a ", " a "),
        ("text", "👩‍👩‍👧", "👩‍👩‍👧"),
        ("string", "", ""),
        ("list[text]", [], []),
        ("list[text]", ("a", "b"), ["a", "b"]),
        ("integer", 3.0, 3),
        ("integer", np.int32(3), 3),
        ("integer", Decimal("3"), 3),
        ("integer", -(2**63), -(2**63)),
        ("number", 3, 3.0),
        ("number", np.float32(0.5), 0.5),
        ("number", Decimal("0.25"), 0.25),
        ("boolean", np.True_, True),
        ("any", {"a": [1, None, "x", {"b": True}]}, {"a": [1, None, "x", {"b": True}]}),
        ("any", "3", "3"),
        ("any", 3, 3),
        ("any", [], []),
        ("any", np.int64(4), 4),
    ],
)
def test_values_that_fit(type_: ColumnType, value: Any, stored: Any) -> None:
    spec = spec_of(("a", type_, True))
    (row,) = load([{"a": value}], spec).records
    assert row == {"a": stored}
    assert type(row["a"]) is type(stored)


@pytest.mark.parametrize(
    ("type_", "value", "told"),
    [
        ("text", 3, "expected a text, found a number (3)"),
        ("text", None, "expected a text, found null"),
        ("text", "", "expected a text, found an empty string"),
        ("text", " \u200b\n", 'expected a text, found a string without a visible character (" \u200b\\n")'),
        ("text", ["a"], 'expected a text, found a list (["a"])'),
        ("text", {"a": 1}, 'expected a text, found an object ({"a": 1})'),
        ("text", b"a", "expected a text, found a value of type bytes"),
        ("string", True, "expected a string, found a boolean (true)"),
        ("list[text]", "a", 'expected a list of texts, found a string ("a")'),
        ("list[text]", ["a", None], "item 2: expected a text, found null"),
        ("list[text]", ["a", ""], "item 2: expected a text, found an empty string"),
        ("integer", True, "expected an integer, found a boolean (true)"),
        ("integer", 1.5, "expected an integer, found a number (1.5)"),
        ("integer", math.nan, "expected an integer, found a number (NaN)"),
        ("integer", "3", 'expected an integer, found a string ("3")'),
        ("integer", 2**63, "expected an integer of at most 64 bits, found a number (9223372036854775808)"),
        ("number", False, "expected a number, found a boolean (false)"),
        ("number", math.nan, "expected a finite number, found a number (NaN)"),
        ("number", -math.inf, "expected a finite number, found a number (-Infinity)"),
        ("number", 10**400, f"expected a finite number, found a number (1{'0' * 58}…)"),
        ("boolean", 1, "expected a boolean, found a number (1)"),
        ("any", {1, 2}, "expected a value that JSON can hold, found a value of type set: a set is not JSON"),
        ("any", {"a": 2**64}, "an integer has more than 64 bits"),
        ("any", [math.nan], "expected a value that JSON can hold, found a list ([NaN]): Out of range float"),
        ("any", {1: 2}, "the key 1 is not a string"),
        ("any", ["\ud800"], "found half a character at position 1"),
    ],
)
def test_values_that_do_not_fit(type_: ColumnType, value: Any, told: str) -> None:
    (fault,) = error([{"a": value}], spec_of(("a", type_, True))).faults
    assert fault.startswith("row 1 of train_dataset: column 'a': ")
    assert told in fault


def test_a_long_value_is_shortened() -> None:
    rows = [{"query": ["x" * 10_000_000], "positive": "p"}]
    (fault,) = error(rows).faults
    shown = fault.partition("found a list (")[2].removesuffix(")")
    assert len(shown) == 60 and shown.endswith("…")


def test_optional_null_and_absent_are_the_same_and_other_columns_are_left_out() -> None:
    data = load(
        [{"query": "q", "positive": "p", "note": None}, {"positive": "p", "query": "q", "more": object}]
    )
    assert list(data.records) == [{"query": "q", "positive": "p", "note": None}] * 2


def test_columns_take_their_names_from_the_mapping() -> None:
    rows = [{"query": 1, "frage": "q", "text": "p"}]
    data = load(rows, columns={"query": "frage", "positive": "text"})
    assert list(data.records) == [{"query": "q", "positive": "p", "note": None}]
    assert data.fingerprint != load(rows, columns={"query": "text", "positive": "frage"}).fingerprint
    both = load(rows, columns={"query": "text", "positive": "text"})
    assert both.records[0]["query"] == both.records[0]["positive"] == "p"


def test_a_fault_names_the_column_in_the_data_and_in_the_task() -> None:
    rows = [{"frage": 5, "positive": "p"}]
    assert error(rows, columns={"query": "frage"}).faults == (
        "row 1 of train_dataset: column 'frage' (as 'query'): expected a text, found a number (5)",
    )


def test_a_column_missing_in_some_rows_is_told_for_each() -> None:
    rows = [{"query": "q", "positive": "p"}, {"query": "q", "postive": "p"}]
    assert error(rows).faults == (
        "row 2 of train_dataset: column 'positive' is missing; expected a text. Did you mean 'postive'?",
    )


def test_a_column_missing_in_all_rows_is_told_once() -> None:
    failure = error([{"question": "q", "answer": "p"}] * 50)
    assert failure.faults == (
        "train_dataset: no row has the column 'query' (a text); columns found: question, answer. Tell its "
        "name in the data, such as columns: {query: question}",
        "train_dataset: no row has the column 'positive' (a text); columns found: question, answer. Tell its "
        "name in the data, such as columns: {positive: answer}",
    )
    assert failure.total == 2
    close = error([{"Query": "q", "positive": "p"}])
    assert close.faults[0].endswith(
        "found: Query, positive. Did you mean 'Query'? "
        "Tell its name in the data, such as columns: {query: Query}"
    )


def test_a_column_missing_in_one_of_several_files(tmp_path: Any) -> None:
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    good.write_text('{"query": "q", "positive": "p"}\n' * 3)
    bad.write_text('{"question": "q", "positive": "p"}\n' * 30)
    failure = error([good, bad])
    assert failure.total == 1
    assert failure.faults[0].startswith(
        f"{bad}: no row has the column 'query' (a text); columns found: question,"
    )
    again = error([bad, bad])
    assert again.total == 1
    assert again.faults[0].startswith("train data: no row has the column 'query'")


def test_wrong_mappings_are_told_with_the_nearest_name() -> None:
    rows = [{"question": "q", "positive": "p"}]
    assert error(rows, columns={"qurey": "question", "query": "questoin", "note": "comment"}).faults == (
        "train data: no row has a column 'comment', which columns: {note: comment} names; "
        "columns found: question, positive",
        "train_dataset: no row has a column 'questoin', which columns: {query: questoin} names; "
        "columns found: question, positive. Did you mean 'question'?",
        "columns: task type 'pairs' has no column 'qurey'; its columns are query, positive, note. "
        "Did you mean 'query'?",
    )


def test_twenty_faults_are_listed_and_all_are_counted(tmp_path: Any) -> None:
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    first.write_text('{"query": 1, "positive": "p"}\n' * 15)
    second.write_text('{"query": 2, "positive": "p"}\n' * 1015)
    failure = error([first, second])
    assert failure.total == 1030
    assert len(failure.faults) == 20
    assert failure.faults[14].startswith(f"{first}:15: ") and failure.faults[15].startswith(f"{second}:1: ")
    assert str(failure).endswith("\n... and 1,010 more like these")


def test_faults_of_different_kinds_are_told_in_the_order_of_the_rows() -> None:
    rows = [{"query": "q", "positive": "p"}, *[{"query": 1, "positive": "p"}, {"positive": "p"}] * 30]
    failure = error(rows)
    assert failure.total == 60
    assert [fault.split()[1] for fault in failure.faults] == [str(number) for number in range(2, 22)]
