"""Exact search among many vectors: memory, time and results of ``search`` beside FAISS's flat index."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from benchmarks.machine import machine_lines

if TYPE_CHECKING:
    import numpy as np

Found: TypeAlias = "tuple[np.ndarray, np.ndarray]"
Search: TypeAlias = "Callable[[np.ndarray, int], Found]"

_PACKAGES = ("swift-embedding", "torch", "faiss-cpu", "numpy")
_GIB = 2**30
_PIECE = 50_000


@dataclass(frozen=True)
class Sizes:
    """N documents and Q queries of D dimensions, K to find; ``singles`` queries are searched one by one."""

    documents: int
    dimension: int
    queries: int
    k: int
    singles: int
    threads: int | None


@dataclass(frozen=True)
class Figures:
    """What one side gave: peak memory of its process, vectors included; seconds of CPU and wall."""

    name: str
    peak_bytes: int
    batch: tuple[float, float]
    single: tuple[float, float]
    scores: np.ndarray
    indices: np.ndarray


def main(arguments: list[str]) -> int:
    """Search with each side in a process of its own; the exit code is 1 when memory or results are off."""
    parsed = _parser().parse_args(arguments)
    sizes = Sizes(
        parsed.documents, parsed.dimension, parsed.queries, parsed.k, parsed.singles, parsed.threads
    )
    # Read by the sides when they load OpenMP: threads that wait spinning would be counted as work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    print("\n".join(machine_lines(_PACKAGES)))
    vectors = 4 * sizes.documents * sizes.dimension / _GIB
    print(
        f"corpus    {sizes.documents:,} x {sizes.dimension} float32 = {vectors:.2f} GiB; k = {sizes.k}\n",
        flush=True,
    )
    context = multiprocessing.get_context("spawn")
    found = []
    for side in _SIDES:
        # A process of its own, so that the peak is this side's; nothing heavy is loaded in this one.
        with context.Pool(1) as pool:
            found.append(pool.apply(_measured, (side, sizes)))
    print("\n".join(_table(found, sizes)))
    mine, peer = found
    share = (mine.indices == peer.indices).mean()
    difference = abs(mine.scores - peer.scores).max()
    print(
        f"\nThe same document in the same place: {share:.4%}; largest difference of a score: {difference:.1e}"
    )
    return int(difference > 1e-5 or mine.peak_bytes > parsed.limit_gib * _GIB)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks search", description=__doc__)
    add = parser.add_argument
    add("--documents", type=int, default=1_000_000, help="vectors of the corpus (default: 1,000,000)")
    add("--dimension", type=int, default=384, help="of the vectors (default: 384)")
    add("--queries", type=int, default=1_000, help="searched together (default: 1,000)")
    add("--k", type=int, default=100, help="documents to find for each query (default: 100)")
    add("--singles", type=int, default=30, help="queries searched one at a time (default: 30)")
    add("--limit-gib", type=float, default=3.0, help="memory that must be enough (default: 3)")
    add("--threads", type=int, help="threads of each side (default: their own)")
    return parser


def _measured(side: str, sizes: Sizes) -> Figures:
    import numpy as np

    search = _SIDES[side](sizes)
    queries = np.concatenate(list(_unit_vectors(sizes.queries, sizes.dimension, seed=1)))
    batch, (scores, indices) = _timed(lambda: search(queries, sizes.k))
    spans = [
        _timed(partial(search, queries[n % len(queries)][None], sizes.k))[0] for n in range(sizes.singles)
    ]
    cpu, wall = (statistics.median(seconds) for seconds in zip(*spans, strict=True))
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Figures(side, peak, batch, (cpu, wall), scores, indices)


def _timed(search: Callable[[], Found]) -> tuple[tuple[float, float], Found]:
    """Seconds of the processor (all threads together) and of the clock on the wall, and what was found."""
    began = time.process_time(), time.perf_counter()
    found = search()
    return (time.process_time() - began[0], time.perf_counter() - began[1]), found


def _unit_vectors(count: int, dimension: int, seed: int) -> Iterator[np.ndarray]:
    """Random vectors of length 1, in pieces."""
    import numpy as np

    generator = np.random.default_rng(seed)
    for start in range(0, count, _PIECE):
        piece = generator.standard_normal((min(_PIECE, count - start), dimension), dtype=np.float32)
        yield piece / np.linalg.norm(piece, axis=1, keepdims=True)


def _swift(sizes: Sizes) -> Search:
    import numpy as np
    import torch

    from swift_embedding.retrieval import search

    if sizes.threads:
        torch.set_num_threads(sizes.threads)
    documents = np.empty((sizes.documents, sizes.dimension), dtype=np.float32)
    for n, piece in enumerate(_unit_vectors(*documents.shape, seed=0)):
        documents[n * _PIECE : n * _PIECE + len(piece)] = piece
    return lambda queries, k: search(queries, documents, k)


def _faiss(sizes: Sizes) -> Search:
    import faiss

    if sizes.threads:
        faiss.omp_set_num_threads(sizes.threads)
    index: Any = faiss.IndexFlatIP(sizes.dimension)
    for piece in _unit_vectors(sizes.documents, sizes.dimension, seed=0):
        index.add(piece)
    return lambda queries, k: index.search(queries, k)


_SIDES: dict[str, Callable[[Sizes], Search]] = {
    "swift": _swift,
    "faiss IndexFlatIP": _faiss,
}


def _table(found: list[Figures], sizes: Sizes) -> list[str]:
    lines = [
        f"| | peak memory, GiB | {sizes.queries:,} queries: CPU-seconds | seconds "
        "| one query, p50: CPU ms | ms |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for side in found:
        seconds = (f"{value:.1f}" for value in side.batch)
        milliseconds = (f"{1000 * value:.0f}" for value in side.single)
        cells = (side.name, f"{side.peak_bytes / _GIB:.2f}", *seconds, *milliseconds)
        lines.append(f"| {' | '.join(cells)} |")
    return lines
