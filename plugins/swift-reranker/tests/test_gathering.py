"""Rows of one query become one list."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from swift_core.data.dataset import TaskData, load_data, split_off
from swift_core.errors import UserError
from swift_core.spec import TaskSpec
from swift_reranker.gathering import gather
from swift_reranker.layouts import COLUMNS, FOLDERS, GATHER, LAYOUTS


def spec(gather: str | None = GATHER) -> TaskSpec:
    return TaskSpec(
        name="reranker",
        summary="Scores of documents for a query.",
        implementation="swift_reranker.hooks",
        columns=COLUMNS,
        layouts=LAYOUTS,
        folders=FOLDERS,
        gather=gather,
    )


def load(rows: Any, gather: str | None = GATHER) -> TaskData:
    return load_data(rows, name="train", spec=spec(gather), columns={}, split="train", config=None)


def pair(query: str, document: str, label: float | None = None, **more: Any) -> dict[str, Any]:
    return {"query": query, "document": document, "label": label, **more}


def short(data: TaskData, *names: str) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in names) for row in data.records]


def test_pairs_become_lists_in_the_order_of_their_first_rows() -> None:
    rows = [
        pair("b", "one", 1, score=5),
        pair("a", "two", 0, score=4),
        pair("b", "three", 0, score=3),
        pair("c", "four", 2, score=2),
        pair("a", "five", 1, score=1),
    ]
    data = load(rows)
    assert short(data, "query", "documents", "labels", "scores") == [
        ("b", ["one", "three"], [1, 0], [5, 3]),
        ("a", ["two", "five"], [0, 1], [4, 1]),
        ("c", ["four"], [2], [2]),
    ]
    assert data.gathered == "5 rows are 3 lists: one for each query"
    assert data.records.features == load(rows, gather=None).records.features


def test_a_document_keeps_its_highest_label_and_first_score() -> None:
    rows = [
        {"query": "q", "positive": "p", "negative": "r", "positive_scores": [9], "negative_scores": [2]},
        {"query": "q", "positive": "r", "negative": "n", "positive_scores": [8], "negative_scores": [1]},
        {"query": "q", "positive": "p", "negative": "n", "positive_scores": [7], "negative_scores": [0]},
    ]
    data = load(rows)
    assert short(data, "documents", "labels", "scores") == [(["p", "r", "n"], [1, 1, 0], [9, 2, 1])]
    told = "3 rows are 1 lists: one for each query; 3 documents that a query had twice are there once"
    assert data.gathered == told


def test_ids_tell_queries_apart_and_texts_where_there_is_no_id() -> None:
    rows = [
        pair("jaguar", "a", 1, query_id=1, doc_id="A"),
        pair("jaguar", "b", 1, query_id=2, doc_id="B"),
        pair("jaguar", "c", 0, query_id=1, doc_id="C"),
        pair("jaguar", "d", 0),
        pair("puma", "e", 1),
        pair("puma", "f", 0, query_id="x"),
        pair("puma", "g", 0, query_id="y"),
    ]
    assert short(load(rows), "query", "query_id", "documents", "document_ids") == [
        ("jaguar", "1", ["a", "c", "d"], None),
        ("jaguar", "2", ["b"], ["B"]),
        ("puma", "x", ["e", "f"], None),
        ("puma", "y", ["g"], None),
    ]
    assert short(load(rows[:3]), "document_ids") == [(["A", "C"],), (["B"],)]


def in_files(folder: Path, *files: list[dict[str, Any]]) -> list[str]:
    paths = []
    for number, rows in enumerate(files):
        path = folder / f"{number}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        paths.append(str(path))
    return paths


def test_rows_of_one_query_are_one_list_whatever_file_they_are_in(tmp_path: Path) -> None:
    positives = [pair("by text", "a", 1), pair("by id", "b", 1, query_id=1), pair("by either", "c", 1)]
    negatives = [pair("by text", "d", 0), pair("by id", "e", 0, query_id=1)]
    more = [pair("by either", "f", 0, query_id=2)]
    data = load(in_files(tmp_path, positives, negatives, more))
    assert short(data, "query", "documents", "labels", "query_id") == [
        ("by text", ["a", "d"], [1, 0], None),
        ("by id", ["b", "e"], [1, 0], "1"),
        ("by either", ["c", "f"], [1, 0], "2"),
    ]
    assert data.gathered == "6 rows are 3 lists: one for each query"


def test_ids_of_two_data_sets_may_coincide(tmp_path: Path) -> None:
    ours = [pair("cats", "a", 1, query_id=1), pair("moon", "b", 1, query_id=2)]
    theirs = [pair("rates", "c", 1, query_id=1), pair("rates", "d", 0, query_id=1), ours[1]]
    data = load(in_files(tmp_path, ours, theirs))
    assert short(data, "source", "query", "query_id", "documents") == [
        (0, "cats", "1", ["a"]),
        (0, "moon", "2", ["b"]),
        (1, "rates", "1", ["c", "d"]),
    ]
    theirs.append(pair("cats", "e", 0, query_id=1))
    with pytest.raises(UserError, match="query_id '1': expected one query, found 'rates' and 'cats'"):
        load(in_files(tmp_path, ours, theirs))


def test_rows_of_different_queries_are_left_as_they_are() -> None:
    data = load([pair(str(n), "d", 1) for n in range(5)], gather=None)
    records, told = gather(data.records)
    assert records is data.records
    assert told is None


def test_what_some_rows_of_a_query_lack_is_told_for_every_query() -> None:
    rows = [
        pair("a", "one", 1),
        pair("a", "two", None, score=1),
        pair("b", "three", 1, score=1),
        pair("b", "four", 1),
        pair("c", "five", 1, query_id=1),
        pair("d", "six", 1, query_id=1),
        pair("e", "fine", 1),
    ]
    with pytest.raises(UserError) as caught:
        load(rows)
    advice = "the others none; give them to all rows of a query, or to none"
    assert caught.value.faults == (
        f"query 'a': 1 of its 2 rows have labels, {advice}",
        f"query 'a': 1 of its 2 rows have scores, {advice}",
        f"query 'b': 1 of its 2 rows have scores, {advice}",
        "query_id '1': expected one query, found 'c' and 'd'; give each query an id of its own",
    )


def test_many_rows_in_any_order_equal_a_plain_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(0)
    rows = [pair(f"q{draw.randrange(200)}", f"d{draw.randrange(30)}", draw.randrange(4)) for _ in range(4000)]
    expected: dict[str, dict[str, int]] = {}
    for row in rows:
        judged = expected.setdefault(row["query"], {})
        judged[row["document"]] = max(judged.get(row["document"], 0), row["label"])
    found = short(load(rows), "query", "documents", "labels")
    assert found == [(query, list(judged), list(judged.values())) for query, judged in expected.items()]


def test_a_part_that_is_held_out_shares_no_query() -> None:
    rows = [pair(f"q{n % 10}", f"d{n}", n % 2) for n in range(50)]
    train, held = split_off(load(rows), 0.3, seed=1)
    assert (len(train.records), len(held.records)) == (7, 3)
    assert not set(train.records["query"]) & set(held.records["query"])
