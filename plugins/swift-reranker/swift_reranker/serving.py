"""``/v1/rerank``, as Jina, Cohere and vLLM have it, and vLLM's ``/v1/score``: from request to response.

Pairs go the way that they went in training: template, tokenizer, model without padding. Documents that are
too long are cut, without being asked to, and the response says which; queries never are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Protocol

import numpy as np
import torch
from annotated_types import Ge

from swift_core.errors import SwiftError
from swift_core.serving import Check, RequestError, ServedRequest, parse_request, shown, text_fault
from swift_reranker.reranker import Scored, load_reranker

# Shape legend: K pairs.

_TEXT = "a text, or an object with a text"
_TEXTS = "a list of texts, or of objects with a text"
_ONE_OR_MORE = "a text or a list of texts"
_SIDES = (("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2"))
"""What vLLM's versions call the two sides of ``/v1/score``."""


class Scorer(Protocol):
    """What requests are answered with: see :class:`swift_reranker.reranker.Reranker`."""

    @property
    def max_length(self) -> int:
        """Longest pair in tokens."""
        ...

    def score(self, query: str, documents: Sequence[str], *, max_length: int | None = None) -> Scored:
        """How well each document answers the query; ValueError where the query leaves no room for one."""
        ...


class _RerankRequest(ServedRequest):
    top_n: Annotated[int, Ge(0)] | None = None
    return_documents: bool | None = None


def load(folder: str | Path, device: torch.device | str = "cpu") -> Scorer:
    """What requests are answered with, see :func:`swift_reranker.reranker.load_reranker`."""
    return load_reranker(Path(folder), device=device)


def rerank(
    request: Mapping[str, Any], loaded: Scorer, *, model: str, request_id: str, created: int
) -> dict[str, Any]:
    """Answer a request to ``/v1/rerank``: documents in the order of how well they answer a query.

    Fields of the request: ``query``, ``documents`` (texts, or objects with a ``text``, mixed as they come)
    and, each of them optional, ``top_n`` (return so many; 0 or left out: all), ``return_documents`` (default
    false), ``model``, ``user`` (not used) and ``truncate_prompt_tokens`` (longest pair in tokens; -1 or left
    out: what the model takes).

    Args:
        request: the body, as a JSON parser gives it.
        loaded: the model that is served.
        model: the name that it is served under.
        request_id: ``id`` of the response.
        created: not used, these responses have no date.

    Returns:
        The body of the response: ``results``, best first by their raw scores and equal ones in the order of
        the request, each with its place there (``index``), its ``relevance_score`` from 0 to 1 and whether
        the document was ``truncated``; ``usage`` counts the tokens of all pairs.

    Raises:
        RequestError: another model is asked for (404); the query leaves no room for a document (413); a
            field is wrong (422: all faults, each with its place).
        SwiftError: the model's scores are not finite.
    """
    asked = parse_request(
        request,
        _RerankRequest,
        model=model,
        checks={
            "query": Check(_TEXT, lambda value: _text_faults("query", value, _TEXT)),
            "documents": Check(_TEXTS, lambda value: _list_faults("documents", value, _TEXTS)),
        },
        limit_faults=lambda asked: _limit_faults(asked, loaded),
    )
    documents = [_text(item) for item in request["documents"]]
    found = _scored(_text(request["query"]), documents, "query", asked, loaded)
    order = sorted(range(len(documents)), key=lambda n: (-found.raw[n], n))[: asked.top_n or None]
    return {
        "id": request_id,
        "model": model,
        "usage": _usage(found.tokens),
        "results": [
            {
                "index": n,
                **({"document": {"text": documents[n]}} if asked.return_documents else {}),
                "relevance_score": float(found.scores[n]),
                "truncated": found.cut[n],
            }
            for n in order
        ],
    }


