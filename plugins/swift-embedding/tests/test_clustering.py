"""V-measure against its definition by entropies, and clusterings that can be told beforehand."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from sklearn.cluster import MiniBatchKMeans

from swift_core.errors import SwiftError, UserError
from swift_embedding.clustering import clustering_metrics, evaluate_clustering
from swift_embedding.encoding import TextEncoder


def groups(spread: float) -> tuple[np.ndarray, list[str]]:
    """90 vectors around three centres of very different size."""
    generator = np.random.default_rng(0)
    labels = ["sea"] * 60 + ["land"] * 20 + ["air"] * 10
    centres = {name: generator.standard_normal(8) for name in dict.fromkeys(labels)}
    vectors = [centres[name] + spread * generator.standard_normal(8) for name in labels]
    return np.array(vectors, dtype=np.float32), labels


def entropy(values: list[object]) -> float:
    return -sum(n / len(values) * math.log(n / len(values)) for n in Counter(values).values())


def v_measure(labels: list[str], clusters: list[int]) -> float:
    """Rosenberg and Hirschberg 2007, equations 1 to 3 with beta 1."""
    joint = entropy(list(zip(labels, clusters, strict=True)))
    homogeneity = 1 - (joint - entropy(list(clusters))) / entropy(list(labels))
    completeness = 1 - (joint - entropy(list(labels))) / entropy(list(clusters))
    return 2 * homogeneity * completeness / (homogeneity + completeness)


def test_equals_the_definition_for_each_start() -> None:
    vectors, labels = groups(spread=1.2)
    found = clustering_metrics(vectors, labels, seeds=(3, 4, 5))
    expected = []
    for seed in (3, 4, 5):
        # As MTEB's ClusteringEvaluator sets it up.
        kmeans = MiniBatchKMeans(n_clusters=3, batch_size=500, n_init="auto", random_state=seed)
        expected.append(v_measure(labels, kmeans.fit_predict(vectors).tolist()))
    assert found["v_measure"] == pytest.approx(np.mean(expected), abs=1e-9)
    assert found["v_measure_std"] == pytest.approx(np.std(expected), abs=1e-9)
    assert found["v_measure_std"] > 0


def test_clear_groups_are_found_and_noise_is_not() -> None:
    vectors, labels = groups(spread=0.01)
    assert clustering_metrics(vectors, labels) == {
        "v_measure": pytest.approx(1.0),
        "v_measure_std": pytest.approx(0.0),
    }
    noise = np.random.default_rng(1).standard_normal(vectors.shape).astype(np.float32)
    assert clustering_metrics(noise, labels)["v_measure"] < 0.2


def test_real_texts_fall_into_their_subjects(minilm: TextEncoder) -> None:
    subjects = {
        "bread": ["Bake the dough in a hot oven.", "Knead flour and water.", "Yeast makes a loaf rise."],
        "sky": ["The telescope shows a galaxy.", "Saturn has rings.", "A comet passed the sun."],
        "law": ["The court heard the appeal.", "A judge sentenced him.", "The lawyer read the contract."],
    }
    rows = [{"text": text, "label": name} for name, texts in subjects.items() for text in texts]
    assert evaluate_clustering(rows, minilm)["v_measure"] > 0.6


def test_what_can_not_be_measured_is_told(minilm: TextEncoder) -> None:
    with pytest.raises(UserError, match="two labels or more, found 2 texts with 1"):
        evaluate_clustering([{"text": "a", "label": 1}, {"text": "b", "label": 1}], minilm)
    vectors, labels = groups(spread=1.0)
    vectors[3, 2] = float("nan")
    with pytest.raises(SwiftError, match="hold NaN or infinity"):
        clustering_metrics(vectors, labels)
