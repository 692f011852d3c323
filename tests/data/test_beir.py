"""Folders in the layout of BEIR: what is read, and every fault with its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from swift_core.data.beir import load_retrieval, read_corpus
from swift_core.errors import UserError

CORPUS: list[dict[str, Any]] = [
    {"_id": "bread", "title": "Baking", "text": "Bread is made of flour and water and baked in an oven."},
    {"_id": "reset", "title": "", "text": "To get a new password, open the settings."},
    {"_id": 7, "title": None, "text": "Seven bridges cross the river in the old town."},
    {"_id": "cell", "text": " Mitochondria give the cell its energy. "},
]
QUERIES: list[dict[str, Any]] = [
    {"_id": "q1", "text": "What is bread made of?"},
    {"_id": 2, "text": "I forgot my password"},
    {"_id": "q3", "text": "How many bridges are there?"},
    {"_id": "q4", "text": "nobody has judged this one"},
]
JUDGED = [("q1", "bread", 1), (2, "reset", 2), (2, "bread", 0), ("q3", 7, 1), ("q4", "cell", 0)]


def lines(path: Path, rows: list[Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    """A small data set with judgements in both forms."""
    lines(tmp_path / "corpus.jsonl", CORPUS)
    lines(tmp_path / "queries.jsonl", QUERIES)
    rows = [{"query-id": q, "corpus-id": d, "score": s} for q, d, s in JUDGED]
    lines(tmp_path / "qrels" / "dev.jsonl", rows)
    table = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, row)) for row in JUDGED)]
    (tmp_path / "qrels" / "test.tsv").write_text("\n".join(table) + "\n")
    return tmp_path


@pytest.mark.parametrize("split", ["test", "dev"])
def test_both_forms_are_read(beir: Path, split: str) -> None:
    found = load_retrieval(beir, split)
    assert found.corpus == {
        "bread": "Baking Bread is made of flour and water and baked in an oven.",
        "reset": "To get a new password, open the settings.",
        "7": "Seven bridges cross the river in the old town.",
        "cell": "Mitochondria give the cell its energy.",
    }
    assert list(found.queries) == ["q1", "2", "q3"]
    assert found.qrels == {"q1": {"bread": 1}, "2": {"reset": 2, "bread": 0}, "q3": {"7": 1}}


def test_missing_files_and_splits_are_listed(beir: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no dv\.tsv or dv\.jsonl; splits found: dev, test"):
        load_retrieval(beir, "dv")
    (beir / "corpus.jsonl").unlink()
    with pytest.raises(UserError, match=r"corpus\.jsonl: there is no such file; expected a BEIR folder"):
        load_retrieval(beir, "test")
    with pytest.raises(UserError) as caught:
        load_retrieval(tmp_path / "nowhere", "test")
    assert len(caught.value.faults) == 3
    assert "splits found: none" in caught.value.faults[2]


def test_one_split_in_two_files_is_refused(beir: Path) -> None:
    lines(beir / "qrels" / "test.jsonl", [])
    with pytest.raises(UserError, match=r"both test\.jsonl and test\.tsv are there"):
        load_retrieval(beir, "test")


def test_faults_are_told_together_with_their_lines(beir: Path) -> None:
    (beir / "corpus.jsonl").write_text(
        '{"_id": "a", "text": "x"}\n\n{"_id": "a", "text": "y"}\n{"text": "y"}\n{oops\n{"_id": "b"}\n'
    )
    lines(beir / "queries.jsonl", [{"_id": True, "text": "x"}, ["q"], {"_id": "q", "text": 3}])
    lines(beir / "qrels" / "dev.jsonl", [{"query-id": "q", "corpus-id": "a", "score": 0.5}])
    with pytest.raises(UserError) as caught:
        load_retrieval(beir, "dev")
    expected = [
        "corpus.jsonl:3: the _id 'a' was there before",
        "corpus.jsonl:4: expected _id and text, found",
        "corpus.jsonl:5: ",
        "corpus.jsonl:6: expected _id and text",
        "queries.jsonl:1: expected _id and text",
        "queries.jsonl:2: expected a JSON object",
        "queries.jsonl:3: expected _id and text",
        "dev.jsonl:1: expected query-id, corpus-id and score",
    ]
    assert len(caught.value.faults) == len(expected)
    for fault, part in zip(caught.value.faults, expected, strict=True):
        assert part in fault


def test_judgements_name_known_ids_and_do_not_contradict(beir: Path) -> None:
    table = "query-id\tcorpus-id\tscore\nq1\tbread\t1\nq9\tbread\t1\nq1\tcake\t1\nq1\tbread\t0\nq1\n"
    (beir / "qrels" / "test.tsv").write_text(table)
    with pytest.raises(UserError) as caught:
        load_retrieval(beir, "test")
    expected = [
        "test.tsv:3: queries.jsonl has no query 'q9'",
        "test.tsv:4: corpus.jsonl has no document 'cake'",
        "test.tsv:5: query 'q1' and document 'bread' had another score before",
        "test.tsv:6: expected query-id, corpus-id and score",
    ]
    assert [part in fault for part, fault in zip(expected, caught.value.faults, strict=True)] == [True] * 4


def test_a_table_needs_its_header(beir: Path) -> None:
    (beir / "qrels" / "test.tsv").write_text("q1\tbread\t1\n")
    with pytest.raises(UserError, match=r"test\.tsv:1: expected a header"):
        load_retrieval(beir, "test")


def test_some_query_must_be_judged(beir: Path) -> None:
    lines(beir / "qrels" / "dev.jsonl", [{"query-id": "q1", "corpus-id": "cell", "score": 0}])
    with pytest.raises(UserError, match="expected a query with a relevant document"):
        load_retrieval(beir, "dev")


def test_documents_alone_are_read_in_their_order(beir: Path) -> None:
    assert list(read_corpus(beir / "corpus.jsonl")) == ["bread", "reset", "7", "cell"]
    with pytest.raises(UserError, match=r"nothing\.jsonl: there is no such file; expected documents"):
        read_corpus(beir / "nothing.jsonl")
    (beir / "empty.jsonl").write_text("")
    with pytest.raises(UserError, match=r"empty\.jsonl: expected documents as JSON lines"):
        read_corpus(beir / "empty.jsonl")
