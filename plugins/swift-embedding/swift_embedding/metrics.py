"""Retrieval metrics, computed by ir_measures (which asks trec_eval's code)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import ir_measures
from ir_measures import AP, RR, P, R, nDCG

from swift_core.errors import SwiftError


def retrieval_metrics(
    qrels: Mapping[str, Mapping[str, int]], run: Mapping[str, Mapping[str, float]], k_values: Collection[int]
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Compare what was found with what is relevant, at each depth k.

    - ``ndcg@k``: DCG / ideal DCG with DCG = sum_{i<=k} rel_i / log2(i + 1) (Järvelin and Kekäläinen 2002).
    - ``mrr@k``: 1 / rank of the first relevant document, 0 when none is among the first k.
    - ``recall@k``: share of the relevant documents that are among the first k.
    - ``precision@k``: share of the first k that are relevant; where fewer were found, still out of k.
    - ``map@k``: sum of the precisions at the ranks of the relevant documents among the first k, divided by
      the number of all relevant documents.

    Documents are ranked by score, larger first. Equal scores are ordered by document id, larger string
    first: trec_eval's rule, applied here to all five. So a tie favours neither relevant nor other documents.

    Args:
        qrels: relevance by query id and document id; 0 and what is not listed count as not relevant.
        run: score by query id and document id. A query of ``qrels`` that is missing, or that found nothing,
            counts as 0; a query that ``qrels`` does not know is left out.
        k_values: depths, at least one.

    Returns:
        Averages over the queries of ``qrels`` by metric, and one row a query: ``query_id`` and its metrics.

    Raises:
        SwiftError: a score is not a number, as after a training that diverged.
    """
    depths = sorted(set(k_values))
    measures = {
        f"{name}@{k}": measure @ k
        for name, measure in (
            ("ndcg", nDCG),
            ("mrr", RR),
            ("recall", R),
            ("precision", P),
            ("map", AP),
        )
        for k in depths
    }
    ranked = {query: _by_rank(query, run.get(query, {})) for query in qrels}
    values = {
        (metric.query_id, metric.measure): float(metric.value)
        for metric in ir_measures.iter_calc(list(measures.values()), _plain(qrels), ranked)
    }
    rows: list[dict[str, Any]] = [
        {"query_id": query, **{name: values[query, measure] for name, measure in measures.items()}}
        for query in qrels
    ]
    return {name: sum(row[name] for row in rows) / len(rows) for name in measures}, rows


def _by_rank(query: str, scores: Mapping[str, float]) -> dict[str, float]:
    """The same order without ties: minus the rank for a score.

    The library's providers would order ties in different ways, and one compares scores as float32.
    """
    if any(score != score for score in scores.values()):
        raise SwiftError(
            f"query {query!r}: a score is not a number (NaN), so the model's vectors hold NaN; "
            "lower the learning rate, or train in bf16 or float32 instead of fp16"
        )
    order = sorted(scores, key=lambda document: (scores[document], document), reverse=True)
    return {document: -float(rank) for rank, document in enumerate(order, start=1)}


def _plain(qrels: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    return {query: dict(documents) for query, documents in qrels.items()}
