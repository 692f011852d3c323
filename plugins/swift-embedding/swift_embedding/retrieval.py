"""Retrieval as an evaluation: problems made of training rows, and exact search."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from swift_core.data.beir import Qrels, Retrieval
from swift_core.errors import UserError
from swift_embedding.metrics import retrieval_metrics

if TYPE_CHECKING:
    from swift_embedding.encoding import Encoder

_QUERIES_AT_ONCE = 1024


def retrieval_from_rows(rows: Iterable[Mapping[str, Any]]) -> Retrieval:
    """Make a retrieval problem of training rows (``query``, ``positive``, perhaps ``negatives``).

    The corpus is every different positive and negative; relevant to a query are the positives of all rows
    with that query.

    Raises:
        UserError: there are no rows.
    """
    queries: dict[str, str] = {}
    corpus: dict[str, str] = {}
    qrels: Qrels = {}
    for row in rows:
        query = queries.setdefault(row["query"], f"q{len(queries)}")
        for text in (*row["positive"], *(row.get("negatives") or ())):
            corpus.setdefault(text, f"d{len(corpus)}")
        qrels.setdefault(query, {}).update(dict.fromkeys((corpus[text] for text in row["positive"]), 1))
    if not qrels:
        raise UserError("eval_dataset: expected rows with a query and a positive, found no rows")
    return Retrieval(
        corpus={name: text for text, name in corpus.items()},
        queries={name: text for text, name in queries.items()},
        qrels=qrels,
    )


def evaluate_retrieval(
    retrieval: Retrieval, encoder: Encoder, k_values: Collection[int], *, progress: bool = False
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Search the whole corpus for every query.

    Returns:
        Averages and one row a query, see :func:`swift_embedding.metrics.retrieval_metrics`.
    """
    document_ids = list(retrieval.corpus)
    query_vectors = encoder.encode_queries(list(retrieval.queries.values()), progress)  # [Q, D]
    # Vectors of documents are searched as they come and not kept: a corpus may be larger than the memory.
    chunks = encoder.document_chunks(list(retrieval.corpus.values()), progress)
    scores, indices = search(query_vectors, chunks, max(k_values))  # [Q, K]
    run = {
        query: dict(zip((document_ids[n] for n in found), values.tolist(), strict=True))
        for query, found, values in zip(retrieval.queries, indices, scores, strict=True)
    }
    return retrieval_metrics(retrieval.qrels, run, k_values)


def search(
    query_vectors: np.ndarray,
    document_vectors: np.ndarray | Iterable[np.ndarray],
    k: int,
    chunk: int = 16_384,
) -> tuple[np.ndarray, np.ndarray]:
    """Find the documents with the largest inner products, exactly.

    Beside the vectors, which are not copied, memory is needed for the scores of 1,024 queries and one chunk
    (64 MiB) and for what is found.

    Args:
        query_vectors: [Q, D].
        document_vectors: [N, D]; also a read-only ``numpy.memmap``, or an iterator of pieces [n, D] in
            their order. Other types than float32 are converted chunk by chunk.
        k: how many to find for each query.
        chunk: documents compared at the same time; bounds the memory, not the result.

    Returns:
        Scores (float32) and indices (int64), both [Q, K] with K = min(k, N), best first.
    """
    queries = torch.split(_as_tensor(query_vectors), _QUERIES_AT_ONCE)
    found = [_nothing_found(len(part)) for part in queries]
    start = 0
    for documents in _chunks(document_vectors, chunk):
        found = [
            _merged(*best, part @ documents.T, start, k) for part, best in zip(queries, found, strict=True)
        ]
        start += len(documents)
    return torch.cat([scores for scores, _ in found]).numpy(), torch.cat([at for _, at in found]).numpy()


def _merged(
    best: torch.Tensor, place: torch.Tensor, scores: torch.Tensor, start: int, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The best of what was found before ([Q, K], K up to k) and of the next ``scores`` [Q, C]."""
    scores, columns = scores.topk(min(k, scores.shape[1]), dim=1)  # [Q, k]
    best, order = torch.cat([best, scores], dim=1).topk(min(k, best.shape[1] + scores.shape[1]), dim=1)
    return best, torch.cat([place, columns + start], dim=1).gather(1, order)


def _nothing_found(queries: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty(queries, 0), torch.empty(queries, 0, dtype=torch.int64)


def _chunks(vectors: np.ndarray | Iterable[np.ndarray], chunk: int) -> Iterator[torch.Tensor]:
    for piece in [vectors] if isinstance(vectors, np.ndarray) else vectors:
        for start in range(0, len(piece), chunk):
            yield _as_tensor(piece[start : start + chunk])


def _as_tensor(vectors: np.ndarray) -> torch.Tensor:
    # torch knows no tensors that may only be read, and warns of memory that is.
    usable = vectors.dtype == np.float32 and vectors.flags.writeable
    return torch.from_numpy(vectors if usable else vectors.astype(np.float32))
