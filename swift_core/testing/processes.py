"""Checks that need other processes: two that train together (gloo), and a new one that loads what was saved.

One process is started for all of them; it imports the libraries, forks the two, and does the rest itself.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from typing import Any

from safetensors.torch import load_file

from swift_core.testing.comparing import different_figures, shown
from swift_core.testing.gradients import (
    compare_gradients,
    gradient_trainer,
    refuse_batch_loss,
    whole_gradient,
)
from swift_core.testing.outcomes import ConformanceError, NotApplicable
from swift_core.testing.subject import Subject, figures_of

_TIMEOUT_SECONDS = 500


def fresh_results(subject: Subject) -> dict[str, Any]:
    """What other processes found; they run once for a subject.

    Returns:
        ``reloaded``: the figures of the saved run, or what went wrong; ``ranks``: figures and losses of each
        of the two processes, or what went wrong. Their gradient is in ``gradient.safetensors``.
    """
    path = subject.folder / "fresh" / "results.json"
    if not path.exists():
        _start(subject)
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return results


def _start(subject: Subject) -> None:
    folder = subject.folder / "fresh"
    folder.mkdir(parents=True, exist_ok=True)
    job = {
        "task_type": subject.task_type,
        "rows": list(subject.rows),
        "options": dict(subject.options),
        "eval_rows": None if subject.eval_rows is None else list(subject.eval_rows),
        "batch_loss": subject.batch_loss,
        "steps": subject.steps,
        "run": str(subject.trained.folder),
        "port": _free_port(),
    }
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "swift_core.testing.worker", str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_SECONDS,
        check=False,
    )
    if done.returncode:
        raise ConformanceError(
            expected="a new process that can train and measure",
            found=(done.stderr.strip().split("\n") or [""])[-1],
            remedy=f"type `{sys.executable} -m swift_core.testing.worker {folder}` to see all of it",
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _ranks(subject: Subject) -> list[dict[str, Any]]:
    ranks = fresh_results(subject)["ranks"]
    if isinstance(ranks, str):
        raise ConformanceError(
            expected="two processes that train and evaluate together",
            found=ranks,
            remedy="give every process the same work in `evaluate`, and every weight a gradient "
            "(requires_grad_(False) for those that take no part)",
        )
    return list(ranks)


def two_processes_keep_the_gradient(subject: Subject) -> None:
    """Two processes with two rows each have the gradient of one batch of four."""
    refuse_batch_loss(subject)
    whole, loss = whole_gradient(subject)
    ranks = _ranks(subject)
    cut = load_file(subject.folder / "fresh" / "gradient.safetensors")
    compare_gradients(whole, cut, loss, ranks[0]["losses"], "two processes with two rows each")


def two_processes_measure_the_same(subject: Subject) -> None:
    """Every one of two processes gets the figures that one process gets, before any training."""
    trainer, _ = gradient_trainer(subject, 2)
    if trainer.eval_data is None and not trainer.options.evaluates:
        raise NotApplicable("there is nothing to evaluate on: neither eval_rows nor an option that names it")
    ranks = _ranks(subject)
    alone = figures_of(trainer.evaluate())
    for rank, found in enumerate(ranks):
        wrong = different_figures(alone, found["figures"])
        if wrong:
            raise ConformanceError(
                expected="each of two processes to measure what one measures alone",
                found=f"on process {rank}: {shown(wrong)}",
                remedy="let `evaluate` look at all rows on every process, or gather what each has found",
            )
