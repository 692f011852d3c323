"""The forms of data that this task reads, and how rows that people already have become the task's own.

Imports no torch: the spec of the task is made of these.
"""

from __future__ import annotations

from swift_core.spec import Column, ColumnType, FolderLayout, Layout

_HERE = "swift_reranker.conversions"


def _optional(name: str, type_: ColumnType, meaning: str) -> Column:
    return Column(name=name, type=type_, meaning=meaning, required=False)


_QUERY = Column(name="query", type="text", meaning="What is searched for.")
_DOCUMENTS = Column(name="documents", type="list[text]", meaning="The candidates.")
_LABELS = _optional("labels", "list[number]", "How relevant each is: 0 for not, larger for more.")
_SCORES = _optional("scores", "list[number]", "What a teacher gives each, on any scale.")
_QUERY_ID = _optional("query_id", "label", "Rows with the same one are one list; without it, by the text.")
_DOCUMENT_IDS = _optional("document_ids", "list[text]", "A name for each document.")

COLUMNS = (
    _QUERY,
    _DOCUMENTS,
    _LABELS,
    _SCORES,
    _QUERY_ID,
    _DOCUMENT_IDS,
    _optional("source", "source", "Which data set of the run it is."),
)
"""What a row is stored as, whatever its layout was: a query and its candidates."""

_LABEL = _optional("label", "number", "How relevant it is: 0 for not, larger for more.")
_SCORE = _optional("score", "number", "What a teacher gives it, on any scale.")
_JUDGEMENTS = (_LABEL, _SCORE, _LABELS, _SCORES)

_POSITIVE = Column(name="positive", type="texts", meaning="The text, or the texts, that answer the query.")
_NEGATIVES = (
    _optional("negatives", "list[text]", "Texts that do not answer it; any number, also none."),
    _optional("negative", "text", "One text that does not answer it."),
    _optional("negative_*", "text", "Further ones: negative_1, negative_2, ..."),
    _optional("positive_scores", "list[number]", "What a teacher gives each positive."),
    _optional("negative_scores", "list[number]", "The same for each negative."),
)
DOCUMENT_NAMES = ("document", "passage", "response", "answer", "text")
"""What people call the document of a pair."""


def _pair(name: str, document: str) -> Layout:
    columns = (
        _QUERY,
        Column(name=document, type="texts", meaning="The candidate, or the candidates."),
        *_JUDGEMENTS,
        _QUERY_ID,
        _optional("doc_id", "label", "A name for the document."),
    )
    return Layout(name=name, columns=columns, convert=f"{_HERE}:from_pair")


LAYOUTS = (
    Layout(
        name="lists",
        columns=(_QUERY, _DOCUMENTS, _LABELS, _SCORES, _QUERY_ID, _DOCUMENT_IDS),
        convert=f"{_HERE}:from_list",
    ),
    Layout(
        name="queries and answers",
        columns=(_QUERY, _POSITIVE, *_NEGATIVES, *_JUDGEMENTS, _QUERY_ID),
        convert=f"{_HERE}:from_answers",
    ),
    _pair("pairs", DOCUMENT_NAMES[0]),
    Layout(
        name="sentence-transformers",
        columns=(
            Column(name="anchor", type="text", meaning="The query."),
            _POSITIVE,
            *_NEGATIVES,
            *_JUDGEMENTS,
        ),
        convert=f"{_HERE}:from_answers",
    ),
    Layout(
        name="sentence-transformers, lists",
        columns=(
            _QUERY,
            Column(name="docs", type="list[text]", meaning="The candidates."),
            _LABELS,
            _SCORES,
        ),
        convert=f"{_HERE}:from_list",
    ),
    Layout(
        name="FlagEmbedding",
        columns=(
            _QUERY,
            Column(name="pos", type="texts", meaning="The positives."),
            _optional("neg", "list[text]", "The negatives."),
            _optional("pos_scores", "list[number]", "A teacher's scores."),
            _optional("neg_scores", "list[number]", "The same of negatives."),
        ),
        convert=f"{_HERE}:from_flag_embedding",
    ),
    Layout(
        name="ms-swift",
        columns=(
            Column(name="messages", type="any", meaning="The query, as a conversation."),
            Column(name="positive_messages", type="any", meaning="A list of conversations: the positives."),
            _optional("negative_messages", "any", "The same: the negatives."),
            _LABEL,
        ),
        convert=f"{_HERE}:from_messages",
    ),
    Layout(
        name="MS MARCO",
        columns=(
            _QUERY,
            Column(name="passages", type="any", meaning="passage_text and is_selected, a list each."),
            _QUERY_ID,
        ),
        convert=f"{_HERE}:from_ms_marco",
    ),
    *(_pair(f"sentence-transformers, query and {name}", name) for name in DOCUMENT_NAMES[1:]),
    Layout(
        name="sentence-transformers, sentence pairs",
        columns=(
            Column(name="sentence1", type="text", meaning="The query."),
            Column(name="sentence2", type="text", meaning="The document."),
            _LABEL,
            _SCORE,
        ),
        convert=f"{_HERE}:from_pair",
    ),
)

FOLDERS = (
    FolderLayout(name="BEIR", files=("corpus.jsonl", "queries.jsonl", "qrels"), read=f"{_HERE}:beir_lists"),
)

GATHER = "swift_reranker.gathering:gather"
"""For :class:`swift_core.spec.TaskSpec`: rows of one query become one list."""
