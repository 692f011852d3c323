"""The forms of data that this task reads, and how rows that people already have become the task's own.

Imports no torch: the spec of the task is made of these.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift_core.errors import UserError
from swift_core.spec import Column, FolderLayout, Layout

if TYPE_CHECKING:
    from swift_core.data.faults import Faults

_QUERY = Column(name="query", type="text", meaning="What is searched for.")
_POSITIVE = Column(name="positive", type="texts", meaning="The text, or the texts, that answer the query.")
_NEGATIVES = Column(
    name="negatives",
    type="list[text]",
    meaning="Texts that do not answer it; any number, also none.",
    required=False,
)
_POSITIVE_SCORES = Column(
    name="positive_scores",
    type="list[number]",
    meaning="What a teacher gives each positive, for distillation.",
    required=False,
)
_NEGATIVE_SCORES = Column(
    name="negative_scores", type="list[number]", meaning="The same for each negative.", required=False
)
_TEXT1 = Column(name="text1", type="text", meaning="A text.")
_TEXT2 = Column(name="text2", type="text", meaning="Another text.")
_SCORE = Column(name="score", type="number", meaning="How alike the two are: any scale, larger for more.")
_TEXT = Column(name="text", type="text", meaning="A text.")
_LABEL = Column(name="label", type="label", meaning="Its class: a string or an integer.")


def _optional(column: Column) -> Column:
    return Column(name=column.name, type=column.type, meaning=column.meaning, required=False)


COLUMNS = (
    *map(_optional, (_QUERY, _POSITIVE, _NEGATIVES, _POSITIVE_SCORES, _NEGATIVE_SCORES)),
    *map(_optional, (_TEXT1, _TEXT2, _SCORE, _TEXT, _LABEL)),
    Column(name="source", type="source", meaning="Which data set of the run it is.", required=False),
)
"""What a row is stored as, whatever its layout was."""

_FURTHER = (
    Column(name="negative", type="text", meaning="One text that does not answer it.", required=False),
    Column(
        name="negative_*", type="text", meaning="Further ones: negative_1, negative_2, ...", required=False
    ),
)

_HERE = "swift_embedding.layouts"

LAYOUTS = (
    Layout(
        name="queries and answers",
        columns=(_QUERY, _POSITIVE, _NEGATIVES, *_FURTHER, _POSITIVE_SCORES, _NEGATIVE_SCORES),
        convert=f"{_HERE}:with_negatives",
    ),
    Layout(name="scored pairs", columns=(_TEXT1, _TEXT2, _SCORE)),
    Layout(
        name="sentence-transformers",
        columns=(
            Column(name="anchor", type="text", meaning="The query."),
            _POSITIVE,
            *_FURTHER,
            _POSITIVE_SCORES,
            _NEGATIVE_SCORES,
        ),
        convert=f"{_HERE}:with_negatives",
    ),
    Layout(
        name="sentence-transformers, scored pairs",
        columns=(
            Column(name="sentence1", type="text", meaning="A text."),
            Column(name="sentence2", type="text", meaning="Another text."),
            _SCORE,
        ),
        convert=f"{_HERE}:from_sentence_pair",
    ),
    Layout(
        name="FlagEmbedding",
        columns=(
            _QUERY,
            Column(name="pos", type="texts", meaning="The positives."),
            Column(name="neg", type="list[text]", meaning="The negatives.", required=False),
            Column(name="pos_scores", type="list[number]", meaning="A teacher's scores.", required=False),
            Column(name="neg_scores", type="list[number]", meaning="The same of negatives.", required=False),
        ),
        convert=f"{_HERE}:from_flag_embedding",
    ),
    Layout(
        name="ms-swift",
        columns=(
            Column(name="messages", type="any", meaning="The query, as a conversation."),
            Column(name="positive_messages", type="any", meaning="A list of conversations: the positives."),
            Column(name="negative_messages", type="any", meaning="The same: the negatives.", required=False),
            Column(name="label", type="number", meaning="How alike the two are.", required=False),
        ),
        convert=f"{_HERE}:from_messages",
    ),
    Layout(name="labelled texts", columns=(_TEXT, _LABEL)),
)

FOLDERS = (
    FolderLayout(name="BEIR", files=("corpus.jsonl", "queries.jsonl", "qrels"), read=f"{_HERE}:beir_rows"),
)


def with_negatives(row: Mapping[str, Any]) -> dict[str, Any]:
    """Rows with negatives in columns of their own; ``anchor`` is the query where there is one."""
    one = [] if row.get("negative") is None else [row["negative"]]
    negatives = [*(row.get("negatives") or ()), *one, *(row.get("negative_*") or ())]
    made = {
        "query": row.get("query", row.get("anchor")),
        "positive": row["positive"],
        "negatives": negatives or None,
        "positive_scores": row.get("positive_scores"),
        "negative_scores": row.get("negative_scores"),
    }
    return _counted(made, "positive_scores", "negative_scores")


def from_sentence_pair(row: Mapping[str, Any]) -> dict[str, Any]:
    """Rows with ``sentence1``, ``sentence2`` and ``score``."""
    return {"text1": row["sentence1"], "text2": row["sentence2"], "score": row["score"]}


def from_flag_embedding(row: Mapping[str, Any]) -> dict[str, Any]:
    """Rows of FlagEmbedding's fine-tuning data."""
    made = {
        "query": row["query"],
        "positive": row["pos"],
        "negatives": row.get("neg"),
        "positive_scores": row.get("pos_scores"),
        "negative_scores": row.get("neg_scores"),
    }
    return _counted(made, "pos_scores", "neg_scores")


