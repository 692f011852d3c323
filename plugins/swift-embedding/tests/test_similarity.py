"""STS and triplet accuracy against sentence-transformers' evaluators on the same model, and their edges."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from swift_core.errors import SwiftError, UserError
from swift_embedding.encoding import TextEncoder
from swift_embedding.similarity import evaluate_sts, evaluate_triplets, sts_metrics, triplet_accuracies

# The name that version 5 knows too.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Importing from 'sentence_transformers.evaluation' is:DeprecationWarning"
)

SUBJECTS = ("A cat", "A dog", "The mayor", "A brass band", "Snow")
VERBS = ("sleeps", "sings", "falls", "runs")
PLACES = ("on the roof", "in the old town", "at noon", "under a bridge")


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    return [f"{s} {v} {p}." for s in SUBJECTS for v in VERBS for p in PLACES]


def test_sts_equals_sentence_transformers(
    minilm: TextEncoder, minilm_folder: Path, sentences: list[str]
) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.evaluation import EmbeddingSimilarityEvaluator

    draw = random.Random(0)
    pairs = [draw.sample(sentences, 2) for _ in range(40)]
    scores = [round(5 * len(set(a.split()) & set(b.split())) / 6) for a, b in pairs]
    left, right = (list(side) for side in zip(*pairs, strict=True))
    rows = [{"text1": a, "text2": b, "score": s} for a, b, s in zip(left, right, scores, strict=True)]
    evaluator = EmbeddingSimilarityEvaluator(left, right, scores, main_similarity="cosine", write_csv=False)
    expected = evaluator(SentenceTransformer(str(minilm_folder), device="cpu", local_files_only=True))

    metrics, table = evaluate_sts(rows, minilm)
    assert metrics["spearman"] == pytest.approx(expected["spearman_cosine"], abs=1e-6)
    assert metrics["pearson"] == pytest.approx(expected["pearson_cosine"], abs=1e-6)
    assert [{name: row[name] for name in ("text1", "text2", "score")} for row in table] == rows
    vectors = minilm.encode_queries([left[3], right[3]])
    assert table[3]["cosine"] == pytest.approx(float(vectors[0] @ vectors[1]), abs=1e-6)


def test_triplets_equal_sentence_transformers(
    minilm: TextEncoder, minilm_folder: Path, sentences: list[str]
) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.evaluation import TripletEvaluator

    draw = random.Random(1)
    triplets = [draw.sample(sentences, 3) for _ in range(60)]
    evaluator = TripletEvaluator(*map(list, zip(*triplets, strict=True)), write_csv=False)
    expected = evaluator(SentenceTransformer(str(minilm_folder), device="cpu", local_files_only=True))
    rows = [{"query": q, "positive": [p], "negatives": [n]} for q, p, n in triplets]
    metrics, table = evaluate_triplets(rows, minilm)
    assert metrics["triplet_accuracy"] == pytest.approx(expected["cosine_accuracy"], abs=1e-6)
    assert 0.2 < metrics["triplet_accuracy"] < 0.9, "the data tells nothing"
    weighed = sum(row["triplets"] * row["triplet_accuracy"] for row in table)
    assert weighed / len(triplets) == pytest.approx(metrics["triplet_accuracy"])


def test_cosines_and_not_inner_products_are_compared() -> None:
    queries = np.array([[1.0, 0.0]], dtype=np.float32)
    long, close = np.array([[3.0, 3.0]], dtype=np.float32), np.array([[0.1, 0.01]], dtype=np.float32)
    assert triplet_accuracies(queries, close, long).tolist() == [1.0]
    left = np.array([[1, 0], [1, 0], [1, 0]], dtype=np.float32)
    right = np.array([[0.1, 0.01], [3, 3], [0, 7]], dtype=np.float32)
    assert sts_metrics(left, right, [3, 2, 1])["spearman"] == pytest.approx(1.0)
    assert sts_metrics(left, right, [1, 2, 3])["spearman"] == pytest.approx(-1.0)


def test_every_positive_meets_every_negative_and_ties_count_half(minilm: TextEncoder) -> None:
    rows = [
        {"query": "Bread", "positive": ["Bread", "A loaf of bread"], "negatives": ["Rain in May", "Bread"]},
        {"query": "Bread", "positive": ["Bread"], "negatives": ["A river"]},
        {"query": "nobody contrasts this", "positive": ["one"], "negatives": None},
        {"query": "Rain", "positive": ["A loaf of bread"], "negatives": ["Rain in May"]},
    ]
    metrics, table = evaluate_triplets(rows, minilm)
    # Of the first query: two beat the rain, one ties with itself, one loses to "Bread", one beats the river.
    assert table == [
        {"query": "Bread", "triplets": 5, "triplet_accuracy": pytest.approx(3.5 / 5)},
        {"query": "Rain", "triplets": 1, "triplet_accuracy": 0.0},
    ]
    assert metrics["triplet_accuracy"] == pytest.approx(3.5 / 6)


def test_prompts_are_those_of_the_sides(minilm: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[str]] = {"query": [], "document": []}

    def queries(self: TextEncoder, texts: list[str], progress: bool = False) -> np.ndarray:
        seen["query"] += texts
        return np.eye(len(texts), 4, dtype=np.float32)

    def documents(self: TextEncoder, texts: list[str], progress: bool = False) -> np.ndarray:
        seen["document"] += texts
        return np.eye(len(texts), 4, dtype=np.float32)

    monkeypatch.setattr(TextEncoder, "encode_queries", queries)
    monkeypatch.setattr(TextEncoder, "encode_documents", documents)
    evaluate_triplets([{"query": "q", "positive": ["p"], "negatives": ["n"]}], minilm)
    assert seen == {"query": ["q"], "document": ["p", "n"]}
    pairs = [{"text1": "a", "text2": "b", "score": 1}, {"text1": "a", "text2": "a", "score": 2}]
    evaluate_sts(pairs, minilm)
    assert seen == {"query": ["q", "a", "b"], "document": ["p", "n"]}


def test_what_can_not_be_measured_is_told(minilm: TextEncoder) -> None:
    vectors = np.eye(3, dtype=np.float32)
    with pytest.raises(UserError, match=r"found 3 in all 3 rows: nothing can be correlated"):
        sts_metrics(vectors, vectors, [3, 3, 3])
    with pytest.raises(UserError, match="two pairs or more to correlate, found 1"):
        sts_metrics(vectors[:1], vectors[:1], [3])
    with pytest.raises(UserError, match="a number in every row, found nan in row 2"):
        sts_metrics(vectors, vectors, [3, float("nan"), 1])
    with pytest.raises(SwiftError, match=r"all 3 pairs have the cosine 1\.0000.*the same vector"):
        sts_metrics(vectors, vectors, [1, 2, 3])
    vectors[1] = float("nan")
    with pytest.raises(SwiftError, match="1 of 3 similarities are not numbers"):
        sts_metrics(vectors, vectors, [1, 2, 3])
    with pytest.raises(UserError, match="expected rows with negatives, found none"):
        evaluate_triplets([{"query": "q", "positive": ["p"], "negatives": []}], minilm)
