"""The judge that the options describe."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from swift_core.errors import UserError, first_line
from swift_dpo.arena_options import ENDPOINT_OPTIONS
from swift_dpo.endpoint import CONCURRENCY, PLACES, TEMPLATE, TIMEOUT_SECONDS, Endpoint
from swift_dpo.functions import is_function
from swift_dpo.judges import ComparingJudge, Judge, ScoringJudge, function_judge

if TYPE_CHECKING:
    from swift_core.arguments import TrainingArguments


def make_judge(args: TrainingArguments) -> Judge | None:
    """The judge of the run; None where no option names one.

    Raises:
        UserError: options contradict each other, or what they name can't be used.
    """
    task = args.task
    check_endpoint_options(task)
    name = task.judge
    if name is None:
        return None
    if _is_url(name):
        return ComparingJudge(_endpoint(task))
    if is_function(name):
        return function_judge(name)
    # Loads transformers' classes, which no other judge needs.
    from swift_dpo.reward_model import reward_model

    return ScoringJudge(reward_model(name, args))


def check_judge(args: TrainingArguments) -> None:
    """Refuse a judge that can't be used before anything is trained; a reward model is looked for, not loaded.

    Raises:
        UserError: see :func:`make_judge`.
    """
    name = args.task.judge
    if name is None or _is_url(name) or is_function(name):
        make_judge(args)
        return
    check_endpoint_options(args.task)
    from swift_dpo.reward_model import folder_of

    folder_of(name, args)


def _is_url(name: str | None) -> bool:
    return name is not None and re.match(r"https?://", name, re.IGNORECASE) is not None


def check_endpoint_options(task: Any) -> None:
    """Refuse options of endpoints where none is asked.

    Raises:
        UserError: one was given.
    """
    if _is_url(task.judge):
        return
    found = "no judge" if task.judge is None else f"judge={task.judge}"
    given = [option for option in ENDPOINT_OPTIONS if getattr(task, option) is not None]
    if given:
        raise UserError(
            *(
                f"{option}: has no effect with {found}; remove it, or name the URL of an endpoint as judge"
                for option in given
            )
        )


def _endpoint(task: Any) -> Endpoint:
    faults: list[str] = []
    if not _is_plain(task.judge):
        # Not quoted: what stands there may be a password.
        faults.append(
            "judge: expected an address without user and password, such as http://localhost:8000/v1, found "
            "another one; give the key by judge_api_key_variable or judge_api_key_file"
        )
    if task.judge_model is None:
        faults.append("judge_model: an endpoint must be told which model to ask; name it")
    if task.judge_api_key_variable is not None and task.judge_api_key_file is not None:
        faults.append("judge_api_key_variable and judge_api_key_file: give one of them")
    template, key = _template(task.judge_template, faults), _api_key(task, faults)
    if faults:
        raise UserError(*faults)
    return Endpoint(
        url=task.judge,
        model=task.judge_model,
        template=template,
        api_key=key,
        timeout_seconds=task.judge_timeout_seconds or TIMEOUT_SECONDS,
        concurrency=task.judge_concurrency or CONCURRENCY,
    )


def _is_plain(url: str) -> bool:
    """Whether an address names a host, perhaps with a port, and nobody's name: requests can't send that."""
    try:
        parts = urlsplit(url)
        # A password with a slash in it is read as a port, which then is no number.
        return parts.port != 0 and "@" not in parts.netloc
    except ValueError:
        return False


def _template(name: str | None, faults: list[str]) -> str:
    if name is None:
        return TEMPLATE
    text = _text_of(name, "judge_template", faults)
    missing = [f"{{{place}}}" for place in PLACES if text is not None and f"{{{place}}}" not in text]
    if missing:
        faults.append(f"judge_template: {name} lacks {', '.join(missing)}, where request and answers stand")
    return text or TEMPLATE


def _api_key(task: Any, faults: list[str]) -> str | None:
    """The key, which no fault may tell; nor the name of a variable, which may be a key by mistake."""
    variable = task.judge_api_key_variable
    if variable is not None:
        key = os.environ.get(variable, "").strip()
        if not key:
            faults.append(
                "judge_api_key_variable: expected the name of an environment variable that holds the key, "
                "found one that is not set or empty (give the name of a variable, never the key)"
            )
    elif task.judge_api_key_file is not None:
        key = (_text_of(task.judge_api_key_file, "judge_api_key_file", faults) or "").strip()
        if not faults and not key:
            faults.append(f"judge_api_key_file: {task.judge_api_key_file} is empty")
    else:
        return None
    if not key.isprintable() or not key.isascii() or " " in key:
        faults.append(
            "judge_api_key_variable or judge_api_key_file: expected one key in ASCII without spaces"
        )
    return key


def _text_of(name: str, option: str, faults: list[str]) -> str | None:
    try:
        return Path(name).expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        faults.append(f"{option}: {name} can't be read ({first_line(error)})")
        return None
