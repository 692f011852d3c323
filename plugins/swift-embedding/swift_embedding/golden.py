"""Golden queries: a bundle knows some of its answers, and is asked again when it is loaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import torch

from swift_core.errors import UserError

if TYPE_CHECKING:
    from swift_embedding.bundle import Hit

GOLDEN = "golden.json"
GOLDEN_QUERIES = 16

_TOLERANCE = {torch.float32: 1e-3, torch.float16: 5e-3, torch.bfloat16: 5e-2}
"""How far a score may lie from the golden one: other machines add up in another order."""

_SHARE = 0.95
"""Share of the golden hits that must be found; an approximate index may visit other lists after rounding."""


class GoldenHit(TypedDict):
    """Id and score of a document that was found."""

    id: str
    score: float


class GoldenQuery(TypedDict):
    """A text and what it finds, best first."""

    query: str
    hits: list[GoldenHit]


def write_golden(folder: Path, texts: Sequence[str], found: Sequence[Sequence[Hit]]) -> None:
    """Write ``golden.json``: ``texts`` and what was ``found`` for each."""
    rows: list[GoldenQuery] = [
        {"query": text, "hits": [{"id": hit.id, "score": hit.score} for hit in hits]}
        for text, hits in zip(texts, found, strict=True)
    ]
    (folder / GOLDEN).write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_golden(folder: Path) -> list[GoldenQuery]:
    """Read what :func:`write_golden` wrote.

    Raises:
        UserError: the file holds something else.
    """
    path = folder / GOLDEN
    try:
        rows: Any = json.loads(path.read_text(encoding="utf-8"))
        return [
            {
                "query": str(row["query"]),
                "hits": [{"id": hit["id"], "score": float(hit["score"])} for hit in row["hits"]],
            }
            for row in rows
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: expected golden queries and their hits; copy the bundle again") from error


def check_golden(
    folder: Path, golden: Sequence[GoldenQuery], found: Sequence[Sequence[Hit]], dtype: torch.dtype
) -> None:
    """Compare what is ``found`` now with the golden hits.

    A golden hit is found again when its id is there with a score within the tolerance (float32: 1e-3,
    float16: 5e-3, bfloat16: 5e-2, times the best score where that is above 1), or when others that score as
    high took its place. At least 95 % of the golden hits must be.

    Raises:
        UserError: fewer are.
    """
    total = missed = 0
    example = ""
    for query, hits in zip(golden, found, strict=True):
        largest = max((abs(hit["score"]) for hit in query["hits"]), default=0.0)
        lost = _lost(query["hits"], hits, _TOLERANCE.get(dtype, 1e-3) * max(1.0, largest))
        total += len(query["hits"])
        missed += len(lost)
        if lost and not example:
            now = next((f"{hit.score:.4f}" for hit in hits if hit.id == lost[0]["id"]), "not found")
            name, score = lost[0]["id"], lost[0]["score"]
            example = f"{query['query'][:80]!r} should find {name!r} with {score:.4f}, now {now}"
    if missed > (1 - _SHARE) * total:
        raise UserError(
            f"{folder}: {missed} of {total} golden hits are not found again ({example}); model, index or "
            "libraries differ from those of the export: export again, or load with check=False"
        )


def _lost(golden: Sequence[GoldenHit], hits: Sequence[Hit], tolerance: float) -> list[GoldenHit]:
    scores = {hit.id: hit.score for hit in hits}
    # Where as many were found, one that is missing was pushed out by the last of them or by a better one.
    last = hits[-1].score if len(hits) >= len(golden) and hits else float("-inf")
    edge = golden[-1]["score"] if golden else 0.0
    lost = []
    for hit in golden:
        if hit["id"] in scores:
            same = abs(scores[hit["id"]] - hit["score"]) <= tolerance
        else:
            same = abs(hit["score"] - edge) <= 2 * tolerance and abs(last - edge) <= tolerance
        if not same:
            lost.append(hit)
    return lost
