"""Benchmarks as commands."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from swift_core.testing.forks import run_forked

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def run_benchmarks() -> Callable[..., str]:
    """Run benchmarks, each a list of arguments, one after the other; what they print."""

    def run(*commands: list[str]) -> str:
        done = run_forked(
            str(Path(__file__).with_name("one_after_another.py")),
            json.dumps(commands),
            folder=ROOT,
            environment={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)},
            timeout=500,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run
