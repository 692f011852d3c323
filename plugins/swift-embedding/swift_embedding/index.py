"""The FAISS index of a bundle: chosen by size, trained, and searched as deep as a recall target asks for.

All indexes compare by inner product. What can be chosen, and what it costs for one vector of D dimensions:

========================  =============  ==================================================================
factory string            bytes          search
========================  =============  ==================================================================
Flat                      4 D            exact
SQ8                       D              all vectors, each number in 8 bits (``int8``)
HNSW32                    4 D + 256      a graph (Malkov & Yashunin 2016); ``efSearch`` is raised
IVFn,SQ8 / IVFn,Flat      D / 4 D        the ``nprobe`` nearest of n clusters; ``nprobe`` is raised
IVFn,PQm,Refine(SQ8)      D / 8 + D      clusters of product codes (Jegou et al. 2011), ``k_factor`` times as
                                         many candidates as are asked for scored again with 8 bits
RaBitQ,Refine(SQ8)        D / 8 + D      all vectors, each number in 1 bit (Gao & Long 2024, ``binary``),
                                         candidates scored again with 8 bits
========================  =============  ==================================================================
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from swift_core.errors import SwiftError, UserError
from swift_embedding.recall import RECALL_AT, ExactHits

_NAMED = {"int8": "SQ8", "binary": "RaBitQ,Refine(SQ8)"}

_BY_SIZE: tuple[tuple[float, tuple[str, ...]], ...] = (
    (20_000, ("Flat",)),
    (100_000, ("SQ8", "Flat")),
    (500_000, ("HNSW32", "Flat")),
    (10_000_000, ("IVF{lists},SQ8", "IVF{lists},Flat")),
    (math.inf, ("IVF{lists},PQ{parts}x8np,Refine(SQ8)", "IVF{lists},SQ8", "IVF{lists},Flat")),
)
"""Fewer documents than so many take the first of these that reaches the target; the last of a row can."""

_SEARCH_PARAMETERS = {"nprobe": (1, 1 << 20), "efSearch": (16, 2048), "k_factor_rf": (1, 128)}
"""First and largest value of what faiss calls so; nprobe ends at the number of clusters."""

_SEED = 0
_TRAINED_ON = 65_536
_TRAINED_ON_PER_LIST = 50
_AT_ONCE = 65_536


@dataclass(frozen=True, kw_only=True)
class TunedIndex:
    """An index that was written and read again.

    Attributes:
        index: the FAISS index with ``parameters`` set.
        factory: its factory string.
        parameters: search parameters by faiss' names.
        recall: recall@10 that was measured with them.
    """

    index: Any
    factory: str
    parameters: dict[str, int]
    recall: float


def new_index(factory: str, dimension: int) -> Any:
    """Make an empty index of a factory string.

    Raises:
        UserError: faiss knows no such index, it does not score by inner product, or it wants ids of its own.
    """
    try:
        index = faiss.index_factory(dimension, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise UserError(
            f"index: expected auto, int8, binary or a faiss factory string such as IVF256,SQ8, found "
            f"{factory!r}, which faiss can't make for vectors of {dimension}: {_reason(error)}"
        ) from error
    if index.metric_type != faiss.METRIC_INNER_PRODUCT or factory.startswith("IDMap"):
        raise UserError(
            f"index: expected an index that scores by inner product and numbers documents by their place, "
            f"found {factory!r}; leave IDMap out, or take another index"
        )
    _prepare_training(index)
    return index


def check_index(index: str, documents: int, dimension: int, target_recall: float) -> None:
    """Find out whether faiss can make what ``index`` names, before anything is encoded for it.

    Raises:
        UserError: it can't, see :func:`new_index`.
    """
    for factory in factories(index, documents=documents, dimension=dimension, target_recall=target_recall):
        new_index(factory, dimension)


def factories(index: str, *, documents: int, dimension: int, target_recall: float) -> tuple[str, ...]:
    """What to try in turn, the most exact last.

    Args:
        index: ``auto``, ``int8``, ``binary`` or a factory string.
        documents: size of the corpus.
        dimension: of its vectors.
        target_recall: recall@10 that is asked for; only an exact index promises 1.
    """
    if index != "auto":
        return (_NAMED.get(index, index),)
    if target_recall >= 1:
        return ("Flat",)
    names = next(names for limit, names in _BY_SIZE if documents < limit)
    # Codebooks of 8 dimensions: with fewer training them takes ten times as long, with more they are coarse.
    parts = next(m for m in range(max(dimension // 8, 1), 0, -1) if dimension % m == 0)
    lists = 2 ** round(math.log2(2 * math.sqrt(documents)))
    return tuple(name.format(lists=lists, parts=parts) for name in names)


def write_index(
    path: Path, vectors: np.ndarray, exact: ExactHits, *, index: str, target_recall: float
) -> TunedIndex:
    """Build the index that reaches the target, and write it to ``path``.

    Recall is measured on what was read back from the file.

    Args:
        path: where to.
        vectors: float32 [N, D]; may be a memory map.
        exact: queries and what an exact search of ``vectors`` finds for them.
        index: see :func:`factories`.
        target_recall: recall@10 to reach.

    Raises:
        UserError: a factory string can't be used, or misses the target with every setting.
        SwiftError: so does an exact index, which means that it was written wrong.
    """
    documents, dimension = vectors.shape
    for factory in factories(index, documents=documents, dimension=dimension, target_recall=target_recall):
        faiss.write_index(build_index(vectors, factory), str(path))
        loaded = faiss.read_index(str(path))
        parameters, recall = tune(loaded, exact, target_recall)
        if recall >= target_recall:
            return TunedIndex(index=loaded, factory=factory, parameters=parameters, recall=recall)
    if factory == "Flat":
        raise SwiftError(f"{path}: it finds other documents than an exact search does; it must not be used")
    raise UserError(missed_target(factory, parameters, recall, target_recall))


def build_index(vectors: np.ndarray, factory: str) -> Any:
    """Train an index on a part of ``vectors`` [N, D] and add all; the same vectors give the same index.

    Raises:
        UserError: ``factory`` can't be used, or not for so few vectors.
    """
    index = new_index(factory, vectors.shape[1])
    try:
        with _threads(factory):
            if not index.is_trained:
                index.train(_training_vectors(vectors, index))
            add_vectors(index, vectors, factory)
    except RuntimeError as error:
        raise UserError(
            f"index: {factory} can't be built of {len(vectors):,} documents: {_reason(error)}; take index: "
            "auto, or fewer clusters"
        ) from error
    return index


def add_vectors(index: Any, vectors: np.ndarray, factory: str) -> None:
    """Add ``vectors`` [N, D] to an ``index`` that was made of ``factory``."""
    with _threads(factory):
        for start in range(0, len(vectors), _AT_ONCE):
            index.add(np.ascontiguousarray(vectors[start : start + _AT_ONCE]))


def tune(index: Any, exact: ExactHits, target_recall: float) -> tuple[dict[str, int], float]:
    """Double the search parameters of ``index`` until the target is reached; they stay set.

    faiss starts with nprobe 1 and k_factor 1, which find about half.

    Returns:
        The parameters (the highest ones where even they miss the target) and the recall@10 with them.
    """
    limits = {name: limit for name, limit in _SEARCH_PARAMETERS.items() if _accepts(index, name)}
    clusters = faiss.try_extract_index_ivf(index)
    if clusters is not None and "nprobe" in limits:
        limits["nprobe"] = (1, clusters.nlist)
    step = 0
    while True:
        parameters = {name: min(first << step, most) for name, (first, most) in limits.items()}
        set_parameters(index, parameters)
        recall = exact.recall(index)
        if recall >= target_recall or all(parameters[name] == most for name, (_, most) in limits.items()):
            return parameters, recall
        step += 1


def set_parameters(index: Any, parameters: Mapping[str, int]) -> None:
    """Set search parameters by faiss' names."""
    for name, value in parameters.items():
        faiss.ParameterSpace().set_index_parameter(index, name, value)


