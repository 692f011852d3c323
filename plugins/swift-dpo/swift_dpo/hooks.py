"""The five hooks of the task types of this package; they differ in their loss and in what it needs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from swift_core.errors import UserError
from swift_core.flat.processes import is_first_process
from swift_core.hookspecs import Evaluation, LossOutput, hookimpl
from swift_dpo import collator as collating
from swift_dpo import objectives
from swift_dpo.exports import WRITERS, format_faults
from swift_dpo.model import build_model, memory_of
from swift_dpo.requirements import (
    cpo_column_faults,
    cpo_faults,
    dpo_column_faults,
    dpo_faults,
    kto_column_faults,
    kto_faults,
    orpo_column_faults,
    simpo_column_faults,
    sync_faults,
)
from swift_dpo.scoring import answer_scores

if TYPE_CHECKING:
    from torch import nn

    from swift_core.arguments import TrainingArguments
    from swift_core.data.dataset import TaskData
    from swift_core.runs.record import Run
    from swift_dpo.collator import PreferenceCollator

Objective = Callable[..., LossOutput]
Faults = Callable[[Any, Collection[str]], Collection[str]]


@dataclass(frozen=True)
class PreferenceTask:
    """Hooks of one task type.

    Attributes:
        objective: one of :mod:`swift_dpo.objectives`.
        faults: tells of options that the chosen loss does not read, of which some were given.
        column_faults: the same of optional columns of the data.
        compares: the policy is compared with a reference.
        single: answers are judged one by one, not in pairs.
        remembers: the objective takes what a run remembers of earlier batches.
    """

    objective: Objective
    faults: Faults
    column_faults: Faults
    compares: bool = False
    single: bool = False
    remembers: bool = False

    @hookimpl
    def make_model(self, args: TrainingArguments) -> nn.Module:
        """transformers' own class, so that what is saved is keyed to the class that users load."""
        model: nn.Module = build_model(args)
        return model

    @hookimpl
    def make_collator(self, args: TrainingArguments) -> PreferenceCollator:
        """Tokenizer and chat template, lengths, pairs."""
        faults = [*self.faults(args.task, args.given), *sync_faults(args), *format_faults(args)]
        if faults:
            raise UserError(*faults)
        pairs: collating.Kind = "likelihood" if args.task.needs_token_counts else "pairs"
        return collating.make_collator(
            args,
            kind="answers" if self.single else pairs,
            ld_alpha=getattr(args.task, "ld_alpha", None),
            with_unrelated=getattr(args.task, "needs_unrelated", False),
            column_faults=self.column_faults,
        )

    @hookimpl
    def compute_loss(self, model: nn.Module, batch: Mapping[str, Any], args: TrainingArguments) -> LossOutput:
        """The task's objective, on figures of whole answers under policy and reference."""
        memory = memory_of(model)
        # What a saved model is checked by must not hang on what came before.
        trains = torch.is_grad_enabled()
        # First, so that what both hold in memory is never there at the same time.
        known = memory.reference.logps(model, batch, at_start=not trains) if self.compares else None
        found = answer_scores(model, batch, confidence=getattr(args.task, "needs_confidence", False))
        answers = replace(found, reference=known)
        if self.remembers:
            running = memory.running if trains else None
            output = self.objective(answers, batch, args.task, running=running)
        else:
            output = self.objective(answers, batch, args.task)
        told = memory.alarm.heard(output.metrics) if trains and self.compares else None
        if told and is_first_process():
            print(f"alarm     {told}", flush=True)
        return output

    @hookimpl
    def evaluate(
        self,
        model: nn.Module,
        collator: PreferenceCollator,
        data: TaskData | None,
        args: TrainingArguments,
    ) -> Evaluation:
        """See :mod:`swift_dpo.evaluation`."""
        from swift_dpo.evaluation import evaluate_model

        return evaluate_model(model, collator, data, args, self)

    @hookimpl
    def export(
        self,
        model: nn.Module,
        collator: PreferenceCollator,
        format: str,
        folder: Path,
        data: TaskData | None,
        args: TrainingArguments,
        run: Run,
    ) -> Mapping[str, Any]:
        """Write a folder that transformers loads, or the adapter."""
        written: Mapping[str, Any] = WRITERS[format](folder, model, collator, data, args, run)
        return written


def _no_faults(_: Any, __: Collection[str]) -> Collection[str]:
    return ()


DPO = PreferenceTask(objectives.dpo_loss, dpo_faults, dpo_column_faults, compares=True, remembers=True)
CPO = PreferenceTask(objectives.cpo_loss, cpo_faults, cpo_column_faults)
SIMPO = PreferenceTask(objectives.simpo_loss, _no_faults, simpo_column_faults)
ORPO = PreferenceTask(objectives.orpo_loss, _no_faults, orpo_column_faults)
KTO = PreferenceTask(objectives.kto_loss, kto_faults, kto_column_faults, compares=True, single=True)
