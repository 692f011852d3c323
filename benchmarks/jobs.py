"""Work that is done once: each piece in a process of its own, each with a line in a file of results."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from benchmarks.machine import demo_model

Result = dict[str, Any]


class Keyed(Protocol):
    """A piece of work."""

    @property
    def key(self) -> Result:
        """What tells it from others, as JSON gives it back; part of its result."""


def in_turns(system: str, seeds: Sequence[int]) -> list[tuple[str, int]]:
    """Systems and seeds of a comparison; ``system`` is swift, peer or both.

    Who goes first changes, so that a machine that gets busier favours neither.
    """
    systems = ("swift", "peer") if system == "both" else (system,)
    return [
        (name, seed) for n, seed in enumerate(seeds) for name in (systems if n % 2 == 0 else systems[::-1])
    ]


def model_folder(text: str) -> Path:
    """The folder that an option names, or that of MiniLM for ``minilm``."""
    return demo_model() if text == "minilm" else Path(text).resolve()


def model_name(folder: Path) -> str:
    """What a model is called in the results."""
    return folder.parent.name if folder.name == "model" else folder.name


def run_jobs(
    jobs: Sequence[Any], do: Callable[[Any], Result], results: Path, line: Callable[[Result], str]
) -> list[Result]:
    """Do what is not in ``results`` yet, and give back all results of ``jobs``.

    Args:
        do: a function of a module, for it is called in another process.
        line: what is printed of a new result.
    """
    for job in jobs:
        if find_result(results, job) is None:
            # A fresh process: no allocator, cache or random state is left from the last training.
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                result = pool.submit(do, job).result()
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(result, ensure_ascii=False) + "\n")
            print(line(result), flush=True)
    return [found for job in jobs if (found := find_result(results, job)) is not None]


def find_result(results: Path, job: Keyed) -> Result | None:
    """The line of the results that is this job's, if it is there."""
    if not results.exists():
        return None
    lines: list[Result] = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    return next((line for line in lines if job.key.items() <= line.items()), None)
