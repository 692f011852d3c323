"""The forms of data that people already have, recognised by their columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from swift_core.data.dataset import load_data
from swift_core.errors import UserError
from swift_embedding.spec import SPEC


def load(rows: Any, columns: dict[str, str] | None = None, split: str = "train"):
    return load_data(rows, name="train", spec=SPEC, columns=columns or {}, split=split, config=None)


def stored(
    rows: list[dict[str, Any]], columns: dict[str, str] | None = None
) -> tuple[str | None, list[dict]]:
    data = load(rows, columns)
    filled = [{name: value for name, value in row.items() if value is not None} for row in data.records]
    return data.sources[0].layout, [{k: v for k, v in row.items() if k != "source"} for row in filled]


ANSWERS = {"query": "q", "positive": ["p"], "negatives": ["n", "m"]}


@pytest.mark.parametrize(
    ("row", "layout", "expected"),
    [
        ({"query": "q", "positive": "p"}, None, {"query": "q", "positive": ["p"]}),
        (
            {"query": "q", "positive": ["p", "r"], "negatives": []},
            None,
            {"query": "q", "positive": ["p", "r"]},
        ),
        (
            {
                "query": "q",
                "positive": "p",
                "negatives": ["n"],
                "positive_scores": [9],
                "negative_scores": [1.5],
            },
            None,
            {
                "query": "q",
                "positive": ["p"],
                "negatives": ["n"],
                "positive_scores": [9.0],
                "negative_scores": [1.5],
            },
        ),
        (
            {"anchor": "q", "positive": "p", "negative": "n"},
            "sentence-transformers",
            {**ANSWERS, "negatives": ["n"]},
        ),
        (
            {"anchor": "q", "positive": "p", "negative_10": "m", "negative_9": "n"},
            "sentence-transformers",
            ANSWERS,
        ),
        (
            {"query": "q", "positive": "p", "negative_1": "n", "negative_2": None, "negative_3": "m"},
            None,
            ANSWERS,
        ),
        ({"query": "q", "pos": ["p"], "neg": ["n", "m"], "prompt": "ignored"}, "FlagEmbedding", ANSWERS),
        (
            {"query": "q", "pos": ["p"], "neg": ["n"], "pos_scores": [1], "neg_scores": [0]},
            "FlagEmbedding",
            {
                "query": "q",
                "positive": ["p"],
                "negatives": ["n"],
                "positive_scores": [1.0],
                "negative_scores": [0.0],
            },
        ),
        (
            {
                "messages": [{"role": "user", "content": "q"}],
                "positive_messages": [[{"role": "user", "content": "p"}]],
                "negative_messages": [
                    [{"role": "user", "content": "n"}],
                    [{"role": "user", "content": "m"}],
                ],
            },
            "ms-swift",
            ANSWERS,
        ),
        (
            {
                "messages": [{"role": "user", "content": "a"}],
                "positive_messages": [[{"role": "user", "content": "b"}]],
                "label": 0.5,
            },
            "ms-swift",
            {"text1": "a", "text2": "b", "score": 0.5},
        ),
        (
            {"text1": "a", "text2": "b", "score": 1},
            "scored pairs",
            {"text1": "a", "text2": "b", "score": 1.0},
        ),
        (
            {"sentence1": "a", "sentence2": "b", "score": 4.2},
            "sentence-transformers, scored pairs",
            {"text1": "a", "text2": "b", "score": 4.2},
        ),
        ({"text": "a", "label": 3}, "labelled texts", {"text": "a", "label": "3"}),
        ({"text": "a", "label": "sport"}, "labelled texts", {"text": "a", "label": "sport"}),
    ],
)
def test_a_layout_is_known_by_its_columns(row: dict, layout: str | None, expected: dict):
    assert stored([row]) == (layout, [expected])


def test_other_columns_that_begin_alike_are_no_negatives():
    row = {"anchor": "q", "positive": "p", "negative": "n", "negative_id": "d17", "negative_title": "T"}
    assert stored([{**row, "negative_score": 0.3}])[1] == [
        {"query": "q", "positive": ["p"], "negatives": ["n"]}
    ]
    scored = {
        "anchor": "q",
        "positive": "p",
        "negative_1": "n",
        "positive_scores": [1],
        "negative_scores": [0],
    }
    assert stored([scored])[1][0]["negative_scores"] == [0.0]


def test_a_mapping_is_for_files_and_for_the_data_that_has_such_columns(tmp_path: Path):
    write(tmp_path / "corpus.jsonl", [{"_id": "d", "text": "p"}])
    write(tmp_path / "queries.jsonl", [{"_id": "q", "text": "q"}])
    write(tmp_path / "qrels" / "train.jsonl", [{"query-id": "q", "corpus-id": "d", "score": 1}])
    write(tmp_path / "rows.jsonl", [{"question": "r", "positive": "s"}])
    columns = {"query": "question"}
    rows = load([str(tmp_path / "rows.jsonl"), str(tmp_path)], columns).records
    assert [row["query"] for row in rows] == ["r", "q"]
    pairs = [{"text1": "a", "text2": "b", "score": 1}]
    evaluation = load_data(pairs, name="eval", spec=SPEC, columns=columns, split="test", config=None)
    assert evaluation.records["text1"][:] == ["a"]


def test_columns_maps_names_of_any_layout():
    rows = [{"question": "q", "answer": "p"}]
    assert stored(rows, {"query": "question", "positive": "answer"})[1] == [{"query": "q", "positive": ["p"]}]
    rows = [{"a": "x", "b": "y", "similarity": 0.5}]
    columns = {"text1": "a", "text2": "b", "score": "similarity"}
    assert stored(rows, columns)[1] == [{"text1": "x", "text2": "y", "score": 0.5}]


@pytest.mark.parametrize(
    ("row", "columns", "told"),
    [
        (
            {"question": "q"},
            {},
            r"no row has the column 'query' .* Read as queries and answers; other layouts: scored pairs \(te",
        ),
        (
            {"query": "q", "pos": []},
            {},
            "column 'pos': expected a text or a list of texts, found a list without any",
        ),
        (
            {"query": "q", "pos": ["p"], "pos_scores": [1, 2]},
            {},
            "pos_scores: expected one number for each of 1",
        ),
        (
            {"query": "q", "pos": ["p"], "neg_scores": [1]},
            {},
            "neg_scores: expected one number for each of 0",
        ),
        (
            {"query": "q", "positive": "p", "negative_2": 7},
            {},
            "'negative_2': expected a text, found a number",
        ),
        ({"text": "a", "label": 1.5}, {}, "column 'label': expected a label"),
        ({"messages": "q", "positive_messages": []}, {}, "messages: expected messages with role and content"),
        (
            {
                "messages": [{"role": "user", "content": "q"}],
                "positive_messages": [],
            },
            {},
            "positive_messages: expected at least one conversation",
        ),
        (
            {"query": "q", "positive": "p"},
            {"text1": "query"},
            "columns: {text1: query} has no effect: the train data was read as queries and answers",
        ),
    ],
)
def test_what_does_not_fit_is_told(row: dict, columns: dict, told: str):
    with pytest.raises(UserError, match=told):
        load([row], columns)


def test_a_csv_file_holds_one_text_or_a_list(tmp_path: Path):
    path = tmp_path / "rows.csv"
    path.write_text('query,positive\na,one\nb,"[""two"", ""three""]"\nc,[sic] a text\n')
    rows = load(str(path)).records
    assert [row["positive"] for row in rows] == [["one"], ["two", "three"], ["[sic] a text"]]


def write(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_beir_folder_gives_a_row_for_each_query_of_the_split(tmp_path: Path):
    write(tmp_path / "corpus.jsonl", [{"_id": f"d{n}", "title": "t", "text": str(n)} for n in range(4)])
    write(tmp_path / "queries.jsonl", [{"_id": f"q{n}", "text": f"query {n}"} for n in range(3)])
    judged = [("q0", "d0", 1), ("q0", "d1", 2), ("q0", "d2", 0), ("q1", "d3", 1), ("q2", "d3", 0)]
    write(
        tmp_path / "qrels" / "train.jsonl",
        [{"query-id": q, "corpus-id": d, "score": s} for q, d, s in judged],
    )
    data = load(str(tmp_path))
    assert data.sources[0].layout == "BEIR"
    assert [(row["query"], row["positive"], row["negatives"]) for row in data.records] == [
        ("query 0", ["t 0", "t 1"], ["t 2"]),
        ("query 1", ["t 3"], None),
    ]
    with pytest.raises(UserError, match=r"there is no dev.tsv or dev.jsonl; splits found: train"):
        load(str(tmp_path), split="dev")


def test_each_data_set_of_a_run_has_a_layout_of_its_own(tmp_path: Path):
    write(tmp_path / "a.jsonl", [{"anchor": "q", "positive": "p"}] * 2)
    write(tmp_path / "b.jsonl", [{"sentence1": "a", "sentence2": "b", "score": 1}])
    data = load([str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")])
    assert [source.layout for source in data.sources] == [
        "sentence-transformers",
        "sentence-transformers, scored pairs",
    ]
    assert data.records["source"][:] == [0, 0, 1]
