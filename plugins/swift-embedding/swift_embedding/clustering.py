"""Clustering as an evaluation: do the vectors of labelled texts fall into the groups of their labels?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.cluster import MiniBatchKMeans
from sklearn.metrics import v_measure_score

from swift_core.errors import SwiftError, UserError

if TYPE_CHECKING:
    from swift_embedding.encoding import TextEncoder

_BATCH_SIZE = 500
"""Of MiniBatchKMeans, as MTEB's clustering tasks have it."""

SEEDS = tuple(range(10))


def clustering_metrics(
    vectors: np.ndarray, labels: Sequence[str], seeds: Sequence[int] = SEEDS
) -> dict[str, float]:
    """Cluster with mini-batch k-means (Sculley 2010), as many clusters as labels, once for each seed.

    The V-measure (Rosenberg and Hirschberg 2007) is the harmonic mean of homogeneity and completeness:
    ``2 h c / (h + c)`` with ``h = 1 - H(label | cluster) / H(label)`` and
    ``c = 1 - H(cluster | label) / H(cluster)``. For one seed this is what MTEB's ``ClusteringEvaluator``
    does; k-means depends on where it starts, so here several starts are averaged.

    Args:
        vectors: [N, D].
        labels: [N].
        seeds: one clustering each.

    Returns:
        ``v_measure`` (0 to 1), the mean over the seeds, and ``v_measure_std``, their standard deviation.

    Raises:
        UserError: there are fewer than two labels.
        SwiftError: the vectors hold NaN.
    """
    _check_labels(labels)
    if not np.isfinite(vectors).all():
        raise SwiftError(
            "clustering: the model's vectors hold NaN or infinity; lower the learning rate, or train in bf16 "
            "or float32 instead of fp16"
        )
    found = [_v_measure(vectors, labels, seed) for seed in seeds]
    return {"v_measure": float(np.mean(found)), "v_measure_std": float(np.std(found))}


def evaluate_clustering(
    rows: Iterable[Mapping[str, Any]], encoder: TextEncoder, *, progress: bool = False
) -> dict[str, float]:
    """Encode labelled texts (``text``, ``label``), as queries, and cluster them.

    Returns:
        See :func:`clustering_metrics`.

    Raises:
        UserError, SwiftError: see there.
    """
    texts, labels = [], []
    for row in rows:
        texts.append(row["text"])
        labels.append(str(row["label"]))
    _check_labels(labels)
    return clustering_metrics(encoder.encode_queries(texts, progress), labels)


def _v_measure(vectors: np.ndarray, labels: Sequence[str], seed: int) -> float:
    kmeans = MiniBatchKMeans(
        n_clusters=len(set(labels)), batch_size=_BATCH_SIZE, n_init="auto", random_state=seed
    )
    return float(v_measure_score(labels, kmeans.fit(vectors).labels_))


def _check_labels(labels: Sequence[str]) -> None:
    if len(set(labels)) < 2:
        raise UserError(
            f"clustering: expected texts with two labels or more, found {len(labels):,} texts with "
            f"{len(set(labels))}"
        )
