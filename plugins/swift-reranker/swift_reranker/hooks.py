"""The five hooks of the task type ``reranker``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from swift_core.hookspecs import Evaluation, LossOutput, hookimpl
from swift_reranker import collator as collating
from swift_reranker.groups import mean_of_rows, padded
from swift_reranker.model import build_model
from swift_reranker.objective import list_losses
from swift_reranker.scoring import pair_scores

if TYPE_CHECKING:
    from torch import Tensor, nn

    from swift_core.arguments import TrainingArguments
    from swift_core.data.dataset import TaskData
    from swift_core.runs.record import Run
    from swift_reranker.collator import RerankerCollator


@hookimpl
def make_model(args: TrainingArguments, collator: RerankerCollator) -> nn.Module:
    """transformers' own class, so that what is saved is keyed to the class that users load."""
    model: nn.Module = build_model(args, collator)
    return model


@hookimpl
def make_collator(args: TrainingArguments) -> RerankerCollator:
    """Tokenizer, lengths, template, and how pairs are scored."""
    return collating.make_collator(args)


@hookimpl
def compute_loss(model: nn.Module, batch: Mapping[str, Any], args: TrainingArguments) -> LossOutput:
    """The mean over lists of :func:`swift_reranker.objective.list_losses`."""
    scores = pair_scores(model, batch)  # [K]
    losses = list_losses(scores, batch, args.task)  # [S]
    return LossOutput(losses.mean(), {"score_spread": _spread(scores.detach(), batch["group"])})


def _spread(scores: Tensor, group: Tensor) -> Tensor:
    """Standard deviation of the scores of a list: near 0, the model tells documents not apart.

    Returns:
        [2]: the sum over lists of several documents, and how many they are; one document has no spread.
    """
    values, mask = padded(scores.float(), group)  # [S, M]
    centred = values - mean_of_rows(values, mask)[:, None]
    spread = mean_of_rows(centred.square(), mask).sqrt()  # [S], 0 for a list of one
    return torch.stack([spread.sum(), (mask.sum(1) > 1).sum().to(spread.dtype)])


@hookimpl
def evaluate(
    model: nn.Module, collator: RerankerCollator, data: TaskData | None, args: TrainingArguments
) -> Evaluation:
    """See :mod:`swift_reranker.evaluation`."""
    from swift_reranker.evaluation import evaluate_model

    return evaluate_model(model, collator, data, args)


@hookimpl
def export(
    model: nn.Module,
    collator: RerankerCollator,
    format: str,
    folder: Path,
    args: TrainingArguments,
    run: Run,
) -> Mapping[str, Any]:
    """Write a folder that transformers and CrossEncoder load, or an ONNX graph."""
    from swift_reranker.exports import WRITERS

    written: Mapping[str, Any] = WRITERS[format](folder, model, collator, args, run)
    return written
