"""The forms of data that people have, read as every run reads them, and the rows of a query as one list."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from swift_core.data.dataset import TaskData, load_data
from swift_core.errors import UserError
from swift_core.spec import TaskSpec
from swift_reranker.layouts import COLUMNS, FOLDERS, GATHER, LAYOUTS

SPEC = TaskSpec(
    name="reranker",
    summary="Scores of documents for a query.",
    implementation="swift_reranker.hooks",
    columns=COLUMNS,
    layouts=LAYOUTS,
    folders=FOLDERS,
    gather=GATHER,
)


def load(rows: Any, columns: dict[str, str] | None = None, split: str = "train") -> TaskData:
    return load_data(rows, name="train", spec=SPEC, columns=columns or {}, split=split, config=None)


def filled(data: TaskData) -> list[dict[str, Any]]:
    """The rows without what is absent, and without the number of their data set."""
    return [
        {name: value for name, value in row.items() if value is not None and name != "source"}
        for row in data.records
    ]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


THREE = {"query": "q", "documents": ["p", "n", "m"], "labels": [1.0, 0.0, 0.0]}
ONE = {"query": "q", "documents": ["p"]}
ST = "sentence-transformers"


@pytest.mark.parametrize(
    ("row", "layout", "expected"),
    [
        ({"query": "q", "documents": ["p", "n", "m"], "labels": [1, 0, 0]}, None, THREE),
        (
            {
                "query": "q",
                "documents": ["p", "n"],
                "scores": [7, -2.5],
                "query_id": 3,
                "document_ids": ["a", "b"],
            },
            None,
            {
                "query": "q",
                "documents": ["p", "n"],
                "scores": [7.0, -2.5],
                "query_id": "3",
                "document_ids": ["a", "b"],
            },
        ),
        ({"query": "q", "positive": "p", "negatives": ["n", "m"]}, "queries and answers", THREE),
        (
            {"query": "q", "positive": ["p"], "negative_2": "m", "negative_1": "n"},
            "queries and answers",
            THREE,
        ),
        (
            {"query": "q", "positive": ["p", "r"], "negative": "n"},
            "queries and answers",
            {"query": "q", "documents": ["p", "r", "n"], "labels": [1.0, 1.0, 0.0]},
        ),
        # As `swift mine --scores` writes it.
        (
            {
                "query": "q",
                "positive": "p",
                "negatives": ["n", "m"],
                "positive_scores": [0.9],
                "negative_scores": [0.4, 0.1],
            },
            "queries and answers",
            {**THREE, "scores": [0.9, 0.4, 0.1]},
        ),
        # As mine_hard_negatives of sentence-transformers writes labels and scores, in each of its forms.
        (
            {"query": "q", "positive": ["p", "n", "m"], "labels": [1, 0, 0]},
            "queries and answers",
            THREE,
        ),
        (
            {"query": "q", "positive": ["p", "n"], "scores": [0.9, 0.1]},
            "queries and answers",
            {"query": "q", "documents": ["p", "n"], "scores": [0.9, 0.1]},
        ),
        ({"query": "q", "positive": "p", "label": 0}, "queries and answers", {**ONE, "labels": [0.0]}),
        ({"query": "q", "positive": "p", "score": 0.3}, "queries and answers", {**ONE, "scores": [0.3]}),
        (
            {"anchor": "q", "positive": "p", "negative_1": "n", "negative_2": "m", "scores": [3, 2, 1]},
            ST,
            {**THREE, "scores": [3.0, 2.0, 1.0]},
        ),
        (
            {"anchor": "q", "positive": "p", "negative": "n"},
            ST,
            {**ONE, "documents": ["p", "n"], "labels": [1.0, 0.0]},
        ),
        (
            {"query": "q", "document": "p", "label": 2, "score": 0.5, "query_id": "x", "doc_id": 7},
            "pairs",
            {**ONE, "labels": [2.0], "scores": [0.5], "query_id": "x", "document_ids": ["7"]},
        ),
        ({"query": "q", "passage": "p", "label": 1}, f"{ST}, query and passage", {**ONE, "labels": [1.0]}),
        ({"query": "q", "response": "p", "label": 0}, f"{ST}, query and response", {**ONE, "labels": [0.0]}),
        ({"query": "q", "answer": "p", "score": -3}, f"{ST}, query and answer", {**ONE, "scores": [-3.0]}),
        ({"query": "q", "text": "p", "label": 1}, f"{ST}, query and text", {**ONE, "labels": [1.0]}),
        (
            {"query": "q", "answer": ["p", "n", "m"], "labels": [1, 0, 0]},
            f"{ST}, query and answer",
            THREE,
        ),
        (
            {"sentence1": "q", "sentence2": "p", "label": 1, "score": 4},
            f"{ST}, sentence pairs",
            {**ONE, "labels": [1.0], "scores": [4.0]},
        ),
        ({"query": "q", "docs": ["p", "n", "m"], "labels": [1, 0, 0]}, f"{ST}, lists", THREE),
        ({"query": "q", "docs": ["p"], "scores": [0.5]}, f"{ST}, lists", {**ONE, "scores": [0.5]}),
        ({"query": "q", "pos": ["p"], "neg": ["n", "m"], "prompt": "ignored"}, "FlagEmbedding", THREE),
        (
            {"query": "q", "pos": ["p"], "neg": ["n", "m"], "pos_scores": [9], "neg_scores": [1, 2]},
            "FlagEmbedding",
            {**THREE, "scores": [9.0, 1.0, 2.0]},
        ),
        (
            {
                "messages": said("q"),
                "positive_messages": [said("p")],
                "negative_messages": [said("n"), said("m")],
            },
            "ms-swift",
            THREE,
        ),
        (
            {"messages": said("q"), "positive_messages": said("p"), "label": 0},
            "ms-swift",
            {**ONE, "labels": [0.0]},
        ),
        (
            {
                "query": "q",
                "query_id": 5,
                "passages": {"passage_text": ["p", "n", "m"], "is_selected": [1, 0, 0]},
            },
            "MS MARCO",
            {**THREE, "query_id": "5"},
        ),
        # Where several fit, that which says more of the documents.
        (
            {"query": "q", "documents": ["p", "n", "m"], "labels": [1, 0, 0], "document": "x", "pos": ["y"]},
            None,
            THREE,
        ),
        (
            {"query": "q", "positive": "p", "negatives": ["n", "m"], "answer": "x", "text": "y"},
            "queries and answers",
            THREE,
        ),
        ({"query": "q", "document": "p", "text": "x", "label": 1}, "pairs", {**ONE, "labels": [1.0]}),
        ({"query": "q", "pos": ["p"], "neg": ["n", "m"], "text": "x"}, "FlagEmbedding", THREE),
    ],
)
def test_every_layout_becomes_lists(row: dict, layout: str | None, expected: dict) -> None:
    data = load([row])
    assert data.sources[0].layout == layout
    assert filled(data) == [expected]


def test_layouts_are_known_without_torch() -> None:
    code = "import sys, swift_reranker.layouts, swift_reranker.conversions; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_csv_file_of_pairs_and_one_of_lists(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("query,document,label,score\nq,p,1,\nq,n,0,\nother,x,1,\n")
    assert filled(load(str(tmp_path / "pairs.csv"))) == [
        {"query": "q", "documents": ["p", "n"], "labels": [1.0, 0.0]},
        {"query": "other", "documents": ["x"], "labels": [1.0]},
    ]
    (tmp_path / "lists.csv").write_text('query,documents,labels\nq,"[""p"", ""n"", ""m""]","[1, 0, 0]"\n')
    assert filled(load(str(tmp_path / "lists.csv"))) == [THREE]


def test_columns_maps_names_of_any_layout() -> None:
    rows = [{"question": "q", "candidates": ["p", "n", "m"], "relevance": [1, 0, 0]}]
    columns = {"query": "question", "documents": "candidates", "labels": "relevance"}
    assert filled(load(rows, columns)) == [THREE]
    # A grade that is called a score.
    rows = [{"sentence1": "q", "sentence2": "p", "score": 1}]
    assert filled(load(rows, {"label": "score"}))[0]["labels"] == [1.0]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (
            {"query": "q", "documents": [], "labels": []},
            "documents: expected at least one document, found none",
        ),
        ({"query": "q", "docs": [], "labels": []}, "docs: expected at least one document, found none"),
        ({"query": "q", "documents": ["", " "], "labels": [1, 0]}, "'documents': item 1: expected a text"),
        ({"query": " ", "documents": ["p"], "labels": [1]}, "'query': expected a text"),
        (
            {"query": "q", "documents": ["p", "n"], "labels": [1]},
            "labels: expected one for each of 2 documents, found 1",
        ),
        (
            {"query": "q", "documents": ["p", "n"], "scores": [1, 2, 3]},
            "scores: expected one for each of 2 documents, found 3",
        ),
        (
            {"query": "q", "documents": ["p"], "labels": [1], "document_ids": ["a", "b"]},
            "document_ids: expected one for each of 1 documents, found 2",
        ),
        (
            {"query": "q", "documents": ["p", "n"], "labels": [1, -2]},
            r"labels: expected 0 for not relevant .*, found -2; numbers of another scale are a teacher's",
        ),
        ({"query": "q", "documents": ["p"], "labels": [float("nan")]}, "item 1: expected a finite number"),
        ({"query": "q", "documents": ["p"], "scores": [float("inf")]}, "item 1: expected a finite number"),
        ({"query": "q", "document": "p", "label": float("nan")}, "'label': expected a finite number"),
        (
            {"query": "q", "positive": "p", "negative": "n", "label": 2.5},
            "label: expected one document beside it, found 2; labels takes a number for each",
        ),
        (
            {"query": "q", "positive": "p", "negative": "n", "positive_scores": [1]},
            "negative_scores: expected one number for each of 1 texts, found 0",
        ),
        (
            {"query": "q", "pos": ["p"], "neg": ["n"], "pos_scores": [1, 2], "neg_scores": [1]},
            "pos_scores: expected one number for each of 1 texts, found 2",
        ),
        (
            {"query": "q", "pos": []},
            "column 'pos': expected a text or a list of texts, found a list without any",
        ),
        ({"messages": "q", "positive_messages": []}, "messages: expected messages with role and content"),
        ({"messages": said("q"), "positive_messages": []}, "positive_messages: expected at least one"),
        ({"messages": said("q"), "positive_messages": 3}, "positive_messages: expected a list"),
        ({"messages": said(" "), "positive_messages": said("p")}, "messages: expected a text in content"),
        ({"query": "q", "passages": ["p"]}, "passages: expected an object with the lists passage_text and"),
        (
            {"query": "q", "passages": {"passage_text": ["p", ""], "is_selected": [1, 0]}},
            "passages: expected a text in each of passage_text",
        ),
        (
            {"query": "q", "passages": {"passage_text": ["p"], "is_selected": [3]}},
            "passages: expected 0 or 1 in each of is_selected",
        ),
        (
            {"question": "q"},
            r"no row has the column 'query' .* Read as lists; other layouts: queries and answers \(query, p",
        ),
    ],
)
def test_what_does_not_fit_is_told(row: dict, told: str) -> None:
    with pytest.raises(UserError, match=told):
        load([row])


def test_all_faults_are_told_with_their_lines(tmp_path: Path) -> None:
    rows = [
        {"query": "q", "documents": ["p"], "labels": [1]},
        {"query": "q", "documents": ["p"], "labels": [1, 2]},
        {"query": "q", "documents": [], "labels": []},
        {"query": "q", "documents": ["p"], "labels": [-1]},
    ]
    path = write(tmp_path / "rows.jsonl", rows)
    with pytest.raises(UserError) as caught:
        load(str(path))
    assert [fault.split(": ")[0] for fault in caught.value.faults] == [f"{path}:{n}" for n in (2, 3, 4)]


def test_a_beir_folder_gives_what_was_judged(tmp_path: Path) -> None:
    write(tmp_path / "corpus.jsonl", [{"_id": f"d{n}", "title": "t", "text": str(n)} for n in range(4)])
    write(tmp_path / "queries.jsonl", [{"_id": f"q{n}", "text": f"query {n}"} for n in range(3)])
    judged = [("q0", "d0", 1), ("q0", "d2", 0), ("q0", "d1", 2), ("q1", "d3", 1), ("q2", "d3", 0)]
    rows = [{"query-id": q, "corpus-id": d, "score": s} for q, d, s in judged]
    write(tmp_path / "qrels" / "train.jsonl", rows)
    data = load(str(tmp_path))
    assert data.sources[0].layout == "BEIR"
    assert filled(data) == [
        {
            "query": "query 0",
            "documents": ["t 0", "t 2", "t 1"],
            "labels": [1.0, 0.0, 2.0],
            "query_id": "q0",
            "document_ids": ["d0", "d2", "d1"],
        },
        {
            "query": "query 1",
            "documents": ["t 3"],
            "labels": [1.0],
            "query_id": "q1",
            "document_ids": ["d3"],
        },
    ]
    with pytest.raises(UserError, match=r"there is no dev.tsv or dev.jsonl; splits found: train"):
        load(str(tmp_path), split="dev")


def test_a_document_that_a_row_has_twice_is_there_once() -> None:
    row = {"query": "q", "positive": "p", "negatives": ["n", "p", "n"]}
    assert filled(load([row])) == [{"query": "q", "documents": ["p", "n"], "labels": [1.0, 0.0]}]
    row = {
        "query": "q",
        "documents": ["n", "p", "p"],
        "labels": [0, 1, 3],
        "scores": [1, 2, 3],
        "document_ids": ["a", "b", "c"],
    }
    assert filled(load([row])) == [
        {
            "query": "q",
            "documents": ["n", "p"],
            "labels": [0.0, 3.0],
            "scores": [1.0, 2.0],
            "document_ids": ["a", "b"],
        }
    ]