def missed_target(factory: str, parameters: Mapping[str, int], recall: float, target_recall: float) -> str:
    """What to tell when the highest setting is not enough."""
    setting = " ".join(f"{name}={value}" for name, value in parameters.items())
    reached = f"{factory} reaches a recall@{RECALL_AT} of {recall:.3f}{setting and f' with {setting}'}"
    return (
        f"target_recall: {reached}, {target_recall:g} was asked for; take a more exact index (index: auto "
        "finds one; ',Refine(SQ8)' or ',Refine(Flat)' behind the string scores candidates again), or lower "
        "target_recall"
    )


def open_index(path: Path, parameters: Mapping[str, int], *, mmap: bool, device: str) -> Any:
    """Read an index.

    Args:
        path: the file.
        parameters: search parameters to set.
        mmap: map the vectors into memory; the graph of HNSW is read all the same.
        device: ``cpu``, or ``cuda`` to move the index to the first GPU where faiss can; else it stays.
    """
    index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC if mmap else 0)
    set_parameters(index, parameters)
    if device.startswith("cuda") and hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus():
        # A kind without a GPU form, such as HNSW, is searched by the CPU.
        with contextlib.suppress(RuntimeError):
            return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
    return index


def _accepts(index: Any, name: str) -> bool:
    try:
        set_parameters(index, {name: _SEARCH_PARAMETERS[name][0]})
    except RuntimeError:
        return False
    return True


def _training_vectors(vectors: np.ndarray, index: Any) -> np.ndarray:
    clusters = faiss.try_extract_index_ivf(index)
    wanted = max(_TRAINED_ON, _TRAINED_ON_PER_LIST * (clusters.nlist if clusters is not None else 0))
    if len(vectors) <= wanted:
        return np.ascontiguousarray(vectors)
    chosen = np.random.default_rng(_SEED).choice(len(vectors), wanted, replace=False)
    return np.asarray(vectors[np.sort(chosen)])


def _prepare_training(index: Any) -> None:
    clusters = faiss.try_extract_index_ivf(index)
    parts = [faiss.downcast_index(index), *([] if clusters is None else [faiss.downcast_index(clusters)])]
    for part in parts:
        for trained in (part, getattr(part, "pq", None)):
            # Too few training points print warnings; the measured recall says what they did.
            if trained is not None and hasattr(trained, "cp"):
                trained.cp.min_points_per_centroid = 1
        if hasattr(part, "do_polysemous_training"):
            # Orders the codes for a filter that nothing here uses; it takes fifty times as long as the rest.
            part.do_polysemous_training = False


@contextlib.contextmanager
def _threads(factory: str) -> Iterator[None]:
    """One thread where a graph is built: with more, the links depend on who comes first."""
    before = faiss.omp_get_max_threads()
    if "HNSW" in factory or "NSG" in factory:
        faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _reason(error: RuntimeError) -> str:
    """What faiss says, without its file and line."""
    return str(error).rsplit(": ", 1)[-1].strip()
