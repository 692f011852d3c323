"""Answers by themselves, for kto: pairs taken apart, each answer with one to another prompt beside it."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import cycle, groupby
from typing import Any

import datasets

from swift_core.data.faults import Faults
from swift_core.data.records import write_table
from swift_core.errors import UserError

_ROWS_AT_ONCE = 1000


def unpaired(records: datasets.Dataset) -> tuple[datasets.Dataset, str | None]:
    """Make one row of each answer: score 1 for a good one, 0 for a bad one.

    Of several answers to a prompt those above the mean of their scores are good, those below it bad, and
    those at it are left out. ``unrelated`` of each row becomes an answer to the next other prompt, of the
    second row to a prompt the second one and so on (after the last row the first comes again; none where all
    rows have one prompt): kto estimates from them how far the policy has moved.

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
            # As they are written: rounded, the mean of three times 0.1 is more than 0.1.
            exact = [Fraction(str(score)) for score in scores]
            middle = sum(exact) / len(exact) if len(exact) > 1 else Fraction(1, 2)
            for place, (answer, score) in enumerate(zip(answers, exact, strict=True)):
                if score != middle:
                    yield {
                        **row,
                        "answer": json.dumps(answer),
                        "answers": json.dumps([answer]),
                        "scores": [float(score > middle)],
                        "violations": None if violations is None else [violations[place]],
                    }


def _with_unrelated(rows: Iterable[dict[str, Any]], counts: Counter[float]) -> Iterator[dict[str, Any]]:
    """The same rows, each with an answer to the next other prompt; counts their scores."""
    waiting: list[dict[str, Any]] = []
    # The last rows take answers to the first prompt; where that is theirs, to the first other one.
    firsts: dict[str, list[str]] = {}
    for prompt, group in groupby(rows, key=lambda row: row["prompt"]):
        members = list(group)
        counts.update(row["scores"][0] for row in members)
        answers = [row["answer"] for row in members]
        yield from _beside(waiting, answers)
        waiting = members
        if len(firsts) < 2:
            firsts.setdefault(prompt, answers)
    # Without another prompt there is none, which not every loss minds.
    others: list[list[str | None]] = [
        [*found] for prompt, found in firsts.items() if prompt != _prompt(waiting)
    ]
    yield from _beside(waiting, others[0] if others else [None])


def _beside(rows: Sequence[dict[str, Any]], answers: Sequence[str | None]) -> Iterator[dict[str, Any]]:
    # Each takes another one: of pairs taken apart the first are all good, and good answers alone would tell
    # of what the policy has learned rather than of how far it has moved.
    for row, answer in zip(rows, cycle(answers), strict=False):
        yield {**row, "unrelated": answer}


def _prompt(rows: Sequence[dict[str, Any]]) -> str | None:
    return rows[0]["prompt"] if rows else None
