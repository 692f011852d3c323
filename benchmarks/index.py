"""Kinds of FAISS index for a corpus: time to build, size, recall@10 and the time of a single search."""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.machine import begin, demo_model

if TYPE_CHECKING:
    import numpy as np

    from swift_embedding.recall import ExactHits

_ROOT = Path(__file__).parent.parent
_DATA = _ROOT / "plugins/swift-embedding/examples/cmrc2018/train.jsonl"
_PACKAGES = ("swift-embedding", "faiss-cpu", "numpy", "torch")
_NEIGHBOURS = 32
_NOISE = 0.3


@dataclass(frozen=True)
class Figures:
    """What was measured of one index; seconds, bytes, and the search parameters that reach the target."""

    factory: str
    rows: int
    build: float
    size: int
    parameters: dict[str, int]
    recall: float
    search: float


def main(arguments: list[str]) -> int:
    """Build one index after the other and print the table; the exit code is 1 when one misses the target."""
    parsed = _parser().parse_args(arguments)
    begin(_PACKAGES, parsed.threads)
    import faiss
    import numpy as np

    from swift_embedding.recall import ExactHits

    if parsed.threads:
        faiss.omp_set_num_threads(parsed.threads)
    made = _vectors(_real_vectors(parsed), parsed.rows + parsed.queries)
    vectors, queries = made[: parsed.rows], made[parsed.rows :]
    print(f"vectors   {vectors.shape[0]:,} x {vectors.shape[1]}, {len(queries)} queries", flush=True)
    figures = []
    for factory in parsed.index:
        rows = vectors[: parsed.hnsw_rows] if "HNSW" in factory else vectors
        exact = ExactHits.of(queries, np.full(len(queries), -1), rows)
        figures.append(_measure(factory, rows, exact, parsed.target_recall))
        print(_row(figures[-1]), flush=True)
    names = (
        "index",
        "vectors",
        "build, s",
        "MB",
        "bytes a vector",
        "search parameters",
        "recall@10",
        "p50, ms",
    )
    print(f"\n| {' | '.join(names)} |")
    print("| --- | ---: | ---: | ---: | ---: | --- | ---: | ---: |")
    print("\n".join(map(_row, figures)))
    return int(any(found.recall < parsed.target_recall for found in figures))


def _measure(factory: str, vectors: np.ndarray, exact: ExactHits, target_recall: float) -> Figures:
    import faiss

    from swift_embedding.index import build_index, tune

    began = time.perf_counter()
    index = build_index(vectors, factory)
    build = time.perf_counter() - began
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index.faiss"
        faiss.write_index(index, str(path))
        size = path.stat().st_size
    parameters, recall = tune(index, exact, target_recall)
    times = []
    for query in exact.queries[:200]:
        began = time.perf_counter()
        index.search(query[None], 10)
        times.append(time.perf_counter() - began)
    return Figures(factory, len(vectors), build, size, parameters, recall, statistics.median(times))


def _row(found: Figures) -> str:
    parameters = " ".join(f"{name}={value}" for name, value in found.parameters.items())
    cells = (
        found.factory,
        f"{found.rows:,}",
        f"{found.build:.1f}",
        f"{found.size / 1e6:,.0f}",
        f"{found.size / found.rows:,.0f}",
        parameters,
        f"{found.recall:.3f}",
        f"{found.search * 1e3:.2f}",
    )
    return f"| {' | '.join(cells)} |"


def _vectors(real: np.ndarray, count: int) -> np.ndarray:
    """``count`` vectors of length 1 between those of real texts and their neighbours, with noise of 0.3.

    Random vectors have no clusters and would be the worst case for an index that wants them.
    """
    import numpy as np

    from swift_embedding.retrieval import search

    rng = np.random.default_rng(0)
    _, near = search(real, real, _NEIGHBOURS)  # [R, 32]
    made = np.empty((count, real.shape[1]), dtype=np.float32)
    for start in range(0, count, 65_536):
        size = min(65_536, count - start)
        first = rng.integers(0, len(real), size)
        second = near[first, rng.integers(0, near.shape[1], size)]
        weight = rng.random((size, 1), dtype=np.float32)
        noise = rng.standard_normal((size, real.shape[1]), dtype=np.float32)
        part = real[first] * weight + real[second] * (1 - weight)
        part += noise * (_NOISE / real.shape[1] ** 0.5)
        made[start : start + size] = part / np.linalg.norm(part, axis=1, keepdims=True)
    return made


def _real_vectors(parsed: argparse.Namespace) -> np.ndarray:
    from swift_embedding.st_folder import load_encoder

    rows = [json.loads(line) for path in parsed.data for line in path.read_text("utf-8").splitlines()]
    texts = list(dict.fromkeys(row.get("text") or row.get("positive") or row["query"] for row in rows))
    step = max(len(texts) // parsed.texts, 1)
    return load_encoder(parsed.model or demo_model()).encode_documents(texts[::step][: parsed.texts])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks index", description=__doc__)
    add = parser.add_argument
    kinds = ["Flat", "SQ8", "IVF2048,SQ8", "IVF2048,PQ48x8np,Refine(SQ8)", "RaBitQ,Refine(SQ8)", "HNSW32"]
    add("--model", type=Path, help="folder of an encoder (default: MiniLM of the demo)")
    add("--data", type=Path, nargs="+", default=[_DATA], help="jsonl with text, positive or query")
    add("--texts", type=int, default=1000, help="real texts that the vectors lie around (default: 1000)")
    add("--rows", type=int, default=1_000_000, help="vectors (default: 1,000,000)")
    add("--hnsw-rows", type=int, default=100_000, help="vectors of a graph, which is built slowly")
    add("--queries", type=int, default=256, help="queries (default: 256)")
    add("--index", nargs="+", default=kinds, help="factory strings")
    add("--target-recall", type=float, default=0.95, help="recall@10 to reach (default: 0.95)")
    add("--threads", type=int, default=2, help="of torch and faiss (default: 2)")
    return parser
