"""Answers by themselves, for kto: pairs taken apart, each answer with one to another prompt beside it."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import datasets

from swift_core.data.faults import Faults
from swift_core.data.records import write_table
from swift_core.errors import UserError

_ROWS_AT_ONCE = 1000


def unpaired(records: datasets.Dataset) -> tuple[datasets.Dataset, str | None]:
    """Make one row of each answer: score 1 for a good one, 0 for a bad one.

    Of several answers to a prompt those above the mean of their scores are good, those below it bad, and
    those at it are left out. ``unrelated`` of each row becomes the answer of the next row with another
    prompt (after the last row the first comes again; none where all rows have one prompt): kto estimates from
    them how far the policy has moved.

    Returns:
        The rows and what was done.

    Raises:
        UserError: an answer by itself is neither good nor bad.
    """
    faults, counts = Faults(), Counter[float]()
    table = write_table(_with_unrelated(_single(records, faults), counts), records.features)
    faults.raise_if_any()
    total, good = counts.total(), counts[1.0]
    if not total:
        raise UserError(
            "scores: expected answers that are better or worse than others, found equal scores only"
        )
    # Without a fingerprint the library makes one of a copy of all rows.
    fingerprint = hashlib.sha256(f"{records._fingerprint} unpaired".encode()).hexdigest()
    made = datasets.Dataset(table, datasets.DatasetInfo(features=records.features), fingerprint=fingerprint)
    return made, f"{total:,} answers of {len(records):,} rows: {good:,} good, {total - good:,} bad"


def _single(records: datasets.Dataset, faults: Faults) -> Iterator[dict[str, Any]]:
    """Rows with one answer each, as JSON in ``answers`` and by itself in ``answer``."""
    number = 0
    for batch in records.with_format("arrow").iter(batch_size=_ROWS_AT_ONCE):
        for row in batch.to_pylist():
            number += 1
            answers, scores, violations = json.loads(row["answers"]), row["scores"], row["violations"]
            if len(answers) == 1 and scores[0] not in (0, 1):
                faults.add(
                    f"row {number}: scores: expected 1 (good) or 0 (bad) for an answer by itself, found "
                    f"{scores[0]:g}"
                )
                continue
            middle = sum(scores) / len(scores) if len(scores) > 1 else 0.5
            for place, (answer, score) in enumerate(zip(answers, scores, strict=True)):
                if score != middle:
                    yield {
                        **row,
                        "answer": json.dumps(answer),
                        "answers": json.dumps([answer]),
                        "scores": [float(score > middle)],
                        "violations": None if violations is None else [violations[place]],
                    }


def _with_unrelated(rows: Iterable[dict[str, Any]], counts: Counter[float]) -> Iterator[dict[str, Any]]:
    """The same rows, each with the answer of the next one that has another prompt; counts their scores."""
    waiting: list[dict[str, Any]] = []
    # The last rows take the first one; where that has their prompt, the first with another.
    firsts: dict[str, str] = {}
    for row in rows:
        counts[row["scores"][0]] += 1
        if waiting and row["prompt"] != waiting[0]["prompt"]:
            yield from ({**earlier, "unrelated": row["answer"]} for earlier in waiting)
            waiting = []
        waiting.append(row)
        if len(firsts) < 2:
            firsts.setdefault(row["prompt"], row["answer"])
    if not waiting:
        return
    others = [answer for prompt, answer in firsts.items() if prompt != waiting[0]["prompt"]]
    # Without another prompt there is none, which not every loss minds.
    other = others[0] if others else None
    yield from ({**earlier, "unrelated": other} for earlier in waiting)
