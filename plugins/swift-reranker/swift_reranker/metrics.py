"""Metrics of ranked lists in which ties count as ties.

Candidates of equal scores have no order. A metric that takes that of the file may give any figure to a model
that says the same of everything: 1.0 where answers come first. Here each metric is its expected value over
all orders of equal scores, so that such a model gets what chance gets. Without ties it is trec_eval's value.
McSherry and Najork 2008, "Computing Information Retrieval Performance Measures Efficiently in the Presence of
Tied Scores".

A block is the candidates of one score. Its places are numbered from 1, and its hits are its relevant ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from swift_core.errors import SwiftError

# Shape legend: K candidates of a query.

Numbers = Sequence[float] | np.ndarray


@dataclass(frozen=True, kw_only=True)
class _Ranking:
    """One list by score, with what each place, [K], knows of its block.

    Attributes:
        rank: of the place in the list, from 1.
        place: in the block, from 1.
        size: of the block.
        hits: relevant candidates of the block, or its gains.
        before_hits: those of all blocks above.
    """

    rank: np.ndarray
    place: np.ndarray
    size: np.ndarray
    hits: np.ndarray
    before_hits: np.ndarray


def ndcg(
    scores: Numbers, gains: Numbers, k: int | None = None, *, missing: Numbers = (), exponential: bool = False
) -> float:
    """Expected DCG / ideal DCG with DCG = sum_{r<=k} gain_r / log2(r + 1) (Järvelin and Kekäläinen 2002).

    At each place of a block the mean gain of the block is expected.

    Args:
        scores: [K]
        gains: [K]; below 0 counts as 0.
        k: depth. None: the whole list.
        missing: gains of documents that are not among the candidates but count in the ideal.
        exponential: take 2^gain - 1 for the gain (Burges et al. 2005). trec_eval takes the gain itself.

    Returns:
        From 0 to 1; 0 where nothing has a gain.
    """
    found, absent = (np.maximum(np.asarray(part, dtype=np.float64), 0) for part in (gains, missing))
    if exponential:
        found, absent = np.exp2(found) - 1, np.exp2(absent) - 1
    ideal = np.sort(np.concatenate([found, absent]))[::-1]
    best = ideal @ _discounts(np.arange(1, len(ideal) + 1), k)
    ranking = _ranked(scores, found)
    return float(ranking.hits / ranking.size @ _discounts(ranking.rank, k) / best) if best > 0 else 0.0


def reciprocal_rank(scores: Numbers, relevant: Numbers, k: int | None = None) -> float:
    """Expected 1 / rank of the first relevant candidate, taken as 0 beyond rank k.

    It is in the first block with a hit, at place j with probability C(size - j, hits - 1) / C(size, hits).

    Args:
        scores: [K]
        relevant: [K]; above 0 is relevant.
        k: depth. None: the whole list.
    """
    ranking = _ranked(scores, _relevant(relevant))
    # That probability as a product: a hit here, and none at any place before. A hit is certain where as many
    # places are left as hits, and from there on the product is 0.
    hit_here = ranking.hits / (ranking.size - ranking.place + 1)  # [K]
    none_before = np.cumprod(np.append(1.0, 1 - hit_here))[: len(hit_here)]
    return float((none_before * hit_here / ranking.rank)[_within(ranking.rank, k)].sum())


def average_precision(scores: Numbers, relevant: Numbers, k: int | None = None, *, missing: int = 0) -> float:
    """Expected sum of the precisions at the ranks of the relevant candidates / number of all relevant ones.

    Place j of a block is relevant with probability hits / size, and then there are, of its block,
    (j - 1) (hits - 1) / (size - 1) relevant ones above it.

    Args:
        scores: [K]
        relevant: [K]; above 0 is relevant.
        k: depth. None: the whole list.
        missing: relevant documents that are not among the candidates.

    Returns:
        From 0 to 1; 0 where nothing is relevant.
    """
    hit = _relevant(relevant)
    ranking = _ranked(scores, hit)
    others = (ranking.place - 1) * (ranking.hits - 1) / np.maximum(ranking.size - 1, 1)
    precision = (ranking.before_hits + 1 + others) / ranking.rank
    expected = (ranking.hits / ranking.size * precision)[_within(ranking.rank, k)].sum()
    return float(expected / max(hit.sum() + missing, 1))


def precision(scores: Numbers, relevant: Numbers, k: int) -> float:
    """Expected share of the first k that are relevant; out of k where there are fewer.

    Args:
        scores: [K]
        relevant: [K]; above 0 is relevant.
        k: depth.
    """
    return _hits_within(scores, relevant, k) / k


def recall(scores: Numbers, relevant: Numbers, k: int, *, missing: int = 0) -> float:
    """Expected share of the relevant ones that are among the first k; 0 where nothing is relevant.

    Args:
        scores: [K]
        relevant: [K]; above 0 is relevant.
        k: depth.
        missing: relevant documents that are not among the candidates.
    """
    return _hits_within(scores, relevant, k) / max(float(_relevant(relevant).sum()) + missing, 1)


def evaluate_lists(
    lists: Sequence[tuple[Numbers, Numbers]], *, k: int = 10, missing_gains: Sequence[Numbers] | None = None
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Compare how lists are ranked with what is relevant.

    - ``ndcg@k``: :func:`ndcg` with linear gains.
    - ``mrr@k``: :func:`reciprocal_rank`.
    - ``map``: :func:`average_precision` of the whole list.

    Args:
        lists: scores and gains of each query's candidates, at least one query. A gain above 0 is relevant. A
            query without relevant documents counts as 0.
        k: depth.
        missing_gains: gains of the documents that are not among the candidates, one list a query, such as
            the relevant ones that a first stage did not find. None: all relevant documents are candidates.

    Returns:
        Means over the queries, and one row of metrics a query.

    Raises:
        SwiftError: a score is not a number, as after a training that diverged.
    """
    faulty = [n for n, (scores, _) in enumerate(lists, start=1) if np.isnan(scores).any()]
    if faulty:
        raise SwiftError(
            f"scores of {len(faulty):,} of {len(lists):,} lists are not numbers (NaN), the first of them in "
            f"list {faulty[0]:,}; lower the learning rate, or train in bf16 or float32 instead of fp16"
        )
    absent = missing_gains if missing_gains is not None else [()] * len(lists)
    rows = [
        {
            f"ndcg@{k}": ndcg(scores, gains, k, missing=missing),
            f"mrr@{k}": reciprocal_rank(scores, gains, k),
            "map": average_precision(scores, gains, missing=int(_relevant(missing).sum())),
        }
        for (scores, gains), missing in zip(lists, absent, strict=True)
    ]
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}, rows


