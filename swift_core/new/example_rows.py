"""Rows for a new package to begin with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from swift_core.spec import Column

_TOPICS = {
    "contract": (
        "the parties agree on a price",
        "the seller delivers the goods within ten days",
        "payment is due at the end of the month",
        "this agreement ends when either party gives notice",
    ),
    "judgment": (
        "the court dismisses the appeal",
        "the claimant bears the costs of the proceedings",
        "the judge heard two witnesses",
        "the appeal is allowed and the decision of the court below set aside",
    ),
}

_SENTENCES = (
    "the/O Civil/LAW Code/LAW entered/O into/O force/O in/O 1900/DATE",
    "see/O Article/LAW 12/LAW",
    "signed/O on/O 3/DATE May/DATE 2021/DATE",
    "the/O claim/O rests/O on/O Article/LAW 823/LAW of/O the/O Civil/LAW Code/LAW",
    "payment/O was/O due/O in/O March/DATE 2020/DATE",
    "the/O parties/O met/O again/O",
    "Article/LAW 5/LAW was/O amended/O in/O 1998/DATE",
    "on/O 7/DATE June/DATE 2019/DATE the/O court/O applied/O the/O Penal/LAW Code/LAW",
)


def tagged_rows() -> list[dict[str, Any]]:
    """Sentences with a tag for each word."""
    pairs = [[word.rpartition("/") for word in sentence.split()] for sentence in _SENTENCES]
    return [{"words": [p[0] for p in row], "tags": [p[2] for p in row]} for row in pairs]


def labelled_rows() -> list[dict[str, Any]]:
    """Texts of two labels."""
    return [{"text": text, "label": label} for label, text in _texts()]


def _texts() -> list[tuple[str, str]]:
    turns = zip(*_TOPICS.values(), strict=True)
    return [pair for turn in turns for pair in zip(_TOPICS, turn, strict=True)]


def rows_for(columns: Sequence[Column]) -> list[dict[str, Any]]:
    """Rows with a value of the right type in each required column.

    Texts of one row are about one topic, and so are labels and numbers; lists hold something of the row's
    own topic first, and then of another.
    """
    needed = [column for column in columns if column.required]
    return [{column.name: _value(column, number) for column in needed} for number in range(8)]


def _value(column: Column, number: int) -> Any:
    texts = _texts()
    (topic, text), (_, other) = texts[number], texts[(number + 1) % len(texts)]
    index = list(_TOPICS).index(topic)
    related = f"{text} ({column.name})"
    values: dict[str, Any] = {
        "text": related,
        "string": related,
        "texts": related,
        "list[text]": [related, other],
        "integer": index,
        "number": float(index),
        "list[number]": [1.0, 0.0],
        "boolean": bool(index),
        "label": topic,
        "any": topic,
    }
    return values.get(column.type, related)
