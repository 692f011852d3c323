"""The prompts that are answered at each evaluation."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from swift_core.data.faults import Faults
from swift_core.data.sources import find_inputs
from swift_core.data.values import described
from swift_core.errors import UserError
from swift_dpo.conversions import tools_of
from swift_dpo.generation import Prompt, no_room
from swift_dpo.judges import Question

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from swift_core.arguments import TrainingArguments
    from swift_core.data.dataset import TaskData

Render: TypeAlias = Callable[["PreTrainedTokenizerBase", Prompt, Any], list[int]]
"""From a prompt and its tools to the token ids before an answer."""

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
    """All rows of a file, each with a ``prompt`` that is a text or messages; ``tools`` as a list.

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
            try:
                rows.append({**row, "tools": tools_of(row["tools"])} if "tools" in row else row)
            except ValueError as error:
                faults.add(f"{place}: {error}")
    if not rows and not faults.total:
        faults.add(f"eval_prompts: {name} holds no rows")
    faults.raise_if_any()
    return rows


def written(
    questions: Sequence[Question],
    tokenizer: PreTrainedTokenizerBase,
    render: Render,
    *,
    limit: int | None = None,
) -> list[list[int]]:
    """Token ids of each prompt.

    Args:
        questions: the prompts.
        tokenizer: of the model.
        render: writes one.
        limit: how many tokens the model reads, answer included; None: as many as there are.

    Raises:
        UserError: a prompt can't be written, or leaves no room for an answer; all faults at once.
    """
    found: list[list[int]] = []
    faults: list[str] = []
    for question in questions:
        shown = f"({question.prompt!r:.100})"
        try:
            ids = render(tokenizer, question.prompt, question.row.get("tools"))
        except ValueError as error:
            faults.append(f"eval_prompts: {error} {shown}")
            continue
        if limit is not None and len(ids) >= limit:
            faults.append(f"eval_prompts: {no_room(len(ids), limit)} {shown}")
        found.append(ids)
    if faults:
        raise UserError(*faults[:20], total=len(faults))
    return found


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
