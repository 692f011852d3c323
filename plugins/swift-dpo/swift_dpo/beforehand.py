"""What options name beside the data (reference, judge, prompts), looked up before anything is trained."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from swift_core.data.all_faults import all_of
from swift_core.errors import UserError
from swift_core.model_folders import load_config, position_limit
from swift_core.models import load_tokenizer

if TYPE_CHECKING:
    from swift_core.arguments import TrainingArguments
    from swift_dpo.collator import PreferenceCollator
    from swift_dpo.tokens import Tokens

_OF_EVALUATIONS = ("eval_prompts", "judge")


def check_beforehand(args: TrainingArguments, collator: PreferenceCollator, *, evaluates: bool) -> None:
    """Refuse what would stop a run at its first step, or at an evaluation after hours.

    Args:
        args: of the run.
        collator: of its model.
        evaluates: whether there is evaluation data.

    Raises:
        UserError: reference, judge or prompts can't be used; all faults at once.
    """
    of_evaluations = partial(_check_arena, args, collator) if evaluates else partial(_refuse_useless, args)
    all_of([partial(_check_reference, args, collator.tokens), of_evaluations])


def _check_arena(args: TrainingArguments, collator: PreferenceCollator) -> None:
    # Loads what makes and judges answers.
    from swift_dpo.arena import check_arena
    from swift_dpo.questions import written

    limit = position_limit(load_config(args).get_text_config())
    render = collator.render(args)
    check_arena(args, partial(written, tokenizer=collator.tokenizer, render=render, limit=limit))


def _refuse_useless(args: TrainingArguments) -> None:
    # Loads what judges answers.
    from swift_dpo.judge_making import check_endpoint_options

    all_of([partial(_refuse_named, args), partial(check_endpoint_options, args.task)])


def _refuse_named(args: TrainingArguments) -> None:
    useless = [name for name in _OF_EVALUATIONS if getattr(args.task, name) is not None]
    if useless:
        raise UserError(
            *(
                f"{name}: is used at evaluations, and there is no evaluation data; set eval_dataset or "
                "eval_split, or leave it out"
                for name in useless
            )
        )


def _check_reference(args: TrainingArguments, tokens: Tokens) -> None:
    """Refuse a reference that is not there, or that other token ids mean other words to, or nothing."""
    name = getattr(args.task, "reference", None)
    if name is None:
        return
    other = args.with_merged_model(name)
    try:
        size = getattr(load_config(other).get_text_config(), "vocab_size", None)
    except UserError as error:
        raise UserError(
            *(fault.replace("model_name_or_path", "reference") for fault in error.faults)
        ) from error
    own = tokens.tokenizer.get_vocab()
    # Ids that the model does not know either are told when a row has one.
    highest = max(n for n in own.values() if tokens.vocabulary is None or n < tokens.vocabulary)
    if size is not None and highest >= size:
        raise UserError(
            f"reference: {name} knows {size:,} token ids, and the model's tokenizer has ids up to "
            f"{highest:,}; choose a model with the same tokenizer"
        )
    try:
        ids = load_tokenizer(other).get_vocab()
    except UserError:  # its weights may lie alone
        return
    changed = next((token for token, n in own.items() if ids.get(token, n) != n), None)
    if changed is not None:
        raise UserError(
            f"reference: {name} has another tokenizer than the model ({changed!r} has the id {ids[changed]} "
            f"there and {own[changed]} here); choose a model with the same one"
        )
