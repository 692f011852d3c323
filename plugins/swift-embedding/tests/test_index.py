"""The index of a bundle: the rule, training, tuning to a target, and what recall means."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from swift_core.errors import SwiftError, UserError
from swift_embedding.index import (
    add_vectors,
    build_index,
    factories,
    new_index,
    open_index,
    tune,
    write_index,
)
from swift_embedding.recall import ExactHits, choose_queries

KINDS = [
    "Flat",
    "SQ8",
    "HNSW32",
    "HNSW16_SQ8",
    "IVF16,SQ8",
    "IVF16,Flat",
    "IVF16,PQ4x8np,Refine(SQ8)",
    "RaBitQ,Refine(SQ8)",
    "PCA16,IVF16,SQ8,Refine(Flat)",
]


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    """3,000 vectors of length 1 around 40 centres: [3000, 32]."""
    rng = np.random.default_rng(7)
    centres = rng.standard_normal((40, 32))
    found = centres[rng.integers(0, 40, 3000)] + 0.7 * rng.standard_normal((3000, 32))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def queries(vectors: np.ndarray) -> np.ndarray:
    """[60, 32], each near a document."""
    near = vectors[::50] + 0.1 * np.random.default_rng(8).standard_normal((60, 32)).astype(np.float32)
    return near / np.linalg.norm(near, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def exact(vectors: np.ndarray, queries: np.ndarray) -> ExactHits:
    return ExactHits.of(queries, np.full(len(queries), -1), vectors)


def recall_by_hand(index: Any, queries: np.ndarray, vectors: np.ndarray) -> float:
    """Share of the ten largest float64 products that are among the ten found."""
    best = np.argsort(-(queries.astype(np.float64) @ vectors.T.astype(np.float64)), axis=1)[:, :10]
    _, found = index.search(queries, 10)
    return float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(best, found, strict=True)]))


@pytest.mark.parametrize("factory", KINDS)
def test_every_kind_reaches_the_target_after_a_reload(
    factory: str, vectors: np.ndarray, queries: np.ndarray, exact: ExactHits, tmp_path: Path
) -> None:
    path = tmp_path / "index.faiss"
    tuned = write_index(path, vectors, exact, index=factory, target_recall=0.9)
    assert tuned.factory == factory
    assert tuned.recall >= 0.9
    for mmap in (False, True):
        loaded = open_index(path, tuned.parameters, mmap=mmap, device="cpu")
        assert recall_by_hand(loaded, queries, vectors) == pytest.approx(tuned.recall, abs=1e-9)


def test_parameters_are_raised_only_as_far_as_needed(
    vectors: np.ndarray, queries: np.ndarray, exact: ExactHits
) -> None:
    index = build_index(vectors, "IVF128,Flat")
    assert recall_by_hand(index, queries, vectors) < 0.7  # faiss' own nprobe of 1
    parameters, recall = tune(index, exact, 0.95)
    assert set(parameters) == {"nprobe"} and 1 < parameters["nprobe"] < 128
    index.nprobe = parameters["nprobe"] // 2
    assert recall_by_hand(index, queries, vectors) < 0.95 <= recall
    assert tune(index, exact, 1.0)[1] == 1.0


def test_candidates_are_rescored(vectors: np.ndarray, queries: np.ndarray, exact: ExactHits) -> None:
    index = build_index(vectors, "RaBitQ,Refine(SQ8)")
    assert recall_by_hand(index, queries, vectors) < 0.75  # faiss' own k_factor of 1
    parameters, recall = tune(index, exact, 0.95)
    assert parameters["k_factor_rf"] > 1 and recall >= 0.95
    scores, places = index.search(queries, 1)
    # The score is that of the stored 8 bits, not an estimate of the single ones.
    products = (queries * vectors[places[:, 0]]).sum(1)
    assert np.abs(scores[:, 0] - products).max() < 0.01


def test_a_factory_string_that_misses_the_target_is_refused(
    vectors: np.ndarray, exact: ExactHits, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        write_index(tmp_path / "i", vectors, exact, index="IVF16,PQ4x8", target_recall=0.95)
    message = str(caught.value)
    assert "target_recall: IVF16,PQ4x8 reaches a recall@10 of 0." in message
    assert "with nprobe=16, 0.95 was asked for" in message
    assert "index: auto" in message and "Refine(SQ8)" in message


def test_auto_falls_to_a_more_exact_index(
    vectors: np.ndarray, exact: ExactHits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = ((np.inf, ("IVF{lists},PQ{parts}x8np", "SQ8", "Flat")),)
    monkeypatch.setattr("swift_embedding.index._BY_SIZE", rule)
    found = [
        write_index(tmp_path / "i", vectors, exact, index="auto", target_recall=target)
        for target in (0.2, 0.95, 0.999)
    ]
    assert [tuned.factory for tuned in found] == ["IVF128,PQ4x8np", "SQ8", "Flat"]
    assert faiss.read_index(str(tmp_path / "i")).ntotal == len(vectors)


def test_the_rule() -> None:
    def first(documents: int, index: str = "auto", target: float = 0.95) -> str:
        return factories(index, documents=documents, dimension=384, target_recall=target)[0]

    assert [first(n) for n in (1, 19_999, 20_000, 99_999)] == ["Flat", "Flat", "SQ8", "SQ8"]
    assert [first(n) for n in (100_000, 499_999, 500_000)] == ["HNSW32", "HNSW32", "IVF1024,SQ8"]
    assert first(1_000_000) == "IVF2048,SQ8"
    assert first(10_000_000) == "IVF8192,PQ48x8np,Refine(SQ8)"
    assert first(10_000_000, target=1.0) == "Flat"
    assert (first(5, "int8"), first(5, "binary")) == ("SQ8", "RaBitQ,Refine(SQ8)")
    assert first(5, "IVF2,SQ8") == "IVF2,SQ8"


@pytest.mark.parametrize("dimension", [1, 30, 384, 1022])
def test_what_the_rule_names_can_be_made(dimension: int) -> None:
    for documents in (100, 50_000, 200_000, 600_000, 20_000_000):
        for factory in factories("auto", documents=documents, dimension=dimension, target_recall=0.9):
            assert new_index(factory, dimension).d == dimension


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("Flatt", "expected auto, int8, binary or a faiss factory string .* found 'Flatt'"),
        ("IVF16,PQ5x8", "IVF16,PQ5x8"),
        ("IDMap,Flat", "leave IDMap out"),
        ("LSH", "LSH"),
    ],
)
def test_indexes_that_can_not_be_used(factory: str, message: str) -> None:
    with pytest.raises(UserError, match=f"index: {message}" if "expected" in message else message):
        new_index(factory, 32)


def test_too_few_documents_for_a_factory_string(
    vectors: np.ndarray, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(
        UserError, match=r"index: IVF64,Flat can't be built of 30 documents: .*take index: auto"
    ):
        build_index(vectors[:30], "IVF64,Flat")
    build_index(vectors[:300], "IVF64,SQ8")
    build_index(vectors[:300], "IVF4,PQ2x8,Refine(SQ8)")
    assert capfd.readouterr().err == ""  # faiss warns of few training points; the recall is measured


@pytest.fixture
def four_threads() -> Iterator[None]:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(4)
    yield
    faiss.omp_set_num_threads(before)


@pytest.mark.usefixtures("four_threads")
@pytest.mark.parametrize("factory", KINDS)
def test_the_same_vectors_give_the_same_file(factory: str, vectors: np.ndarray) -> None:
    first, second = (faiss.serialize_index(build_index(vectors, factory)) for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_int8_is_that_of_sentence_transformers(vectors: np.ndarray) -> None:
    quantization = pytest.importorskip("sentence_transformers.util.quantization")
    index = build_index(vectors, "SQ8")
    codes = faiss.vector_to_array(index.codes).reshape(vectors.shape).astype(int)
    theirs = quantization.quantize_embeddings(vectors, "int8").astype(int) + 128
    # floor() of a value at a step's edge may go either way.
    assert np.abs(codes - theirs).max() <= 1 and (codes != theirs).mean() < 1e-4


@pytest.mark.usefixtures("four_threads")
def test_threads_are_as_before(vectors: np.ndarray) -> None:
    build_index(vectors[:500], "HNSW8")
    assert faiss.omp_get_max_threads() == 4


def test_a_query_made_of_a_document_does_not_find_itself(vectors: np.ndarray) -> None:
    own = np.array([5, 1000])
    exact = ExactHits.of(vectors[own], own, vectors)
    products = vectors[own].astype(np.float64) @ vectors.T.astype(np.float64)
    products[[0, 1], own] = -9
    assert np.array_equal(exact.places[:, :10], np.argsort(-products, axis=1)[:, :10])

    class FindsOnlyThem:
        def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
            places = np.full((len(queries), k), -1)
            places[:, 0] = own
            return np.zeros((len(queries), k), dtype=np.float32), places

    assert exact.recall(FindsOnlyThem()) == 0.0
    assert exact.recall(build_index(vectors, "Flat")) == 1.0


def test_equal_documents_are_equally_good(queries: np.ndarray, vectors: np.ndarray) -> None:
    doubled = np.concatenate([vectors[:50]] * 4)
    exact = ExactHits.of(queries, np.full(len(queries), -1), doubled)
    backwards = build_index(np.ascontiguousarray(doubled[::-1]), "Flat")

    class Turned:
        def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
            scores, places = backwards.search(queries, k)
            return scores, len(doubled) - 1 - places

    assert exact.recall(Turned()) == 1.0


def test_exact_hits_grow_with_the_corpus(
    vectors: np.ndarray, queries: np.ndarray, exact: ExactHits, tmp_path: Path
) -> None:
    ExactHits.of(queries, exact.own, vectors[:2000]).save(tmp_path / "r.npz")
    grown = ExactHits.load(tmp_path / "r.npz").with_more(vectors[2000:], 2000)
    assert np.array_equal(grown.places, exact.places)
    index = build_index(vectors[:2000], "IVF16,Flat")
    add_vectors(index, vectors[2000:], "IVF16,Flat")
    tune(index, grown, 0.9)
    assert grown.recall(index) == pytest.approx(recall_by_hand(index, queries, vectors), abs=1e-9)


def test_tiny_corpora(vectors: np.ndarray, tmp_path: Path) -> None:
    for count in (1, 2, 12):
        own = np.arange(count)
        exact = ExactHits.of(vectors[:count], own, vectors[:count])
        assert exact.places.shape[1] == count - 1
        tuned = write_index(tmp_path / "i", vectors[:count], exact, index="auto", target_recall=1.0)
        assert (tuned.factory, tuned.recall) == ("Flat", 1.0)


def test_real_queries_where_there_are_enough() -> None:
    documents = [(str(number), f"text {number} " * 40) for number in range(1000)]
    chosen = choose_queries([*(f"query {n}" for n in range(500)), None, " ", "query 3"], documents)
    assert len(chosen.texts) == len(set(chosen.texts)) == 256
    assert chosen.source == "queries" and set(chosen.own) == {-1}
    few = choose_queries([f"query {n}" for n in range(63)], documents)
    assert few.source == "documents" and len(few.texts) == 256
    assert all(documents[place][1].startswith(text) for text, place in zip(few.texts, few.own, strict=True))
    assert max(map(len, few.texts)) <= 100


def test_an_exact_index_that_is_not_exact_is_an_error(
    vectors: np.ndarray, exact: ExactHits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = build_index(vectors[::-1].copy(), "Flat")
    monkeypatch.setattr("swift_embedding.index.faiss.read_index", lambda _: other)
    with pytest.raises(SwiftError, match="it finds other documents than an exact search does"):
        write_index(tmp_path / "i", vectors, exact, index="auto", target_recall=0.95)


@pytest.mark.cuda
def test_the_index_moves_to_the_gpu(vectors: np.ndarray, exact: ExactHits, tmp_path: Path) -> None:
    if not hasattr(faiss, "StandardGpuResources") or not faiss.get_num_gpus():
        pytest.skip("faiss-gpu is not installed, or there is no GPU")
    for factory in ("Flat", "IVF16,SQ8", "HNSW32"):
        tuned = write_index(tmp_path / "i", vectors, exact, index=factory, target_recall=0.9)
        moved = open_index(tmp_path / "i", tuned.parameters, mmap=False, device="cuda")
        assert ("Gpu" in type(moved).__name__) == (factory != "HNSW32")
        assert exact.recall(moved) == pytest.approx(tuned.recall, abs=0.01)
