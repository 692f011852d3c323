"""Checks that need other processes: two that train together (gloo), and a new one that loads what was saved.

They run once for all of these checks and find no task package imported.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from swift_core.testing.comparing import different_figures, shown
from swift_core.testing.forks import fork_context, places_of, wait_for_all
from swift_core.testing.gradients import (
    compare_gradients,
    gradient_trainer,
    refuse_batch_loss,
    whole_gradient,
)
from swift_core.testing.outcomes import ConformanceError, NotApplicable
from swift_core.testing.subject import Subject, figures_of
from swift_core.testing.worker import be_rank, measure_again

_PROCESSES = 2
_TIMEOUT_SECONDS = 500
_SILENT = "a process that ended without a word"


def fresh_results(subject: Subject) -> dict[str, Any]:
    """What other processes found; they run once for a subject.

    Returns:
        ``reloaded``: the figures of the saved run, or what went wrong; ``ranks``: figures and losses of each
        of the two processes, or what went wrong. Their gradient is in ``gradient.safetensors``.
    """
    folder = subject.folder / "fresh"
    if not folder.exists():
        _start(subject, folder)
    again = folder / "reloaded.json"
    reloaded = json.loads(again.read_text(encoding="utf-8")) if again.exists() else _SILENT
    return {"ranks": _found_by_ranks(folder), "reloaded": reloaded}


def _start(subject: Subject, folder: Path) -> None:
    folder.mkdir(parents=True)
    job = {
        "task_type": subject.task_type,
        "rows": list(subject.rows),
        "options": dict(subject.options),
        "eval_rows": None if subject.eval_rows is None else list(subject.eval_rows),
        "batch_loss": subject.batch_loss,
        "steps": subject.steps,
        "run": str(subject.trained.folder),
    }
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    context = fork_context()
    ranks = [
        context.Process(target=be_rank, args=(rank, place, folder))
        for rank, place in enumerate(places_of(_PROCESSES))
    ]
    again = context.Process(target=measure_again, args=(folder,))
    for process in (*ranks, again):
        process.start()
    wait_for_all(ranks, _TIMEOUT_SECONDS)
    wait_for_all([again], _TIMEOUT_SECONDS)


def _found_by_ranks(folder: Path) -> list[Any] | str:
    told = sorted(folder.glob("error-*.txt"))
    if told:
        return told[0].read_text(encoding="utf-8")
    paths = [folder / f"rank-{rank}.json" for rank in range(_PROCESSES)]
    if not all(path.exists() for path in paths):
        return _SILENT
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


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
