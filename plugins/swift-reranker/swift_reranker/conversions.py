"""What turns a checked row of each layout into the task's own: a query and its candidates.

Imports no torch. Every function raises a ValueError that starts with the name of the column.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift_core.data.beir import load_retrieval
from swift_core.errors import UserError
from swift_reranker.layouts import DOCUMENT_NAMES

if TYPE_CHECKING:
    from swift_core.data.faults import Faults

Row = Mapping[str, Any]


def from_list(row: Row) -> dict[str, Any]:
    """Rows with ``documents`` or ``docs``."""
    column = "docs" if "docs" in row else "documents"
    return _made(row, row["query"], row[column], column, row.get("labels"), row.get("scores"))


def from_pair(row: Row) -> dict[str, Any]:
    """Rows with one document, or several, under one of the names that people give them."""
    if "sentence1" in row:
        query, column, documents = row["sentence1"], "sentence2", [row["sentence2"]]
    else:
        column = next(name for name in DOCUMENT_NAMES if name in row)
        query, documents = row["query"], row[column]
    labels, scores = (_judgements(row, kind, len(documents)) for kind in ("label", "score"))
    if row.get("doc_id") is not None:
        row = {**row, "document_ids": [row["doc_id"]]}
    return _made(row, query, documents, column, labels, scores)


def from_answers(row: Row) -> dict[str, Any]:
    """Rows with positives and negatives; ``anchor`` is the query where there is one.

    Numbers for each text (``labels``, ``scores``; ``label`` and ``score`` of one text) say more than the
    names of the columns: sentence-transformers writes negatives among the positives beside such numbers.
    """
    one = [] if row.get("negative") is None else [row["negative"]]
    negatives = [*(row.get("negatives") or ()), *one, *(row.get("negative_*") or ())]
    positives = row["positive"]
    count = len(positives) + len(negatives)
    labels, scores = (_judgements(row, kind, count) for kind in ("label", "score"))
    if labels is None and (scores is None or negatives):
        labels = _grades(positives, negatives)
    scores = scores or _teacher(row, positives, negatives, "positive_scores", "negative_scores")
    return _made(
        row, row.get("query", row.get("anchor")), [*positives, *negatives], "positive", labels, scores
    )


def from_flag_embedding(row: Row) -> dict[str, Any]:
    """Rows of FlagEmbedding's fine-tuning data."""
    positives, negatives = row["pos"], row.get("neg") or []
    scores = _teacher(row, positives, negatives, "pos_scores", "neg_scores")
    return _made(row, row["query"], [*positives, *negatives], "pos", _grades(positives, negatives), scores)


def from_messages(row: Row) -> dict[str, Any]:
    """Rows of ms-swift, whose texts are conversations; ``label`` is the grade of one positive."""
    # A column of type any is stored as JSON.
    query = _spoken(json.loads(row["messages"]), "messages")
    positives = _conversations(row["positive_messages"], "positive_messages")
    negatives = _conversations(row.get("negative_messages") or "[]", "negative_messages")
    if not positives:
        raise ValueError("positive_messages: expected at least one conversation, found none")
    documents = [*positives, *negatives]
    labels = _judgements(row, "label", len(documents)) or _grades(positives, negatives)
    return _made(row, query, documents, "positive_messages", labels, None)


def from_ms_marco(row: Row) -> dict[str, Any]:
    """Rows of MS MARCO's questions, each with the passages that a search engine found."""
    passages = json.loads(row["passages"])
    names = ("passage_text", "is_selected")
    if not isinstance(passages, Mapping) or not all(isinstance(passages.get(name), list) for name in names):
        raise ValueError(f"passages: expected an object with the lists {' and '.join(names)}")
    texts, selected = (passages[name] for name in names)
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError("passages: expected a text in each of passage_text, found something else")
    if not all(mark in (0, 1) for mark in selected):
        raise ValueError("passages: expected 0 or 1 in each of is_selected, found something else")
    return _made(row, row["query"], texts, "passages", [float(mark) for mark in selected], None)


