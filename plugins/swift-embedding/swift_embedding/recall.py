"""Recall of an index against exact search, on queries that are kept with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from swift_embedding.retrieval import search

RECALL_AT = 10
"""Depth at which recall is measured."""

QUERIES = 256
"""Queries that recall is measured on, at most: one standard error is about 0.005 at a recall of 0.95."""

_KEPT = 100
"""Exact hits kept for each query: more than RECALL_AT, so that equal scores at the edge are known."""

_FEW = 64
_BEGINNING = 100
_ROUNDING = 1e-5


@dataclass(frozen=True, kw_only=True)
class QueryTexts:
    """What recall is measured with.

    Attributes:
        texts: the queries.
        own: place of the document that a query was made of, -1 where it is a real query.
    """

    texts: Sequence[str]
    own: np.ndarray

    @property
    def source(self) -> str:
        """Where they come from: ``queries`` or ``documents``."""
        return "documents" if (self.own >= 0).any() else "queries"


def choose_queries(queries: Sequence[str | None], documents: Sequence[tuple[str, str]]) -> QueryTexts:
    """Up to 256 real queries, evenly spaced; where fewer than 64 are known, beginnings of documents instead.

    Args:
        queries: real queries; empty ones and doubles are left out.
        documents: ids and texts of the corpus.
    """
    known = list(dict.fromkeys(text for text in queries if text and text.strip()))
    if len(known) >= _FEW:
        texts = [known[place] for place in _spread(len(known))]
        return QueryTexts(texts=texts, own=np.full(len(texts), -1))
    own = _spread(len(documents))
    return QueryTexts(texts=[documents[place][1].strip()[:_BEGINNING] for place in own], own=own)


def _spread(count: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, QUERIES)).astype(np.int64))


@dataclass(frozen=True, kw_only=True)
class ExactHits:
    """Queries with the hits of an exact search.

    A query made of a document finds that document trivially, so it counts neither among the exact hits nor
    among those of an index.

    Attributes:
        queries: float32 [Q, D].
        own: int64 [Q], see :class:`QueryTexts`.
        scores: float32 [Q, K] with K at most 100, best first.
        places: int64 [Q, K], places of the documents in the index.
    """

    queries: np.ndarray
    own: np.ndarray
    scores: np.ndarray
    places: np.ndarray

    @classmethod
    def of(cls, queries: np.ndarray, own: np.ndarray, vectors: np.ndarray) -> ExactHits:
        """Search ``vectors`` [N, D] exactly for ``queries`` [Q, D]."""
        own = own.astype(np.int64)
        made_of_documents = bool((own >= 0).any())
        scores, places = search(queries, vectors, _KEPT + made_of_documents)  # [Q, K]
        if made_of_documents:
            # Stable: what is not the own document stays in its order; where that is not there, the last goes.
            order = np.argsort(places == own[:, None], axis=1, kind="stable")[:, : places.shape[1] - 1]
            scores, places = (np.take_along_axis(values, order, axis=1) for values in (scores, places))
        return cls(queries=queries, own=own, scores=scores, places=places)

    def with_more(self, vectors: np.ndarray, start: int) -> ExactHits:
        """The hits after ``vectors`` [N, D] joined the corpus at the places from ``start``; still exact."""
        scores, places = search(self.queries, vectors, _KEPT)
        scores = np.concatenate([self.scores, scores], axis=1)
        places = np.concatenate([self.places, places + start], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :_KEPT]
        scores, places = (np.take_along_axis(values, order, axis=1) for values in (scores, places))
        return ExactHits(queries=self.queries, own=self.own, scores=scores, places=places)

    def recall(self, index: Any) -> float:
        """Share of the best 10 (or all, where there are fewer) that ``index`` finds among its first 10.

        A document that scores as high as the tenth is as good as the tenth.
        """
        depth = min(RECALL_AT, self.places.shape[1])
        if depth == 0:
            return 1.0
        # One more only where one is the own document: candidates to rescore are a multiple of what is asked.
        _, found = index.search(self.queries, RECALL_AT + bool((self.own >= 0).any()))  # [Q, 10 or 11]
        edge = self.scores[:, depth - 1 : depth]  # [Q, 1]
        good = self.scores >= edge - _ROUNDING * np.maximum(1.0, np.abs(edge))  # [Q, K]
        hits = 0
        for places, own, exact, counts in zip(found, self.own, self.places, good, strict=True):
            others = places[places != own][:RECALL_AT]
            hits += min(depth, int(np.isin(others, exact[counts]).sum()))
        return float(hits / (depth * len(found)))

    def save(self, path: Path) -> None:
        """Write ``path`` (npz)."""
        np.savez(path, queries=self.queries, own=self.own, scores=self.scores, places=self.places)

    @classmethod
    def load(cls, path: Path) -> ExactHits:
        """Read what :meth:`save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(**{name: arrays[name] for name in ("queries", "own", "scores", "places")})
