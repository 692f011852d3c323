"""The forms of data that this task reads, and how rows that people already have become the task's own.

Imports no torch: the spec of the task is made of these.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any

from swift_core.spec import Column, Layout

_TEXT = Column(name="text", type="text", meaning="What is classified.")
_PAIR = Column(
    name="text_pair", type="text", meaning="A second text, judged together with the first.", required=False
)
_LABEL = Column(
    name="label", type="any", meaning="A name or an id, a list of them (several labels), or a score."
)
_LABELS = Column(name="labels", type="any", meaning="A list of names or ids; it may be empty.")

COLUMNS = (
    Column(name="text", type="text", meaning=_TEXT.meaning, required=False),
    _PAIR,
    Column(name="messages", type="any", meaning="A conversation that is classified.", required=False),
    Column(name="label", type="any", meaning=_LABEL.meaning, required=False),
)
"""What a row is stored as, whatever its layout was."""

_HERE = "swift_cls.layouts"


def _pair(name: str, first: str, second: str) -> Layout:
    columns = (
        Column(name=first, type="text", meaning="The first text."),
        Column(name=second, type="text", meaning="The second text."),
        _LABEL,
    )
    return Layout(name=name, columns=columns, convert=f"{_HERE}:from_pair")


LAYOUTS = (
    Layout(name="texts", columns=(_TEXT, _LABEL, _PAIR), convert=f"{_HERE}:from_texts"),
    Layout(
        name="texts with several labels",
        columns=(
            _TEXT,
            _LABELS,
            _PAIR,
        ),
        convert=f"{_HERE}:from_labels",
    ),
    _pair("GLUE, sentence pairs", "sentence1", "sentence2"),
    _pair("GLUE, question pairs", "question1", "question2"),
    _pair("premise and hypothesis", "premise", "hypothesis"),
    _pair("GLUE, question and sentence", "question", "sentence"),
    Layout(
        name="GLUE, sentences",
        columns=(Column(name="sentence", type="text", meaning="What is classified."), _LABEL),
        convert=f"{_HERE}:from_sentence",
    ),
    Layout(
        name="ms-swift",
        columns=(Column(name="messages", type="any", meaning="A conversation that is classified."), _LABEL),
        convert=f"{_HERE}:from_messages",
    ),
    Layout(
        name="conversations with several labels",
        columns=(
            Column(name="messages", type="any", meaning="A conversation that is classified."),
            _LABELS,
        ),
        convert=f"{_HERE}:from_labels",
    ),
)

_PAIRS = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
)


def from_texts(row: Mapping[str, Any]) -> dict[str, Any]:
    """Rows with ``text``, perhaps ``text_pair``, and ``label``."""
    return {"text": row["text"], "text_pair": row.get("text_pair"), "label": _unpacked(row["label"])}


def from_messages(row: Mapping[str, Any]) -> dict[str, Any]:
    """Rows with ``messages``."""
    return {"messages": row["messages"], "label": _unpacked(row["label"])}


def _unpacked(label: str) -> str:
    """A label as JSON: where it is a text that is a list as JSON, as csv files have lists, that list."""
    if label.startswith('"['):
        with contextlib.suppress(ValueError):
            if isinstance(json.loads(inner := json.loads(label)), list):
                return str(inner)
    return label


def from_labels(row: Mapping[str, Any]) -> dict[str, Any]:
    """Rows with ``labels``; a csv file has the list as JSON."""
    labels = json.loads(row["labels"])  # a column of type any is stored as JSON
    if isinstance(labels, str):
        with contextlib.suppress(ValueError):
            labels = json.loads(labels)
    if not isinstance(labels, list):
        raise ValueError(
            f"labels: expected a list of names or ids, found {labels!r}; one label is named label"
        )
    texts = {name: row.get(name) for name in ("text", "text_pair", "messages")}
    return {**texts, "label": json.dumps(labels)}


def from_pair(row: Mapping[str, Any]) -> dict[str, Any]:
    """Rows with one of the names that pairs of texts go by."""
    first, second = next(names for names in _PAIRS if names[0] in row)
    return {"text": row[first], "text_pair": row[second], "label": _unpacked(row["label"])}


def from_sentence(row: Mapping[str, Any]) -> dict[str, Any]:
    """Rows with ``sentence``."""
    return {"text": row["sentence"], "label": _unpacked(row["label"])}
