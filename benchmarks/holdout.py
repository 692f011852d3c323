"""Training rows set apart to choose a recipe by, so that no test split has a say in it."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.workload import Row


def hold_out(rows: Sequence[Row], share: float, folder: Path) -> list[Row]:
    """Write a share of the rows as a BEIR folder with the split ``dev``; return the rows to train on.

    Documents are drawn, and all rows that have one of them as their positive become dev. To train on are the
    rows that share neither positive nor query with those. The corpus is every document of all rows.
    """
    positives = sorted({row["positive"] for row in rows})
    drawn = set(random.Random(0).sample(positives, round(share * len(positives))))
    dev = [row for row in rows if row["positive"] in drawn]
    asked = {row["query"]: f"q{n}" for n, row in enumerate(dev)}
    corpus: dict[str, str] = {}
    for row in rows:
        for text in (row["positive"], *row["negatives"]):
            corpus.setdefault(text, f"d{len(corpus)}")
    (folder / "qrels").mkdir(parents=True)
    _write(folder / "corpus.jsonl", ({"_id": name, "text": text} for text, name in corpus.items()))
    _write(folder / "queries.jsonl", ({"_id": name, "text": text} for text, name in asked.items()))
    pairs = ({"query-id": asked[r["query"]], "corpus-id": corpus[r["positive"]], "score": 1} for r in dev)
    _write(folder / "qrels" / "dev.jsonl", pairs)
    return [row for row in rows if row["positive"] not in drawn and row["query"] not in asked]


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
