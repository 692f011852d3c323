"""What options name beside the data (reference, judge, prompts), looked up before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from swift_core.errors import UserError
from swift_core.model_folders import load_config
from swift_core.models import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from swift_core.arguments import TrainingArguments

_OF_EVALUATIONS = ("eval_prompts", "judge")


def faults_beforehand(
    args: TrainingArguments, tokenizer: PreTrainedTokenizerBase, *, evaluates: bool
) -> list[str]:
    """All that would stop a run at its first step, or at an evaluation after hours.

    Args:
        args: of the run.
        tokenizer: of its model.
        evaluates: whether there is evaluation data.
    """
    faults = _faults_of(lambda: _check_reference(args, tokenizer))
    if evaluates:
        # They load what reads answers, which most checks need not.
        from swift_dpo.judge_making import check_judge
        from swift_dpo.questions import questions_of

        faults += _faults_of(lambda: check_judge(args))
        if args.task.eval_prompts is not None:
            faults += _faults_of(lambda: questions_of(args, None))
        return faults
    return faults + [
        f"{name}: is used at evaluations, and there is no evaluation data; set eval_dataset or eval_split, "
        "or leave it out"
        for name in _OF_EVALUATIONS
        if getattr(args.task, name) is not None
    ]


def _faults_of(check: Callable[[], object]) -> list[str]:
    try:
        check()
    except UserError as error:
        return list(error.faults)
    return []


def _check_reference(args: TrainingArguments, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a reference that is not there, or that other token ids mean other words to."""
    name = getattr(args.task, "reference", None)
    if name is None:
        return
    other = args.with_merged_model(name)
    try:
        load_config(other)
    except UserError as error:
        raise UserError(
            *(fault.replace("model_name_or_path", "reference") for fault in error.faults)
        ) from error
    try:
        ids = load_tokenizer(other).get_vocab()
    except UserError:  # its weights may lie alone
        return
    changed = next((token for token, n in tokenizer.get_vocab().items() if ids.get(token, n) != n), None)
    if changed is not None:
        raise UserError(
            f"reference: {name} has another tokenizer than the model ({changed!r} has the id {ids[changed]} "
            f"there and {tokenizer.get_vocab()[changed]} here); choose a model with the same one"
        )
