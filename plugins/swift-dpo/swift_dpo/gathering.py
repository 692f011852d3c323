"""Answers by themselves, for kto: pairs taken apart, each answer with one to another prompt beside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
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
    prompt (after the last row the first comes again): kto estimates from them how far the policy has moved.

    Returns:
        The rows and what was done.

    Raises:
        UserError: an answer by itself is neither good nor bad, or all rows have the same prompt.
    """
    faults = Faults()
    rows = list(_single(records, faults))
    faults.raise_if_any()
    if not rows:
        raise UserError(
            "scores: expected answers that are better or worse than others, found equal scores only"
        )
    partners = _partners([row["prompt"] for row in rows])
    table = write_table(
        ({**row, "unrelated": rows[other]["answer"]} for row, other in zip(rows, partners, strict=True)),
        records.features,
    )
    fingerprint = hashlib.sha256(f"{records._fingerprint} unpaired".encode()).hexdigest()
    made = datasets.Dataset(table, datasets.DatasetInfo(features=records.features), fingerprint=fingerprint)
    good = sum(row["scores"][0] > 0 for row in rows)
    told = f"{len(rows):,} answers of {len(records):,} rows: {good:,} good, {len(rows) - good:,} bad"
    return made, told


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


def _partners(prompts: list[str]) -> list[int]:
    """For each row the next one with another prompt, around the end.

    Raises:
        UserError: there is none.
    """
    count = len(prompts)
    found = [0] * count
    after = next((n for n in range(count) if prompts[n] != prompts[-1]), None)
    if after is None:
        raise UserError(
            "prompt: expected answers to two different prompts at least, found one prompt in all rows: kto "
            "compares each answer with one that has nothing to do with its prompt"
        )
    for row in reversed(range(count)):
        if row + 1 < count and prompts[row + 1] != prompts[row]:
            after = row + 1
        found[row] = after
    return found
