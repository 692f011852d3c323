"""The five hooks of the task types of this package; they differ in their loss and in what it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift_core.hookspecs import Evaluation, LossOutput, hookimpl
from swift_dpo import collator as collating
from swift_dpo import objectives
from swift_dpo.model import build_model, reference_of, running_of
from swift_dpo.requirements import check_options
from swift_dpo.scoring import answer_scores

if TYPE_CHECKING:
    from torch import nn

    from swift_core.arguments import TrainingArguments
    from swift_core.data.dataset import TaskData
    from swift_core.runs.record import Run
    from swift_dpo.collator import PreferenceCollator

Objective = Callable[..., LossOutput]


@dataclass(frozen=True)
class PreferenceTask:
    """Hooks of one task type.

    Attributes:
        objective: one of :mod:`swift_dpo.objectives`.
        single: answers are judged one by one, not in pairs.
        remembers: the objective takes what a run remembers of earlier batches.
    """

    objective: Objective
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
        check_options(args)
        pairs: collating.Kind = "likelihood" if args.task.needs_token_counts else "pairs"
        return collating.make_collator(
            args,
            kind="answers" if self.single else pairs,
            ld_alpha=getattr(args.task, "ld_alpha", None),
            with_unrelated=getattr(args.task, "needs_unrelated", False),
        )

    @hookimpl
    def compute_loss(self, model: nn.Module, batch: Mapping[str, Any], args: TrainingArguments) -> LossOutput:
        """The task's objective, on figures of whole answers under policy and reference."""
        reference = reference_of(model)
        # First, so that what both hold in memory is never there at the same time.
        known = None if reference is None else reference.logps(model, batch)
        found = answer_scores(model, batch, confidence=getattr(args.task, "needs_confidence", False))
        answers = replace(found, reference=known)
        if self.remembers:
            return self.objective(answers, batch, args.task, running=running_of(model))
        return self.objective(answers, batch, args.task)

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

        return evaluate_model(model, collator, data, args, self.objective)

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
        from swift_dpo.exports import WRITERS

        written: Mapping[str, Any] = WRITERS[format](folder, model, collator, data, args, run)
        return written


DPO = PreferenceTask(objectives.dpo_loss, remembers=True)
CPO = PreferenceTask(objectives.cpo_loss)
SIMPO = PreferenceTask(objectives.simpo_loss)
ORPO = PreferenceTask(objectives.orpo_loss)
KTO = PreferenceTask(objectives.kto_loss, single=True)
