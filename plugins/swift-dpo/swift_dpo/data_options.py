"""Options that say which rows are used, and how long they may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from swift_core.spec import option

Overlong = Literal["error", "drop", "truncate_prompt", "truncate_answer"]
PairChoice = Literal["all", "best_worst", "neighbours"]


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """What is done with rows of preferences before they are trained on."""

    overlong: Overlong = option(
        "error",
        help="Rows longer than max_length: refuse them, leave them out, cut prompts on the left (what the "
        "chat template opens with stays), or cut answers on the right.",
    )
    max_prompt_length: Annotated[int, Gt(0)] | None = option(
        None, help="Prompts are cut on the left to so many tokens; default: never."
    )
    max_bad_rows: Annotated[float, Ge(0), Le(1)] = option(
        0.01,
        help="Share of rows that may have identical, contradictory, empty or equally good answers; more are "
        "an error.",
    )
    pairs: PairChoice = option(
        "all",
        help="Which of more than two answers make pairs: all with different scores, the best with the worst, "
        "or neighbours in the order of scores.",
    )
    chat_template: str | None = option(
        None, help="File with a chat template to use instead of that of the model, which may have none."
    )
