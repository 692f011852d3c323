"""Expected metrics: against all orders of ties one by one, and without ties against trec_eval's code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise, permutations
from typing import Any

import ir_measures
import numpy as np
import pytest
from ir_measures import AP, RR, P, R, nDCG
from sklearn.metrics import ndcg_score

from swift_core.errors import SwiftError
from swift_reranker.metrics import (
    average_precision,
    evaluate_lists,
    ndcg,
    precision,
    recall,
    reciprocal_rank,
)

Ordered = Callable[[Sequence[float]], float]


def dcg(gains: Sequence[float], k: int | None) -> float:
    return sum(gain / np.log2(rank + 1) for rank, gain in enumerate(gains[:k], start=1))


def first(gains: Sequence[float], k: int | None) -> float:
    return next((1 / rank for rank, gain in enumerate(gains[:k], start=1) if gain > 0), 0.0)


def precisions(gains: Sequence[float], k: int | None) -> float:
    hits = [gain > 0 for gain in gains]
    return sum(sum(hits[:rank]) / rank for rank, hit in enumerate(hits[:k], start=1) if hit)


def over_all_orders(scores: Sequence[float], gains: Sequence[float], metric: Ordered) -> float:
    """Mean of ``metric`` over each order in which no smaller score stands before a larger one."""
    orders = [
        order
        for order in permutations(range(len(scores)))
        if all(scores[a] >= scores[b] for a, b in pairwise(order))
    ]
    return float(np.mean([metric([gains[place] for place in order]) for order in orders]))


def random_lists(seed: int, count: int, longest: int, levels: int) -> list[tuple[list[float], list[float]]]:
    generator = np.random.default_rng(seed)
    lists = []
    for _ in range(count):
        length = generator.integers(1, longest + 1)
        scores = generator.integers(0, levels, length) / 7 - 0.3
        gains = np.maximum(generator.integers(-2, 4, length), 0).astype(float)
        lists.append((scores.tolist(), gains.tolist()))
    return lists


@pytest.mark.parametrize("k", [None, 1, 2, 4])
def test_each_metric_is_the_mean_over_all_orders_of_ties(k: int | None) -> None:
    ties = 0
    for scores, gains in random_lists(seed=0, count=60, longest=6, levels=3):
        ties += len(set(scores)) < len(scores)
        relevant, missing = sum(gain > 0 for gain in gains), 2
        ideal = dcg(sorted([*gains, 2.0, 1.0], reverse=True), k)
        mean = {
            "ndcg": over_all_orders(scores, gains, lambda ordered: dcg(ordered, k)) / ideal,
            "rr": over_all_orders(scores, gains, lambda ordered: first(ordered, k)),
            "ap": over_all_orders(scores, gains, lambda ordered: precisions(ordered, k))
            / (relevant + missing),
        }
        assert ndcg(scores, gains, k, missing=[1.0, 2.0]) == pytest.approx(mean["ndcg"], abs=1e-12)
        assert reciprocal_rank(scores, gains, k) == pytest.approx(mean["rr"], abs=1e-12)
        assert average_precision(scores, gains, k, missing=missing) == pytest.approx(mean["ap"], abs=1e-12)
        if k is not None:
            hits = over_all_orders(scores, gains, lambda ordered: sum(gain > 0 for gain in ordered[:k]))
            assert precision(scores, gains, k) == pytest.approx(hits / k, abs=1e-12)
            assert recall(scores, gains, k, missing=2) == pytest.approx(hits / (relevant + 2), abs=1e-12)
    assert ties > 30


def test_without_ties_they_are_those_of_trec_eval() -> None:
    generator = np.random.default_rng(1)
    lists = [
        (generator.permutation(30).astype(float), np.maximum(generator.integers(-8, 4, 30), 0))
        for _ in range(50)
    ]
    missing = [[1.0] * int(generator.integers(0, 3)) for _ in lists]
    qrels: dict[str, dict[str, int]] = {}
    run: dict[str, dict[str, float]] = {}
    for n, ((scores, gains), absent) in enumerate(zip(lists, missing, strict=True)):
        absent_ids = {f"absent{m}": int(gain) for m, gain in enumerate(absent)}
        qrels[str(n)] = {f"d{m}": int(gain) for m, gain in enumerate(gains)} | absent_ids
        run[str(n)] = {f"d{m}": float(score) for m, score in enumerate(scores)}
    means, rows = evaluate_lists(lists, k=10, missing_gains=missing)
    measures: dict[str, Any] = {"ndcg@10": nDCG @ 10, "mrr@10": RR @ 10, "map": AP}
    theirs = {(m.query_id, m.measure): m.value for m in ir_measures.iter_calc(measures.values(), qrels, run)}
    for name, measure in measures.items():
        assert [row[name] for row in rows] == pytest.approx([theirs[q, measure] for q in qrels], abs=1e-9)
        assert means[name] == pytest.approx(np.mean([theirs[q, measure] for q in qrels]), abs=1e-9)
    others = ir_measures.calc_aggregate([P @ 5, R @ 5], qrels, run)
    assert np.mean([precision(*each, 5) for each in lists]) == pytest.approx(others[P @ 5])
    counts = [len(part) for part in missing]
    assert np.mean(
        [recall(*each, 5, missing=m) for each, m in zip(lists, counts, strict=True)]
    ) == pytest.approx(others[R @ 5])


@pytest.mark.parametrize("k", [None, 5])
def test_ndcg_with_ties_is_that_of_scikit_learn(k: int | None) -> None:
    for scores, gains in random_lists(seed=2, count=40, longest=25, levels=5):
        if len(scores) > 1:
            assert ndcg(scores, gains, k) == pytest.approx(ndcg_score([gains], [scores], k=k))
            power = [2**gain - 1 for gain in gains]
            assert ndcg(scores, gains, k, exponential=True) == pytest.approx(
                ndcg_score([power], [scores], k=k)
            )


def test_a_model_that_says_the_same_of_everything_gets_what_chance_gets() -> None:
    generator = np.random.default_rng(3)
    gains = [1.0, 1.0, *[0.0] * 18]  # the answers come first in the file
    chance, _ = evaluate_lists([(generator.permutation(20), gains) for _ in range(4_000)])
    constant, _ = evaluate_lists([([0.5] * 20, gains)])
    assert constant == pytest.approx(chance, abs=0.02)
    backwards, _ = evaluate_lists([([0.5] * 20, gains[::-1])])
    assert backwards == constant


def test_a_gain_below_0_counts_as_0() -> None:
    scores, gains = [4.0, 3.0, 3.0, 1.0], [-2.0, 1.0, -1.0, 2.0]
    expected = ndcg(scores, [0.0, 1.0, 0.0, 2.0], missing=[1.0])
    assert ndcg(scores, gains, missing=[1.0, -3.0]) == expected
    assert average_precision(scores, gains) == average_precision(scores, [0, 1, 0, 1])


def test_long_ties_are_exact() -> None:
    # One relevant among n: each rank is as likely as any other.
    gains = np.eye(1, 1000)[0]
    harmonic = float((1 / np.arange(1, 1001)).sum() / 1000)
    assert reciprocal_rank(np.zeros(1000), gains) == pytest.approx(harmonic, rel=1e-12)
    assert average_precision(np.zeros(1000), gains) == pytest.approx(harmonic, rel=1e-12)


def test_missing_documents_lower_what_asks_for_all() -> None:
    lists = [([2.0, 1.0], [1.0, 0.0])]
    whole, _ = evaluate_lists(lists)
    assert whole == {"ndcg@10": 1.0, "mrr@10": 1.0, "map": 1.0}
    lacking, _ = evaluate_lists(lists, missing_gains=[[1.0]])
    assert lacking == {"ndcg@10": pytest.approx(1 / (1 + 1 / np.log2(3))), "mrr@10": 1.0, "map": 0.5}


def test_lists_with_nothing_to_find_count_as_0() -> None:
    means, rows = evaluate_lists([([1.0], [1.0]), ([1.0, 2.0], [0.0, -1.0]), ([], [])], k=3)
    nothing = {"ndcg@3": 0.0, "mrr@3": 0.0, "map": 0.0}
    assert rows == [{"ndcg@3": 1.0, "mrr@3": 1.0, "map": 1.0}, nothing, nothing]
    assert means == pytest.approx(dict.fromkeys(nothing, 1 / 3))
    _, rows = evaluate_lists([([], [])], missing_gains=[[1.0]])
    assert rows == [{"ndcg@10": 0.0, "mrr@10": 0.0, "map": 0.0}]
    assert precision([], [], 5) == recall([], [], 5) == recall([1.0], [0.0], 5) == 0.0


def test_infinite_scores_rank_and_numbers_that_are_none_are_refused() -> None:
    assert reciprocal_rank([-np.inf, np.inf, 0.0], [1, 0, 0]) == pytest.approx(1 / 3)
    assert reciprocal_rank([-np.inf, -np.inf], [1, 0]) == pytest.approx(3 / 4)
    with pytest.raises(SwiftError, match=r"scores of 2 of 3 lists are not numbers \(NaN\), .* in list 2;"):
        evaluate_lists([([1.0], [1.0]), ([1.0, np.nan], [1.0, 0.0]), ([np.nan], [1.0])])
    with pytest.raises(ValueError, match="expected as many gains as scores, found 2 and 1"):
        ndcg([1.0], [1.0, 0.0])
    with pytest.raises(ValueError, match="shorter"):
        evaluate_lists([([1.0], [1.0])], missing_gains=[])
