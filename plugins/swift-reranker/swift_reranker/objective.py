"""Which loss a run has, which options it reads, and how it is called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from torch import Tensor

from swift_core.errors import UserError
from swift_reranker import losses, requirements

if TYPE_CHECKING:
    import datasets

    from swift_core.arguments import TrainingArguments
    from swift_reranker.options import LossName, RerankerOptions

USES: Mapping[LossName, frozenset[str]] = {
    "binary_cross_entropy": frozenset({"inbatch_negatives"}),
    "mean_squared_error": frozenset(),
    "softmax_cross_entropy": frozenset({"inbatch_negatives", "temperature"}),
    "ranknet": frozenset({"inbatch_negatives", "loss_depth"}),
    "lambda_loss": frozenset({"inbatch_negatives", "loss_depth", "weighting"}),
    "listnet": frozenset({"inbatch_negatives"}),
    "list_mle": frozenset(),
    "p_list_mle": frozenset(),
    "margin_mse": frozenset(),
    "kl_divergence": frozenset({"temperature", "teacher_temperature"}),
}
"""Options that a loss reads; one that the loss of a run does not read is refused."""


def loss_name(task: RerankerOptions, *, labelled: bool) -> LossName:
    """The loss of a run whose rows have labels, or only a teacher's scores."""
    return task.loss or ("binary_cross_entropy" if labelled else "margin_mse")


def check_training(records: datasets.Dataset, args: TrainingArguments) -> None:
    """Refuse a loss that the rows have nothing for, and options that nothing would read.

    Raises:
        UserError: all of them; or which loss it is can't be told from the rows.
    """
    task: RerankerOptions = args.task
    undecided = requirements.undecided(records) if task.loss is None else None
    if undecided is not None:
        # Which options have an effect, and what the data lacks, depends on the loss.
        raise UserError(undecided)
    name = loss_name(task, labelled=is_labelled(records))
    defaults = {field.name: field.default for field in fields(task)}
    faults = [
        f"{option}: has no effect with loss {name}; leave it out"
        for option in sorted(frozenset().union(*USES.values()) - USES[name])
        if getattr(task, option) != defaults[option]
    ]
    if task.eval_retrieval is None:
        faults += [
            f"{option}: has no effect without eval_retrieval; set that, or leave it out"
            for option in ("eval_retrieval_split", "first_stage", "first_stage_depth")
            if option in args.given
        ]
    size = args.trainer.per_device_train_batch_size
    if task.inbatch_negatives and size == 1:
        faults.append(
            "inbatch_negatives: each batch holds one list, so there are none; set "
            "per_device_train_batch_size to 2 or more"
        )
    found = requirements.check_training(records, name)
    if faults or found.faults:
        raise UserError(*faults, *found.faults)
    if args.trainer.process_index == 0:
        for warning in found.warnings:
            print(f"warning: {warning}", flush=True)


def is_labelled(records: datasets.Dataset) -> bool:
    """Whether rows have labels, or should have them; all have, or none, or the run names its loss."""
    return records[0]["labels"] is not None or records[0]["scores"] is None


def list_losses(scores: Tensor, batch: Mapping[str, Any], task: RerankerOptions) -> Tensor:
    """The loss of each list.

    Args:
        scores: [K] of all pairs.
        batch: as the collator makes it.
        task: names the loss and what it reads.

    Returns:
        [S] in float32.
    """
    labels, teacher, group = batch["labels"], batch["scores"], batch["group"]
    temperature = task.temperature or 1.0
    match loss_name(task, labelled=labels is not None):
        case "mean_squared_error":
            return losses.mean_squared_error(scores, labels, group)
        case "softmax_cross_entropy":
            return losses.softmax_cross_entropy(scores, labels, group, temperature=temperature)
        case "ranknet":
            return losses.ranknet(scores, labels, group, k=task.loss_depth)
        case "lambda_loss":
            weighting = task.weighting or "ndcg_loss2++"
            return losses.lambda_loss(scores, labels, group, weighting=weighting, k=task.loss_depth)
        case "listnet":
            return losses.listnet(scores, labels, group)
        case "list_mle":
            return losses.list_mle(scores, labels, group)
        case "p_list_mle":
            return losses.p_list_mle(scores, labels, group)
        case "margin_mse":
            return losses.margin_mse(scores, teacher, group)
        case "kl_divergence":
            return losses.kl_divergence(
                scores,
                teacher,
                group,
                temperature=temperature,
                teacher_temperature=task.teacher_temperature or 1.0,
            )
    return losses.binary_cross_entropy(scores, labels, group)
