"""Lists of a query and documents for the benchmarks of rerankers, from what people keep on disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.workload import Row, Workload, repeated, with_lengths


def read_lists(path: Path) -> list[Row]:
    """Rows of ``query``, ``documents`` and ``labels`` from a jsonl file.

    A line is such a list, or a pair (``query``, ``document``, ``label``); pairs of one ``query_id``, or of
    one query where there is none, become a list, at the place of the first of them.
    """
    with path.open(encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    found: dict[str, Row] = {}
    for number, line in enumerate(lines):
        if "documents" in line:
            found[f"line {number}"] = {name: line[name] for name in ("query", "documents", "labels")}
            continue
        key = str(line.get("query_id") or line["query"])
        row = found.setdefault(key, {"query": line["query"], "documents": [], "labels": []})
        row["documents"].append(line["document"])
        row["labels"].append(line["label"])
    return list(found.values())


def one_positive(rows: Sequence[Row], size: int) -> list[Row]:
    """Each list with its first relevant document and its first irrelevant ones, ``size`` in all.

    They keep their order, and a list that has fewer is left out. Swift takes the mean over lists of the mean
    over documents, or over pairs of documents; sentence-transformers takes the mean over all of the batch.
    Only of lists of equal length with equally many relevant documents are the two one formula.
    """
    found = []
    for row in rows:
        places = range(len(row["documents"]))
        relevant = [n for n in places if row["labels"][n] > 0][:1]
        others = [n for n in places if row["labels"][n] <= 0][: size - 1]
        if len(relevant) + len(others) == size:
            found.append(_picked(row, sorted([*relevant, *others])))
    return found


def best_labelled(row: Row, size: int) -> Row:
    """The list with at most ``size`` documents: the best-labelled, then the first, in their order."""
    places = sorted(range(len(row["documents"])), key=lambda n: -row["labels"][n])  # stable
    return _picked(row, sorted(places[:size]))


def pairs_of(rows: Sequence[Row]) -> list[Row]:
    """Lists as pairs with a label, list by list."""
    return [
        {"query": row["query"], "document": document, "label": float(label)}
        for row in rows
        for document, label in zip(row["documents"], row["labels"], strict=True)
    ]


def cut_documents(rows: Sequence[Row], tokenizer: Any, low: int, high: int) -> list[Row]:
    """The lists with each document cut, as :func:`benchmarks.workload.with_lengths` cuts."""
    plain = [{"positive": "", "negatives": row["documents"]} for row in rows]
    cut = with_lengths(plain, tokenizer, low, high)
    return [{**row, "documents": new["negatives"]} for row, new in zip(rows, cut, strict=True)]


def list_workload(
    rows: Sequence[Row],
    model: Path,
    lengths_of: Callable[[Row], list[int]],
    *,
    lists: int,
    steps: int,
    chunk: int,
    max_length: int,
    learning_rate: float,
) -> Workload:
    """Full batches of lists, the first again when there are fewer than ``steps``.

    Args:
        rows: at least ``lists`` of them.
        lengths_of: tokens of each pair of a list.
        lists: of a batch.
        chunk: pairs that the peer pads together.
    """
    batches = [list(rows[start : start + lists]) for start in range(0, len(rows) - lists + 1, lists)]
    counted = [[n for row in batch for n in lengths_of(row)] for batch in islice(batches, steps)]
    counted = [counted[n % len(counted)] for n in range(steps)]
    return Workload(
        model=model,
        rows=repeated(batches, steps),
        tokens=[sum(step) for step in counted],
        padded_tokens=[sum(len(part) * max(part) for part in _chunks(step, chunk)) for step in counted],
        steps=steps,
        batch_size=lists,
        max_length=max_length,
        learning_rate=learning_rate,
    )


def _chunks(values: Sequence[int], size: int) -> list[Sequence[int]]:
    return [values[start : start + size] for start in range(0, len(values), size)]


def _picked(row: Row, places: Sequence[int]) -> Row:
    return {**row, **{name: [row[name][n] for n in places] for name in ("documents", "labels")}}
