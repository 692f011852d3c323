"""All answers of a data set under policy and reference, as one batch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather_object, send_to_device
from torch import Tensor, nn
from tqdm import tqdm

from swift_core.batching import pack
from swift_core.flat.processes import rank_and_world
from swift_dpo.answers import Answers
from swift_dpo.model import memory_of
from swift_dpo.scoring import answer_scores, token_budget

if TYPE_CHECKING:
    import datasets

    from swift_dpo.collator import PreferenceCollator

_OF_PAIRS = ("margin", "pair_weight")
_OF_ANSWERS = ("tokens", "scores")


@dataclass(frozen=True)
class Scored:
    """Answers of several rows, and what an objective reads of their batch."""

    rows: list[int]
    answers: Answers
    batch: Mapping[str, Any]


def score_data(
    model: nn.Module,
    collator: PreferenceCollator,
    features: datasets.Dataset,
    *,
    compares: bool,
    confidence: bool = False,
    progress: bool = False,
) -> Scored:
    """Run policy and reference over a data set, in batches of some thousand tokens.

    Under torch.distributed the batches are shared out, and every process gets all figures.

    Args:
        model: the policy, with its reference.
        collator: makes batches of ``features``.
        features: rows as it encodes them.
        compares: also give the reference's figures.
        confidence: also give :attr:`Answers.confidence`.
        progress: whether to show a bar on a terminal.
    """
    device = next(model.parameters()).device
    lengths = features["length"]
    order = sorted(range(len(features)), key=lambda row: -lengths[row])
    batches = pack(order, lengths, token_budget(model))
    rank, world = rank_and_world()
    shown = progress and rank == 0 and sys.stderr.isatty()
    parts: dict[int, Scored] = {}
    with tqdm(total=len(order), desc="evaluating", unit="row", leave=False, disable=not shown) as bar:
        for start in range(0, len(batches), world):
            # A process without a batch of its own repeats one: FSDP gathers weights in each forward pass.
            number = min(start + rank, len(batches) - 1)
            rows = batches[number]
            batch = send_to_device(collator([features[row] for row in rows]), device)
            parts[number] = _score(model, rows, batch, compares, confidence)
            bar.update(sum(map(len, batches[start : start + world])))
    found = gather_object([parts]) if world > 1 else [parts]
    every = {number: part for some in found for number, part in some.items()}
    return _joined([every[number] for number in sorted(every)])


@torch.no_grad()
def _score(
    model: nn.Module, rows: list[int], batch: Mapping[str, Any], compares: bool, confidence: bool
) -> Scored:
    reference = memory_of(model).reference
    with reference.autocast(model):
        found = answer_scores(model, batch, confidence=confidence)
    values = {field.name: getattr(found, field.name) for field in fields(found)}
    values["reference"] = reference.logps(model, batch) if compares else None
    wanted = (*_OF_PAIRS, *_OF_ANSWERS, "violations", "better", "worse", "unrelated")
    cpu = {name: None if (value := batch[name]) is None else value.cpu() for name in wanted}
    cpu["num_items"] = batch["num_items"]
    on_cpu: Any = {name: None if value is None else value.cpu() for name, value in values.items()}
    answers = Answers(**on_cpu)
    return Scored(rows, answers, cpu)


def _joined(parts: Sequence[Scored]) -> Scored:
    """One batch of all: answers to other prompts come last, as in each part."""
    own = [len(part.batch["tokens"]) - _unrelated(part) for part in parts]
    starts = [sum(own[:number]) for number in range(len(own))]

    def of_answers(get: Callable[[Scored], Tensor | None]) -> Tensor | None:
        values = [get(part) for part in parts]
        if any(value is None for value in values):
            return None
        cut = [torch.split(v, [n, len(v) - n]) for v, n in zip(values, own, strict=True)]  # type: ignore[arg-type]
        return torch.cat([first for first, _ in cut] + [last for _, last in cut])

    answers = {f.name: of_answers(partial(_figure, name=f.name)) for f in fields(Answers)}
    batch: dict[str, Any] = {name: of_answers(partial(_column, name=name)) for name in _OF_ANSWERS}
    constrained = any(part.batch["violations"] is not None for part in parts)
    batch["violations"] = of_answers(_violations) if constrained else None
    for name in _OF_PAIRS:
        batch[name] = torch.cat([part.batch[name] for part in parts])
    for name in ("better", "worse"):
        batch[name] = torch.cat([part.batch[name] + start for part, start in zip(parts, starts, strict=True)])
    others = sum(map(_unrelated, parts))
    batch["unrelated"] = torch.arange(sum(own), sum(own) + others) if others else None
    counts = torch.tensor([part.batch["num_items"] for part in parts]).reshape(len(parts), -1).sum(0).tolist()
    batch["num_items"] = counts[0] if len(counts) == 1 else tuple(counts)
    return Scored([row for part in parts for row in part.rows], Answers(**answers), batch)  # type: ignore[arg-type]


def _figure(part: Scored, name: str) -> Tensor | None:
    found: Tensor | None = getattr(part.answers, name)
    return found


def _column(part: Scored, name: str) -> Tensor | None:
    found: Tensor | None = part.batch[name]
    return found


def _violations(part: Scored) -> Tensor:
    """Zeros where no row of a batch has any, as for one such row among others."""
    found = _column(part, "violations")
    return torch.zeros(len(part.batch["tokens"])) if found is None else found


def _unrelated(part: Scored) -> int:
    places = part.batch["unrelated"]
    return 0 if places is None else len(places)
