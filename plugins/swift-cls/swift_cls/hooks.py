"""The five hooks of the task type ``sequence-classification``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift_cls import collator as collating
from swift_cls.model import build_model
from swift_cls.objective import row_losses
from swift_core.hookspecs import Evaluation, LossOutput, hookimpl

if TYPE_CHECKING:
    from torch import nn

    from swift_cls.collator import ClassificationCollator
    from swift_core.arguments import TrainingArguments
    from swift_core.data.dataset import TaskData
    from swift_core.runs.record import Run


@hookimpl
def make_model(args: TrainingArguments, collator: ClassificationCollator) -> nn.Module:
    """transformers' own classifier, so that what is saved is keyed to the class that users load."""
    model: nn.Module = build_model(args, collator)
    return model


@hookimpl
def make_collator(args: TrainingArguments) -> ClassificationCollator:
    """Tokenizer, lengths, and the labels as far as the model knows them."""
    return collating.make_collator(args)


@hookimpl
def compute_loss(
    model: nn.Module, batch: Mapping[str, Any], collator: ClassificationCollator, args: TrainingArguments
) -> LossOutput:
    """The mean over rows of :func:`swift_cls.objective.row_losses`."""
    logits = model(flat=batch["texts"], owner=batch["owner"])  # [S, C]
    labels, targets = collator.known_labels, batch["targets"]
    figures = {}
    if labels.problem == "single_label":
        figures["accuracy"] = (logits.detach().argmax(1) == targets).float().mean()
    return LossOutput(row_losses(logits, targets, args.task, labels).mean(), figures)


@hookimpl
def evaluate(
    model: nn.Module, collator: ClassificationCollator, data: TaskData | None, args: TrainingArguments
) -> Evaluation:
    """See :mod:`swift_cls.evaluation`."""
    from swift_cls.evaluation import evaluate_model

    return evaluate_model(model, collator, data, args)


@hookimpl
def export(
    model: nn.Module,
    collator: ClassificationCollator,
    format: str,
    folder: Path,
    data: TaskData | None,
    args: TrainingArguments,
    run: Run,
) -> Mapping[str, Any]:
    """Write a folder of transformers, or an ONNX graph."""
    from swift_cls.exports import WRITERS

    return WRITERS[format](folder, model, collator, args, run)
