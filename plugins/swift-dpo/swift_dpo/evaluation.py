"""Figures of held-out preferences: how the policy ranks answers that it did not learn from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from scipy.stats import rankdata
from torch import Tensor, nn

from swift_core.hookspecs import Evaluation
from swift_dpo.arena import make_arena
from swift_dpo.held_out import Scored, score_data
from swift_dpo.model import memory_of

if TYPE_CHECKING:
    from swift_core.arguments import TrainingArguments
    from swift_core.data.dataset import TaskData
    from swift_dpo.collator import PreferenceCollator
    from swift_dpo.hooks import PreferenceTask


def evaluate_model(
    model: nn.Module,
    collator: PreferenceCollator,
    data: TaskData | None,
    args: TrainingArguments,
    task: PreferenceTask,
) -> Evaluation:
    """The objective's own figures over all rows as if they were one batch; and answers, perhaps judged."""
    metrics: dict[str, float] = {}
    tables: dict[str, Sequence[Mapping[str, Any]]] = {}
    if data is not None and data.features is not None:
        found = score_data(
            model,
            collator,
            data.features,
            compares=task.compares,
            confidence=getattr(args.task, "needs_confidence", False),
            progress=args.shows_progress,
        )
        output = task.objective(found.answers, found.batch, args.task)
        metrics = {"loss": float(output.loss.sum()), **dict(_means(output.metrics))}
        if task.single:
            metrics["auc"] = _auc(found)
        else:
            tables["pairs"] = list(_pairs(found, data))
    memory = memory_of(model)
    rows = None if data is None else data.fingerprint
    if rows not in memory.arenas:
        memory.arenas[rows] = make_arena(
            args, collator.tokenizer, data, collator.render(args), memory.reference.autocast
        )
    answered = memory.arenas[rows].evaluate(model, lambda: memory.reference.borrowed(model))
    return Evaluation({**metrics, **answered.metrics}, {**tables, **answered.tables})


def _means(figures: Mapping[str, Tensor | float]) -> Iterator[tuple[str, float]]:
    for name, value in figures.items():
        numbers = torch.as_tensor(value).reshape(-1).tolist()
        if len(numbers) == 1:
            yield name, numbers[0]
        elif numbers[1]:
            yield name, numbers[0] / numbers[1]


def _auc(found: Scored) -> float:
    """How often a desirable answer has more reward than an undesirable one; ties count half."""
    unrelated = found.batch["unrelated"]
    own = len(found.answers.logps) - (0 if unrelated is None else len(unrelated))
    rewards = found.answers.logps
    if found.answers.reference is not None:
        rewards = rewards - found.answers.reference
    desirable = (found.batch["scores"][:own] > 0).numpy()
    good, bad = int(desirable.sum()), int((~desirable).sum())
    if not good or not bad:
        return float("nan")
    ranks = rankdata(rewards[:own].double().numpy())
    return float((ranks[desirable].sum() - good * (good + 1) / 2) / (good * bad))


def _pairs(found: Scored, data: TaskData) -> Iterator[dict[str, Any]]:
    """One row for each pair: its row of the data (from 0, without those left out), and figures of both."""
    answers = found.answers
    counts = [len(keys) for keys in data.features["keys"]]  # type: ignore[index]
    owners = [number for number in found.rows for _ in range(counts[number])]
    prompts = data.records["prompt"]
    for better, worse in zip(found.batch["better"].tolist(), found.batch["worse"].tolist(), strict=True):
        row: dict[str, Any] = {"row": owners[better], "prompt": prompts[owners[better]]}
        for side, place in (("chosen", better), ("rejected", worse)):
            row[f"logps_{side}"] = float(answers.logps[place])
            row[f"tokens_{side}"] = int(answers.tokens[place])
            if answers.reference is not None:
                row[f"reference_{side}"] = float(answers.reference[place])
        yield row
