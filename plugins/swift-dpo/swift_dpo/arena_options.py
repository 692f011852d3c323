"""Options of evaluation by generation: prompts that are answered, and who judges the answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt

from swift_core.spec import option

ENDPOINT_OPTIONS = (
    "judge_model",
    "judge_template",
    "judge_api_key_variable",
    "judge_api_key_file",
    "judge_timeout_seconds",
    "judge_concurrency",
)
"""Options that say how an endpoint is asked; they tell nothing of the model."""


@dataclass(frozen=True, kw_only=True)
class ArenaOptions:
    """What is answered at each evaluation, and how the answers are judged against the reference's."""

    eval_prompts: str | None = option(
        None,
        help="File whose rows have a prompt (a text or messages), answered at each evaluation beside "
        "eval_dataset; other columns are handed to the judge. Default: the prompts of eval_dataset.",
        evaluation_input="path",
    )
    eval_samples: Annotated[int, Ge(0)] | None = option(
        None,
        help="How many of these prompts are answered, drawn with eval_seed; 0: none. Default: 64 with a "
        "judge, else 4.",
    )
    eval_max_new_tokens: Annotated[int, Gt(0)] = option(
        128, help="Longest answer in an evaluation, in tokens."
    )
    eval_temperature: Annotated[float, Ge(0)] = option(
        0.0, help="Temperature of answers in an evaluation; 0: the likeliest token always."
    )
    eval_prompts_at_once: Annotated[int, Gt(0)] = option(
        32, help="How many prompts are answered at once; fewer take less memory and more time."
    )
    eval_seed: int = option(
        0, help="Seed of the draw of prompts, of answers and of the interval of elo_gain."
    )
    judge: str | None = option(
        None,
        help="Who judges answers against those of the reference: module:function or file.py:function, taking "
        "(prompt, answer, row) and returning a score, or (prompt, a, b, row) and returning a number above 0 "
        "where a is better; a reward model (folder or hub id); or the URL of an OpenAI-compatible endpoint, "
        "such as http://localhost:8000/v1.",
    )
    judge_model: str | None = option(None, help="Name of the judge's model at the endpoint.")
    judge_template: str | None = option(
        None, help="File with what the endpoint is asked, with {prompt}, {a} and {b}; default: in English."
    )
    judge_api_key_variable: str | None = option(
        None, help="Name of the environment variable that holds the endpoint's API key; never the key itself."
    )
    judge_api_key_file: str | None = option(
        None, help="File that holds the endpoint's API key and nothing else."
    )
    judge_timeout_seconds: Annotated[float, Gt(0)] | None = option(
        None, help="Longest wait for one reply of the endpoint. Default: 60."
    )
    judge_concurrency: Annotated[int, Gt(0)] | None = option(
        None, help="Requests to the endpoint at once. Default: 8."
    )