def score(
    request: Mapping[str, Any], loaded: Scorer, *, model: str, request_id: str, created: int
) -> dict[str, Any]:
    """Answer a request to ``/v1/score``: one text against each of several, or pairs.

    Fields of the request: ``text_1`` and ``text_2`` (a text or a list of them each; one ``text_1`` goes with
    every ``text_2``, several with as many), or the same under the names ``queries`` and ``documents``,
    ``queries`` and ``items``, ``data_1`` and ``data_2``; ``model``, ``user`` and ``truncate_prompt_tokens``
    as in :func:`rerank`, which also tells the arguments and errors.

    Returns:
        The body of the response: ``data`` in the order of the pairs, with a ``score`` from 0 to 1.
    """
    names = _names(request)
    asked = parse_request(
        request,
        ServedRequest,
        model=model,
        checks={
            name: Check(_ONE_OR_MORE, lambda value, name=name: _side_faults(name, value))  # type: ignore[misc]
            for name in names
        },
        limit_faults=lambda asked: [*_limit_faults(asked, loaded), *_count_faults(request, names)],
    )
    found = _scored_pairs(request, names, asked, loaded)
    return {
        "id": request_id,
        "object": "list",
        "created": created,
        "model": model,
        "data": [
            {"index": n, "object": "score", "score": float(value), "truncated": cut}
            for n, (value, cut) in enumerate(zip(found.scores, found.cut, strict=True))
        ],
        "usage": _usage(found.tokens),
    }


def _scored(query: str, documents: Sequence[str], place: str, asked: ServedRequest, loaded: Scorer) -> Scored:
    limit = asked.truncate_prompt_tokens
    limit = loaded.max_length if limit in (None, -1) else limit
    try:
        found = loaded.score(query, documents, max_length=limit)
    except ValueError as error:
        raise RequestError(
            f"{place}: expected one that leaves room for a document in {limit} tokens, found {shown(query)}; "
            "shorten it",
            status=413,
        ) from error
    if not np.isfinite(found.scores).all():
        raise SwiftError("the model gives scores that are not finite (NaN or infinite); serve another one")
    return found


def _scored_pairs(
    request: Mapping[str, Any], names: tuple[str, str], asked: ServedRequest, loaded: Scorer
) -> Scored:
    """Scores of all pairs in their order; those of one query go through the model together."""
    first, second = (_as_list(request[name]) for name in names)
    queries = first * len(second) if len(first) == 1 else first
    places: dict[str, list[int]] = {}
    for n, query in enumerate(queries):
        places.setdefault(_text(query), []).append(n)
    (scores, raw), tokens, cut = np.zeros((2, len(queries))), [0] * len(queries), [False] * len(queries)
    for query, rows in places.items():
        place = f"{names[0]}[{rows[0]}]" if len(first) > 1 else names[0]
        found = _scored(query, [_text(second[n]) for n in rows], place, asked, loaded)
        scores[rows], raw[rows] = found.scores, found.raw  # [K]
        for n, count, shortened in zip(rows, found.tokens, found.cut, strict=True):
            tokens[n], cut[n] = count, shortened
    return Scored(scores, tokens, cut, raw)


def _names(request: Any) -> tuple[str, str]:
    """The names of both sides that the client uses; the first ones where it uses none."""
    given = request if isinstance(request, Mapping) else {}
    return max(_SIDES, key=lambda names: sum(name in given for name in names))  # the first of equals


def _side_faults(name: str, value: Any) -> list[str]:
    if isinstance(value, list):
        return _list_faults(name, value, _ONE_OR_MORE)
    return _text_faults(name, value, _ONE_OR_MORE)


def _list_faults(name: str, value: Any, expected: str) -> list[str]:
    if not isinstance(value, list) or not value:
        return [f"{name}: expected {expected}, found {shown(value)}"]
    return [fault for n, item in enumerate(value) for fault in _text_faults(f"{name}[{n}]", item, _TEXT)]


def _text_faults(place: str, value: Any, expected: str) -> list[str]:
    inner = value.get("text") if isinstance(value, Mapping) else value
    if not isinstance(inner, str):
        return [f"{place}: expected {expected}, found {shown(value)}"]
    fault = text_fault(place, inner)
    return [] if fault is None else [fault]


def _limit_faults(asked: ServedRequest, loaded: Scorer) -> list[str]:
    limit = asked.truncate_prompt_tokens
    if limit is None or limit == -1 or 0 < limit <= loaded.max_length:
        return []
    return [f"truncate_prompt_tokens: expected -1, or 1 to {loaded.max_length} tokens, found {limit}"]


def _count_faults(request: Mapping[str, Any], names: tuple[str, str]) -> list[str]:
    first, second = (len(_as_list(request.get(name))) for name in names)
    if first in (0, 1, second) or second == 0:
        return []
    return [
        f"{names[1]}: expected {first} texts, as many as {names[0]} has (or one {names[0]}), found {second}"
    ]


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _text(item: Any) -> str:
    return item if isinstance(item, str) else str(item["text"])


def _usage(tokens: Sequence[int]) -> dict[str, int]:
    return {"prompt_tokens": sum(tokens), "total_tokens": sum(tokens)}
