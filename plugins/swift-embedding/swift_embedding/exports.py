"""The export formats of the task type ``embedding``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from swift_core.errors import UserError
from swift_embedding.card import card_of, write_card
from swift_embedding.encoding import TextEncoder
from swift_embedding.st_folder import check_st_folder, write_st_folder

if TYPE_CHECKING:
    from swift_core.arguments import TrainingArguments
    from swift_core.data.dataset import TaskData
    from swift_core.runs.record import Run

_PROBES = ["What is this about?", "A short text.", "词向量", "x " * 2000]
"""Texts that a reloaded export is compared on; one is longer than any model takes."""

Writer: TypeAlias = Callable[
    [Path, TextEncoder, "TaskData | None", "TrainingArguments", "Run"], Mapping[str, Any]
]


def write_hf(
    folder: Path, encoder: TextEncoder, data: TaskData | None, args: TrainingArguments, run: Run
) -> Mapping[str, Any]:
    """A folder that ``SentenceTransformer(path)`` and ``AutoModel.from_pretrained(path)`` load."""
    write_st_folder(folder, encoder)
    write_card(folder, card_of(encoder, "model", args, run))
    return _details(encoder, check_st_folder(folder, encoder, _PROBES))


def write_faiss(
    folder: Path, encoder: TextEncoder, data: TaskData | None, args: TrainingArguments, run: Run
) -> Mapping[str, Any]:
    """Model, index, ids and texts of ``export_corpus``, or else of the training documents."""
    # faiss is loaded by who needs it: its start takes as long as that of the whole command line.
    from swift_embedding.bundle import write_bundle

    documents = corpus_documents(data, args.task.export_corpus)
    return write_bundle(
        folder,
        encoder=encoder,
        documents=documents,
        queries=training_queries(data),
        index=args.task.index,
        target_recall=args.task.target_recall,
        progress=args.shows_progress,
    )


def write_onnx(
    folder: Path, encoder: TextEncoder, data: TaskData | None, args: TrainingArguments, run: Run
) -> Mapping[str, Any]:
    """One ONNX graph from token ids to vectors, with tokenizer and prompts."""
    from swift_embedding import onnx_graph

    difference = onnx_graph.write_onnx(folder, encoder)
    write_card(folder, card_of(encoder, "onnx", args, run))
    return _details(encoder, difference)


def _details(encoder: TextEncoder, difference: float) -> dict[str, Any]:
    return {
        "dimension": encoder.size,
        "pooling_method": encoder.pooling_method,
        "normalized": encoder.normalize_embeddings,
        "max_length": encoder.max_length,
        "prompts": {"query": encoder.query_prompt, "document": encoder.document_prompt},
        "reload_difference": difference,
    }


WRITERS: Mapping[str, Writer] = {"hf": write_hf, "faiss": write_faiss, "onnx": write_onnx}


def corpus_documents(data: TaskData | None, corpus: str | None) -> list[tuple[str, str]]:
    """Ids and texts to index.

    Raises:
        UserError: there is neither a corpus nor training data.
    """
    from swift_core.data.beir import read_corpus

    if corpus is not None:
        return list(read_corpus(Path(corpus)).items())
    if data is None:
        raise UserError(
            "export_corpus: expected a jsonl file with _id and text, found none, and the training data is "
            "not at hand"
        )
    texts: dict[str, None] = {}
    for row in data.records:
        own = [row["text1"], row["text2"], row["text"], *(row["positive"] or ()), *(row["negatives"] or ())]
        texts.update(dict.fromkeys(text for text in own if text is not None))
    return [(str(number), text) for number, text in enumerate(texts)]


def training_queries(data: TaskData | None) -> list[str]:
    """Queries of the training data, as far as its rows have any."""
    if data is None:
        return []
    return [query for query in data.records["query"] if query]
