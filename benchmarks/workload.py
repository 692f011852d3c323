"""Rows for a benchmark, in batches on which both sides compute the same loss."""

from __future__ import annotations

import json
import math
import random
import shutil
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, cycle, islice
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Tokens = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What both sides train on, with which options.

    Attributes:
        model: folder of the model.
        rows: rows in the order of training, ``steps * batch_size`` of them; all have equally many negatives.
        tokens: useful tokens (no padding) of each step.
        padded_tokens: tokens of each step when queries and documents are padded to their longest.
    """

    model: Path
    rows: Sequence[Row]
    tokens: Sequence[int]
    padded_tokens: Sequence[int]
    steps: int
    batch_size: int
    max_length: int
    learning_rate: float
    temperature: float = 1.0

    @property
    def negatives(self) -> int:
        """Negatives in each row."""
        return len(self.rows[0]["negatives"])


def read_rows(path: Path, limit: int | None, negatives: int | None = None) -> list[Row]:
    """The first ``limit`` rows of a jsonl file, cut to ``negatives``, or as many as the poorest of them has.

    The peer wants a column for each negative, so rows can't differ in their number.
    """
    with path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in islice(file, limit)]
    count = min(len(row.get("negatives") or ()) for row in rows)
    count = count if negatives is None else min(count, negatives)
    return [
        {"query": r["query"], "positive": r["positive"], "negatives": list(r.get("negatives") or ())[:count]}
        for r in rows
    ]


def with_lengths(rows: Sequence[Row], tokenizer: Any, low: int, high: int) -> list[Row]:
    """The rows with each document cut to a number of tokens drawn log-uniformly from ``low`` to ``high``.

    Real text at the spread of lengths that corpora of titles, sentences, paragraphs and pages have.
    """
    draw = random.Random(0)

    def cut(text: str) -> str:
        wanted = int(math.exp(draw.uniform(math.log(low), math.log(high + 1))))
        ends = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        kept = max(wanted - 2, 1)  # the tokenizer adds two
        return text if len(ends) <= kept else text[: ends[kept - 1][1]]

    return [
        {**row, "positive": cut(row["positive"]), "negatives": [cut(text) for text in row["negatives"]]}
        for row in rows
    ]


def distinct_batches(
    rows: Sequence[Row], batch_size: int, tokens_of: Callable[[str], Tokens]
) -> list[list[Row]]:
    """Full batches in which no query and no document comes twice; a row that clashes waits for a later one.

    Swift puts equal documents into a batch once and takes no answer to the same query for a negative; the
    peer does neither. Only without doubles are the two losses one formula.
    """
    waiting = deque((row, _texts(row, tokens_of)) for row in rows)
    batches: list[list[Row]] = []
    while True:
        batch: list[Row] = []
        seen: set[Any] = set()
        later = []
        while waiting and len(batch) < batch_size:
            row, texts = waiting.popleft()
            if len(set(texts)) < len(texts):
                continue  # a text comes twice in the row itself: it fits into no batch
            if seen.isdisjoint(texts):
                batch.append(row)
                seen.update(texts)
            else:
                later.append((row, texts))
        if len(batch) < batch_size:
            return batches
        batches.append(batch)
        waiting.extendleft(reversed(later))


def _texts(row: Row, tokens_of: Callable[[str], Tokens]) -> list[tuple[str, Tokens]]:
    # Token ids, because texts that differ only behind the cut are equal for the model.
    documents = [("document", tokens_of(text)) for text in (row["positive"], *row["negatives"])]
    return [("query", tokens_of(row["query"])), *documents]


def repeated(batches: Sequence[list[Row]], steps: int) -> list[Row]:
    """The rows of ``steps`` batches, beginning again when there are fewer."""
    return list(chain.from_iterable(islice(cycle(batches), steps)))


def token_counts(batch: Sequence[Row], tokens_of: Callable[[str], Tokens]) -> tuple[int, int]:
    """Tokens of a batch, and its tokens when queries and documents are each padded to the longest."""
    queries = [len(tokens_of(row["query"])) for row in batch]
    documents = [len(tokens_of(text)) for row in batch for text in (row["positive"], *row["negatives"])]
    padded = len(queries) * max(queries) + len(documents) * max(documents)
    return sum(queries) + sum(documents), padded


def without_dropout(model: Path, target: Path) -> Path:
    """A copy of the model's folder in which every dropout of ``config.json`` is 0."""
    shutil.copytree(model, target)
    path = target / "config.json"
    config: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    changed = {
        name: 0.0 if "dropout" in name and isinstance(value, float) else value
        for name, value in config.items()
    }
    path.write_text(json.dumps(changed, indent=2), encoding="utf-8")
    return target