def _counted(row: dict[str, Any], positive_scores: str, negative_scores: str) -> dict[str, Any]:
    for name, scores, texts in (
        (positive_scores, row["positive_scores"], row["positive"]),
        (negative_scores, row["negative_scores"], row["negatives"] or []),
    ):
        if scores is not None and len(scores) != len(texts):
            raise ValueError(
                f"{name}: expected one number for each of {len(texts)} texts, found {len(scores)}"
            )
    return row


def from_messages(row: Mapping[str, Any]) -> dict[str, Any]:
    """Rows of ms-swift, whose texts are conversations; with ``label`` they are scored pairs."""
    # A column of type any is stored as JSON.
    decoded = {
        name: json.loads(row[name]) if row.get(name) is not None else None
        for name in ("messages", "positive_messages", "negative_messages")
    }
    query = _spoken(decoded["messages"], "messages")
    positives = _conversations(decoded["positive_messages"], "positive_messages")
    if not positives:
        raise ValueError("positive_messages: expected at least one conversation, found none")
    negatives = _conversations(decoded["negative_messages"] or [], "negative_messages")
    if row.get("label") is None:
        return {"query": query, "positive": positives, "negatives": negatives or None}
    if len(positives) != 1 or negatives:
        raise ValueError(
            "label: expected one positive and no negatives beside it, found "
            f"{len(positives)} and {len(negatives)}"
        )
    return {"text1": query, "text2": positives[0], "score": row["label"]}


def _conversations(value: Any, column: str) -> list[str]:
    if not isinstance(value, list):
        raise ValueError(f"{column}: expected a list of conversations, found {type(value).__name__}")
    # One conversation instead of a list of them is what people write for one text.
    if value and all(isinstance(entry, Mapping) for entry in value):
        value = [value]
    return [_spoken(conversation, column) for conversation in value]


def _spoken(conversation: Any, column: str) -> str:
    """The text of a conversation: what its messages say, one after another."""
    try:
        text = "\n".join(str(message["content"]) for message in conversation)
    except (TypeError, KeyError) as error:
        raise ValueError(
            f"{column}: expected messages with role and content, found something else"
        ) from error
    if not text.strip():
        raise ValueError(f"{column}: expected a text in content, found none")
    return text


def beir_rows(folder: Path, split: str, faults: Faults) -> Iterator[tuple[str, dict[str, Any]]]:
    """One row for each query of a BEIR folder that has an answer in ``qrels/<split>``."""
    from swift_core.data.beir import load_retrieval

    try:
        retrieval = load_retrieval(folder, split)
    except UserError as error:
        for fault in error.faults:
            faults.add(fault)
        return
    for query, judged in retrieval.qrels.items():
        row = {
            "query": retrieval.queries[query],
            "positive": [retrieval.corpus[name] for name, score in judged.items() if score > 0],
            "negatives": [retrieval.corpus[name] for name, score in judged.items() if score == 0],
        }
        yield f"{folder}/qrels/{split}: query {query!r}", row
