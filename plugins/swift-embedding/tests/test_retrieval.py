"""Exact search, and a whole evaluation on a small slice with the real encoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from swift_core.data.beir import Retrieval, load_retrieval
from swift_core.errors import UserError
from swift_embedding.encoding import TextEncoder
from swift_embedding.retrieval import (
    evaluate_retrieval,
    retrieval_from_rows,
    search,
)


def lines(path: Path, rows: list[Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    """A small data set."""
    lines(
        tmp_path / "corpus.jsonl",
        [
            {"_id": "bread", "text": "Bread is made of flour and water and baked in an oven."},
            {"_id": "reset", "text": "To get a new password, open the settings."},
            {"_id": "bridge", "text": "Seven bridges cross the river in the old town."},
            {"_id": "cell", "text": "Mitochondria give the cell its energy."},
        ],
    )
    queries = {
        "q1": "What is bread made of?",
        "q2": "I forgot my password",
        "q3": "How many bridges are there?",
    }
    lines(tmp_path / "queries.jsonl", [{"_id": name, "text": text} for name, text in queries.items()])
    judged = [("q1", "bread", 1), ("q2", "reset", 2), ("q2", "bread", 0), ("q3", "bridge", 1)]
    rows = [{"query-id": q, "corpus-id": d, "score": s} for q, d, s in judged]
    lines(tmp_path / "qrels" / "test.jsonl", rows)
    return tmp_path


def test_real_encoder_on_a_slice(beir: Path, minilm: TextEncoder) -> None:
    averages, rows = evaluate_retrieval(load_retrieval(beir, "test"), minilm, {10, 100})
    assert averages["ndcg@10"] == 1.0
    assert {"mrr@10", "recall@10", "map@100"} < set(averages)
    assert [row["query_id"] for row in rows] == ["q1", "q2", "q3"]


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
