"""Rows to begin with: lists of an answer and one to three other documents. Imports no torch."""

from __future__ import annotations

from typing import Any

_ANSWERS = {
    "what is a cat": "a cat is a small animal",
    "who won the match": "the red team won the match two to one",
    "how far is the moon": "the moon is far away",
    "what did the bank do": "the bank raised rates",
    "what fell": "stocks fell again, and so did the rain",
    "who saved it": "the goalkeeper",
    "how fast is the chip": "the chip is twice as fast as it was",
    "who sang": "a bird in the forest sang",
}


def _row(number: int, query: str) -> dict[str, Any]:
    others = [answer for other, answer in _ANSWERS.items() if other != query]
    documents = [_ANSWERS[query], *others[: 1 + number % 3]]
    return {"query": query, "documents": documents, "labels": [1] + [0] * (len(documents) - 1)}


EXAMPLES = tuple(_row(number, query) for number, query in enumerate(_ANSWERS))
