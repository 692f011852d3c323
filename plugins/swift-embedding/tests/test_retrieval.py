"""Reading BEIR folders, exact search, and both together on a small slice with the real encoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from swift_core.errors import UserError
from swift_embedding.encoding import TextEncoder
from swift_embedding.retrieval import (
    Retrieval,
    evaluate_retrieval,
    load_retrieval,
    retrieval_from_rows,
    search,
)

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


def test_real_encoder_on_a_slice(beir: Path, minilm: TextEncoder) -> None:
    averages, rows = evaluate_retrieval(load_retrieval(beir, "test"), minilm, {10, 100})
    assert averages["ndcg@10"] == 1.0
    assert {"mrr@10", "recall@10", "map@100"} < set(averages)
    assert [row["query_id"] for row in rows] == ["q1", "2", "q3"]


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


@pytest.mark.parametrize("chunk", [1, 7, 50, 1000])
@pytest.mark.parametrize("k", [1, 10, 80])
def test_search_equals_a_full_sort(chunk: int, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swift_embedding.retrieval._QUERIES_AT_ONCE", 4)
    generator = np.random.default_rng(chunk)
    queries = generator.standard_normal((9, 16)).astype(np.float32)
    documents = generator.standard_normal((50, 16)).astype(np.float32)
    scores, indices = search(queries, documents, k, chunk)
    exact = queries @ documents.T
    order = np.argsort(-exact, axis=1)[:, :k]
    assert scores.dtype == np.float32 and indices.dtype == np.int64
    np.testing.assert_array_equal(indices, order)
    np.testing.assert_allclose(scores, np.take_along_axis(exact, order, axis=1), rtol=1e-5, atol=1e-5)


def test_vectors_are_searched_as_they_come(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    queries = generator.standard_normal((5, 8)).astype(np.float32)
    documents = generator.standard_normal((40, 8)).astype(np.float32)
    scores, indices = search(queries, documents, 12)
    pieces = (documents[start : start + 9] for start in range(0, 40, 9))
    found = search(queries, pieces, 12, chunk=4)
    np.testing.assert_array_equal(found[1], indices)
    np.testing.assert_allclose(found[0], scores, rtol=1e-6)
    # A file that may only be read, and half precision: torch knows neither way of memory.
    np.save(tmp_path / "vectors.npy", documents.astype(np.float16))
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    exact = queries @ documents.astype(np.float16).astype(np.float32).T
    np.testing.assert_array_equal(search(queries, mapped, 3)[1], np.argsort(-exact, axis=1)[:, :3])
    np.save(tmp_path / "vectors.npy", documents)
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    np.testing.assert_array_equal(search(queries, mapped, 12)[1], indices)


def test_an_evaluation_never_holds_the_vectors_of_the_corpus(
    beir: Path, minilm: TextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluate_retrieval(load_retrieval(beir, "test"), minilm, {10})
    monkeypatch.setattr("swift_embedding.encoding._TEXTS_AT_ONCE", 3)
    monkeypatch.delattr(TextEncoder, "encode_documents")
    assert evaluate_retrieval(load_retrieval(beir, "test"), minilm, {10}) == whole


@pytest.mark.filterwarnings("ignore:Importing from 'sentence_transformers.evaluation' is:DeprecationWarning")
def test_real_encoder_equals_sentence_transformers(minilm: TextEncoder, minilm_folder: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.evaluation import InformationRetrievalEvaluator

    slice_ = load_retrieval(Path(__file__).parents[1] / "examples" / "cmrc2018", "test")
    queries = dict(list(slice_.queries.items())[:60])
    qrels = {query: dict(slice_.qrels[query]) for query in queries}
    relevant = {document for judged in qrels.values() for document in judged}
    corpus = {n: text[:60] for n, text in slice_.corpus.items() if n in relevant or len(n) % 2 == 0}
    evaluator = InformationRetrievalEvaluator(
        queries,
        corpus,
        {query: {document for document, grade in judged.items() if grade} for query, judged in qrels.items()},
        precision_recall_at_k=[10],
        map_at_k=[100],
        mrr_at_k=[10],
        ndcg_at_k=[10],
        accuracy_at_k=[10],
        score_functions={"cosine": lambda a, b: torch.as_tensor(a) @ torch.as_tensor(b).T},
        write_csv=False,
    )
    peer = SentenceTransformer(str(minilm_folder), device="cpu", local_files_only=True)
    expected = evaluator(peer)
    found, _ = evaluate_retrieval(Retrieval(corpus=corpus, queries=queries, qrels=qrels), minilm, {10, 100})
    for name in ("ndcg@10", "mrr@10", "recall@10", "precision@10", "map@100"):
        assert found[name] == pytest.approx(expected[f"cosine_{name}"], abs=1e-6), name
    assert 0.1 < found["ndcg@10"] < 0.9, "the data tells nothing"


def test_training_rows_make_a_retrieval_problem() -> None:
    rows = [
        {"query": "a", "positive": ["one"], "negatives": ["two", "three"]},
        {"query": "b", "positive": ["two"], "negatives": None},
        {"query": "a", "positive": ["three", "four"]},
    ]
    found = retrieval_from_rows(iter(rows))
    assert found.corpus == {"d0": "one", "d1": "two", "d2": "three", "d3": "four"}
    assert found.queries == {"q0": "a", "q1": "b"}
    assert found.qrels == {"q0": {"d0": 1, "d2": 1, "d3": 1}, "q1": {"d1": 1}}
    with pytest.raises(UserError, match="found no rows"):
        retrieval_from_rows([])