def _ranked(scores: Numbers, hits: np.ndarray) -> _Ranking:
    values = np.asarray(scores, dtype=np.float64)
    if len(values) != len(hits):
        raise ValueError(f"expected as many gains as scores, found {len(hits)} and {len(values)}")
    order = np.argsort(-values, kind="stable")  # [K]
    ordered = values[order]
    rank = np.arange(1, len(order) + 1)
    block = np.cumsum(np.append(False, ordered[1:] != ordered[:-1]))[: len(order)]  # [K], from 0
    size = np.bincount(block)
    of_block = np.bincount(block, weights=hits[order])
    before, before_hits = np.cumsum(size) - size, np.cumsum(of_block) - of_block
    return _Ranking(
        rank=rank,
        place=rank - before[block],
        size=size[block],
        hits=of_block[block],
        before_hits=before_hits[block],
    )


def _hits_within(scores: Numbers, relevant: Numbers, k: int) -> float:
    ranking = _ranked(scores, _relevant(relevant))
    return float((ranking.hits / ranking.size)[_within(ranking.rank, k)].sum())


def _relevant(gains: Numbers) -> np.ndarray:
    return (np.asarray(gains, dtype=np.float64) > 0).astype(np.float64)


def _within(rank: np.ndarray, k: int | None) -> np.ndarray:
    return rank <= (np.inf if k is None else k)


def _discounts(rank: np.ndarray, k: int | None) -> np.ndarray:
    discounts: np.ndarray = _within(rank, k) / np.log2(rank + 1)
    return discounts
