"""Mistakes of a user: each ends with exit code 2, without a traceback, in a sentence that says what to do.

Exit code 1 is for what was right and failed: a disk, a damaged checkpoint, a training that diverged.
"""

from __future__ import annotations

import shutil
import time
from typing import Any

import pytest

from .mistakes.data import DATA
from .mistakes.making import Wrong
from .mistakes.models import MODELS
from .mistakes.options import COMMANDS, OPTIONS, RUN_FILES
from .mistakes.runs import RUNS


def cases(**tables: list[Wrong]) -> list[Any]:
    """The rows of the tables, each with a name of its own."""
    return [
        pytest.param(case, id=f"{table}-{case.name}") for table, entries in tables.items() for case in entries
    ]


@pytest.mark.parametrize(
    "case",
    cases(command=COMMANDS, option=OPTIONS, runfile=RUN_FILES, model=MODELS, data=DATA, run=RUNS),
)
def test_a_mistake_is_a_sentence(case: Wrong, project, request, cli, asked):
    if case in RUNS:
        shutil.copytree(request.getfixturevalue("trained_run"), project / "R")
    if case.build is not None:
        case.build(project)
    started = time.perf_counter()
    done = cli(case.command)
    assert done.code == case.code, done.err
    assert case.says.lower() in done.err.lower(), done.err
    assert done.err.startswith("swift: ") and "Traceback" not in done.err, done.err
    assert not asked, f"asked the network for {asked}"
    assert time.perf_counter() - started < 10


def test_the_names_of_the_cases_differ():
    names = [case.id for case in cases(a=COMMANDS, b=OPTIONS, c=RUN_FILES, d=MODELS, e=DATA, f=RUNS)]
    assert len(set(names)) == len(names) >= 60
