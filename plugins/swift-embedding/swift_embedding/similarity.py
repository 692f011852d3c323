"""Evaluations on pairs: semantic textual similarity (STS), and triplets of query, positive, negative."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from swift_core.errors import SwiftError, UserError

if TYPE_CHECKING:
    from swift_embedding.encoding import Encoder

_TINY = 1e-12


def paired_cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Cosine of each row of ``left`` [N, D] with the same row of ``right`` [N, D]: float64 [N].

    The cosine with a zero vector is 0.

    Raises:
        SwiftError: a vector holds NaN, as after a training that diverged.
    """
    left, right = left.astype(np.float64), right.astype(np.float64)
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)  # [N]
    cosines: np.ndarray = (left * right).sum(axis=1) / np.maximum(norms, _TINY)  # [N]
    if np.isnan(cosines).any():
        raise SwiftError(
            f"{np.isnan(cosines).sum():,} of {len(cosines):,} similarities are not numbers (NaN), so the "
            "model's vectors hold NaN; lower the learning rate, or train in bf16 or float32 instead of fp16"
        )
    return cosines


def sts_metrics(
    left: np.ndarray, right: np.ndarray, scores: Sequence[float] | np.ndarray
) -> dict[str, float]:
    """How well cosines follow the scores that people gave, as SemEval and MTEB measure it.

    Args:
        left: vectors of the first texts [N, D].
        right: vectors of the second texts [N, D].
        scores: similarity of each pair on any scale [N].

    Returns:
        ``spearman`` (correlation of the ranks; ties share their mean rank) and ``pearson``, -1 to 1.

    Raises:
        UserError: there are fewer than two pairs, a score is not a number, or all scores are the same.
        SwiftError: the vectors hold NaN, or all cosines are the same, so that no correlation is defined.
    """
    gold = np.asarray(scores, dtype=np.float64)  # [N]
    _check_scores(gold)
    cosines = paired_cosines(left, right)
    if np.ptp(cosines) < _TINY:
        raise SwiftError(
            f"all {len(cosines):,} pairs have the cosine {cosines[0]:.4f}, so no correlation is defined: the "
            "model gives every text the same vector"
        )
    return {
        "spearman": float(stats.spearmanr(gold, cosines).statistic),
        "pearson": float(stats.pearsonr(gold, cosines).statistic),
    }


def evaluate_sts(
    rows: Iterable[Mapping[str, Any]], encoder: Encoder, *, progress: bool = False
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Encode pairs with ``text1``, ``text2`` and ``score``, all texts as queries, and compare.

    Returns:
        See :func:`sts_metrics`, and one row a pair: ``text1``, ``text2``, ``score``, ``cosine``.

    Raises:
        UserError, SwiftError: see :func:`sts_metrics`.
    """
    pairs = [(row["text1"], row["text2"], float(row["score"])) for row in rows]
    _check_scores(np.array([score for _, _, score in pairs]))
    # Texts come again and again in such data; each is encoded once.
    place = {text: n for n, text in enumerate(dict.fromkeys(text for pair in pairs for text in pair[:2]))}
    vectors = encoder.encode_queries(list(place), progress)  # [T, D]
    left, right = (vectors[[place[pair[side]] for pair in pairs]] for side in (0, 1))  # both [N, D]
    metrics = sts_metrics(left, right, [score for _, _, score in pairs])
    table = [
        {"text1": text1, "text2": text2, "score": score, "cosine": cosine}
        for (text1, text2, score), cosine in zip(pairs, paired_cosines(left, right).tolist(), strict=True)
    ]
    return metrics, table


def triplet_accuracies(queries: np.ndarray, positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """For each triplet: 1 where the positive's cosine is above the negative's, 1/2 for a tie, else 0.

    A tie counts half, as in the area under a ROC curve: a model that gives all texts one vector gets 0.5.

    Args:
        queries, positives, negatives: vectors [N, D].

    Returns:
        float64 [N]

    Raises:
        SwiftError: the vectors hold NaN.
    """
    above = paired_cosines(queries, positives) - paired_cosines(queries, negatives)  # [N]
    accuracies: np.ndarray = (np.sign(above) + 1) / 2
    return accuracies


def evaluate_triplets(
    rows: Iterable[Mapping[str, Any]], encoder: Encoder, *, progress: bool = False
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Compare every positive of a row with every negative of it.

    Args:
        rows: ``query``, ``positive`` (a list of texts), ``negatives`` (a list, or None).

    Returns:
        ``triplet_accuracy``, the mean of :func:`triplet_accuracies` over all triplets, and one row a query
        that has triplets: ``query``, ``triplets`` (how many) and ``triplet_accuracy`` (their mean).

    Raises:
        UserError: no row has a negative.
        SwiftError: the vectors hold NaN.
    """
    triplets = list(dict.fromkeys(triplet for row in rows for triplet in _triplets(row)))
    if not triplets:
        raise UserError(
            "triplet accuracy: expected rows with negatives, found none; give negatives to some rows"
        )
    queries = {text: n for n, text in enumerate(dict.fromkeys(query for query, _, _ in triplets))}
    documents = {text: n for n, text in enumerate(dict.fromkeys(text for t in triplets for text in t[1:]))}
    query_vectors = encoder.encode_queries(list(queries), progress)  # [Q, D]
    document_vectors = encoder.encode_documents(list(documents), progress)  # [T, D]
    of_query = np.array([queries[query] for query, _, _ in triplets])  # [N]
    accuracies = triplet_accuracies(  # [N]
        query_vectors[of_query],
        document_vectors[[documents[positive] for _, positive, _ in triplets]],
        document_vectors[[documents[negative] for _, _, negative in triplets]],
    )
    counts = np.bincount(of_query)  # [Q]
    means = np.bincount(of_query, weights=accuracies) / counts  # [Q]
    table = [
        {"query": query, "triplets": count, "triplet_accuracy": mean}
        for query, count, mean in zip(queries, counts.tolist(), means.tolist(), strict=True)
    ]
    return {"triplet_accuracy": float(accuracies.mean())}, table


def _triplets(row: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    return [(row["query"], p, n) for p in row["positive"] for n in row.get("negatives") or ()]


def _check_scores(scores: np.ndarray) -> None:
    if len(scores) < 2:
        raise UserError(f"score: expected two pairs or more to correlate, found {len(scores)}")
    if not np.isfinite(scores).all():
        row = int(np.flatnonzero(~np.isfinite(scores))[0]) + 1
        raise UserError(f"score: expected a number in every row, found {scores[row - 1]} in row {row}")
    if np.ptp(scores) == 0:
        raise UserError(
            f"score: expected scores that differ, found {scores[0]:g} in all {len(scores):,} rows: nothing "
            "can be correlated with them"
        )