def beir_lists(folder: Path, split: str, faults: Faults) -> Iterator[tuple[str, dict[str, Any]]]:
    """One list for each query of a BEIR folder that has an answer in ``qrels/<split>``: what was judged."""
    try:
        retrieval = load_retrieval(folder, split)
    except UserError as error:
        for fault in error.faults:
            faults.add(fault)
        return
    for query, judged in retrieval.qrels.items():
        row = {
            "query": retrieval.queries[query],
            "documents": [retrieval.corpus[name] for name in judged],
            "labels": list(judged.values()),
            "query_id": query,
            "document_ids": list(judged),
        }
        yield f"{folder}/qrels/{split}: query {query!r}", row


def _made(
    row: Row,
    query: str,
    documents: Sequence[str],
    column: str,
    labels: Sequence[float] | None,
    scores: Sequence[float] | None,
) -> dict[str, Any]:
    """The task's row, in which every document is there once; ``column`` is what the data calls them."""
    ids = row.get("document_ids")
    if not documents:
        raise ValueError(f"{column}: expected at least one document, found none")
    for name, values in (("labels", labels), ("scores", scores), ("document_ids", ids)):
        if values is not None and len(values) != len(documents):
            raise ValueError(
                f"{name}: expected one for each of {len(documents)} documents, found {len(values)}"
            )
    if labels is not None and min(labels) < 0:
        raise ValueError(
            f"labels: expected 0 for not relevant and larger for more, found {min(labels):g}; numbers of "
            "another scale are a teacher's, under the name score or scores"
        )
    made = {
        "query": query,
        "documents": documents,
        "labels": labels,
        "scores": scores,
        "query_id": row.get("query_id"),
        "document_ids": ids,
    }
    return made if len(set(documents)) == len(documents) else merged([made])


def merged(rows: Sequence[Row]) -> dict[str, Any]:
    """One list of the documents of several; the first row says all that is said once.

    Each document is there once, at its first place, with its highest label, its first score and first id.
    Either all rows have labels or none has, and the same with scores; ids are kept where all rows have them.
    """
    places: dict[str, int] = {}
    for row in rows:
        for text in row["documents"]:
            places.setdefault(text, len(places))
    made = {**rows[0], "documents": list(places)}
    for name in ("labels", "scores", "document_ids"):
        made[name] = None
        if all(row[name] is not None for row in rows):
            kept: list[Any] = [None] * len(places)
            for row in rows:
                for text, value in zip(row["documents"], row[name], strict=True):
                    place = places[text]
                    if kept[place] is None or (name == "labels" and value > kept[place]):
                        kept[place] = value
            made[name] = kept
    return made


def _judgements(row: Row, kind: str, count: int) -> list[float] | None:
    """What ``label`` or ``labels`` say (``kind`` is the first), None where neither is there."""
    one, many = row.get(kind), row.get(f"{kind}s")
    if one is None or many is not None:
        return many
    if count != 1:
        raise ValueError(
            f"{kind}: expected one document beside it, found {count}; {kind}s takes a number for each of them"
        )
    return [one]


def _grades(positives: Sequence[str], negatives: Sequence[str]) -> list[float]:
    return [1.0] * len(positives) + [0.0] * len(negatives)


def _teacher(
    row: Row, positives: Sequence[str], negatives: Sequence[str], of_positives: str, of_negatives: str
) -> list[float] | None:
    found = (row.get(of_positives), row.get(of_negatives))
    if found == (None, None):
        return None
    scores: list[float] = []
    for name, values, texts in zip((of_positives, of_negatives), found, (positives, negatives), strict=True):
        if len(values or ()) != len(texts):
            raise ValueError(
                f"{name}: expected one number for each of {len(texts)} texts, found {len(values or ())}"
            )
        scores += values or ()
    return scores


def _conversations(value: str, column: str) -> list[str]:
    conversations = json.loads(value)
    if not isinstance(conversations, list):
        raise ValueError(f"{column}: expected a list of conversations, found {type(conversations).__name__}")
    # One conversation instead of a list of them is what people write for one text.
    if conversations and all(isinstance(entry, Mapping) for entry in conversations):
        conversations = [conversations]
    return [_spoken(conversation, column) for conversation in conversations]


def _spoken(conversation: Any, column: str) -> str:
    """The text of a conversation: what its messages say, one after another."""
    if not isinstance(conversation, list) or not all(
        isinstance(message, Mapping) and isinstance(message.get("content"), str) for message in conversation
    ):
        raise ValueError(f"{column}: expected messages with role and content, found something else")
    text = "\n".join(message["content"] for message in conversation)
    if not text.strip():
        raise ValueError(f"{column}: expected a text in content, found none")
    return text
