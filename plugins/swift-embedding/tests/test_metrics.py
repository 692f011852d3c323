"""Metrics against a plain loop, scikit-learn and sentence-transformers."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from swift_core.errors import SwiftError
from swift_embedding.metrics import retrieval_metrics

Qrels = dict[str, dict[str, int]]
Run = dict[str, dict[str, float]]


def problem(*, grades: int, ties: bool, seed: int = 0) -> tuple[Qrels, Run]:
    """60 documents, 40 queries with 1 to 14 judged documents, and a ranking that is better than chance."""
    draw = random.Random(seed)
    documents = [f"d{n}" for n in range(60)]
    qrels: Qrels = {}
    run: Run = {}
    for n in range(40):
        judged = draw.sample(documents, draw.randint(1, 14))
        qrels[f"q{n}"] = {d: draw.randint(0, grades) for d in judged}
        qrels[f"q{n}"][judged[0]] = grades
        found = draw.sample(documents, draw.randint(5, 60))
        scores = {d: draw.random() + 0.3 * qrels[f"q{n}"].get(d, 0) for d in found}
        run[f"q{n}"] = {d: round(s * 4) / 4 if ties else s for d, s in scores.items()}
    return qrels, run


def loop(judged: dict[str, int], scores: dict[str, float], k: int) -> dict[str, float]:
    """The five formulas, written out for one query."""
    order = sorted(sorted(scores, reverse=True), key=lambda d: -scores[d])[:k]
    gains = [judged.get(d, 0) for d in order]
    ideal = sorted(judged.values(), reverse=True)[:k]
    relevant = sum(grade > 0 for grade in judged.values())
    ranks = [rank for rank, gain in enumerate(gains, 1) if gain > 0]
    return {
        f"ndcg@{k}": dcg(gains) / dcg(ideal),
        f"mrr@{k}": 1 / ranks[0] if ranks else 0.0,
        f"recall@{k}": len(ranks) / relevant,
        f"precision@{k}": len(ranks) / k,
        f"map@{k}": sum(n / rank for n, rank in enumerate(ranks, 1)) / relevant,
    }


def dcg(gains: list[int]) -> float:
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, 1))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("grades", [1, 3])
def test_equals_a_loop(grades: int, ties: bool) -> None:
    qrels, run = problem(grades=grades, ties=ties)
    averages, rows = retrieval_metrics(qrels, run, [100, 1, 10])
    assert [row["query_id"] for row in rows] == list(qrels)
    for row in rows:
        query = row["query_id"]
        expected = {n: v for k in (1, 10, 100) for n, v in loop(qrels[query], run[query], k).items()}
        assert row == {"query_id": query, **{n: pytest.approx(v, abs=1e-9) for n, v in expected.items()}}
    for name in averages:
        assert averages[name] == pytest.approx(np.mean([row[name] for row in rows]), abs=1e-12)


def test_ndcg_equals_scikit_learn() -> None:
    qrels, run = problem(grades=3, ties=False)
    documents = [f"d{n}" for n in range(60)]
    rows = retrieval_metrics(qrels, run, [10])[1]
    for row in rows:
        judged, scores = qrels[row["query_id"]], run[row["query_id"]]
        # What was not found comes last; where that lies among the first 10 no rank counts.
        if len(scores) < 10:
            continue
        grades = [[judged.get(d, 0) for d in documents]]
        expected = ndcg_score(grades, [[scores.get(d, -1.0) for d in documents]], k=10)
        assert row["ndcg@10"] == pytest.approx(expected, abs=1e-9)


# The name that version 5 knows too.
@pytest.mark.filterwarnings("ignore:Importing from 'sentence_transformers.evaluation' is:DeprecationWarning")
def test_equals_sentence_transformers() -> None:
    from sentence_transformers.evaluation import InformationRetrievalEvaluator

    from swift_embedding.retrieval import search

    generator = np.random.default_rng(0)
    queries = generator.standard_normal((20, 8)).astype(np.float32)
    documents = generator.standard_normal((50, 8)).astype(np.float32)
    names = [f"d{n}" for n in range(50)]
    qrels = {
        f"q{n}": {str(d): 1 for d in generator.choice(names, generator.integers(1, 9), replace=False)}
        for n in range(20)
    }
    evaluator = InformationRetrievalEvaluator(
        dict.fromkeys(qrels, "text"),
        dict.fromkeys(names, "text"),
        {query: set(judged) for query, judged in qrels.items()},
        precision_recall_at_k=[10],
        map_at_k=[50],
        mrr_at_k=[10],
        ndcg_at_k=[10],
    )
    exact = queries @ documents.T
    found = [[{"corpus_id": names[d], "score": row[d]} for d in np.argsort(-row)[:50]] for row in exact]
    expected = evaluator.compute_metrics(found)
    scores, indices = search(queries, documents, 50, chunk=7)
    run = {
        query: {names[d]: float(s) for d, s in zip(indices[n], scores[n], strict=True)}
        for n, query in enumerate(qrels)
    }
    averages = retrieval_metrics(qrels, run, [10, 50])[0]
    for name, k in (
        ("ndcg", 10),
        ("mrr", 10),
        ("recall", 10),
        ("precision", 10),
        ("map", 50),
    ):
        assert averages[f"{name}@{k}"] == pytest.approx(expected[f"{name}@k"][k], abs=1e-9)


def test_ties_follow_the_ids_and_no_one_is_favoured() -> None:
    scores = dict.fromkeys(["a", "b", "c", "d"], 0.5)
    first = retrieval_metrics({"q": {"d": 1}}, {"q": scores}, [10])[0]
    last = retrieval_metrics({"q": {"a": 1}}, {"q": dict(reversed(scores.items()))}, [10])[0]
    assert (first["mrr@10"], last["mrr@10"]) == (1.0, 0.25)
    assert last["ndcg@10"] == pytest.approx(1 / math.log2(5))
    assert last["map@10"] == 0.25


def test_scores_that_float32_would_join_are_told_apart() -> None:
    close = {"q": {"b": 1.0, "a": 1.0 + 1e-12}}
    averages = retrieval_metrics({"q": {"a": 1}}, close, [1])[0]
    assert set(averages.values()) == {1.0}


def test_queries_without_documents_count_as_zero() -> None:
    qrels = {"q1": {"a": 1}, "q2": {"a": 1}, "q3": {"a": 1}, "q4": {"a": 1}}
    averages, rows = retrieval_metrics(qrels, {"q1": {"a": 1.0}, "q2": {}, "other": {"a": 1.0}}, [1])
    assert len(rows) == 4
    assert set(averages.values()) == {0.25}


def test_scores_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(SwiftError, match="query 'q': a score is not a number"):
        retrieval_metrics({"q": {"a": 1}}, {"q": {"a": float("nan")}}, [10])
