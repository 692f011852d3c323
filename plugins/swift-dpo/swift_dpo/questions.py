"""The prompts that are answered at each evaluation."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from swift_core.data.faults import Faults
from swift_core.data.sources import find_inputs
from swift_core.data.values import described
from swift_dpo.judges import Question

if TYPE_CHECKING:
    from swift_core.arguments import TrainingArguments
    from swift_core.data.dataset import TaskData

SAMPLES = 4
SAMPLES_JUDGED = 64


def questions_of(args: TrainingArguments, data: TaskData | None) -> list[Question]:
    """Prompts of the file that ``eval_prompts`` names, else of the evaluation rows: each once, some of them.

    Raises:
        UserError: the file can't be read, or a row has no prompt.
    """
    task = args.task
    wanted = task.eval_samples
    if wanted is None:
        wanted = SAMPLES if task.judge is None else SAMPLES_JUDGED
    if wanted == 0:
        return []
    if task.eval_prompts is not None:
        found = _distinct(read_prompts(task.eval_prompts, args))
    else:
        found = _distinct([] if data is None else data.records)
    if len(found) <= wanted:
        return found
    drawn = sorted(random.Random(task.eval_seed).sample(range(len(found)), wanted))
    return [found[n] for n in drawn]


def read_prompts(name: str, args: TrainingArguments) -> list[Mapping[str, Any]]:
    """All rows of a file, each with a ``prompt`` that is a text or messages.

    Raises:
        UserError: it can't be read, a row has no such prompt, or there is no row; all faults at once.
    """
    faults, digest = Faults(), hashlib.sha256()
    rows: list[Mapping[str, Any]] = []
    for entry in find_inputs(name, name="eval", split="test", config=None, spec=args.spec):
        for place, row in entry.read(digest, faults):
            if not is_prompt(row.get("prompt")):
                faults.add(
                    f"{place}: prompt: expected a text, or messages that have role and content and end with "
                    f"one that is not the assistant's, found {described(row.get('prompt'))}"
                )
            rows.append(row)
    if not rows and not faults.total:
        faults.add(f"eval_prompts: {name} holds no rows")
    faults.raise_if_any()
    return rows


def is_prompt(value: Any) -> bool:
    """Whether ``value`` is something that a model can be asked."""
    if isinstance(value, str):
        return bool(value.strip())
    if not isinstance(value, list) or not value:
        return False
    told = all(
        isinstance(message, Mapping) and isinstance(message.get("role"), str) and "content" in message
        for message in value
    )
    return told and value[-1]["role"] != "assistant"


def _distinct(rows: Iterable[Mapping[str, Any]]) -> list[Question]:
    """The first row of each prompt: those with the same would count as independent, and they are not."""
    found: dict[str, Question] = {}
    for row in rows:
        key = json.dumps(row["prompt"], sort_keys=True, ensure_ascii=False, default=str)
        found.setdefault(key, Question(prompt=row["prompt"], row=dict(row)))
    return list(found.values())
