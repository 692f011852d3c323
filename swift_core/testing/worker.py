"""What the processes of :mod:`swift_core.testing.processes` do."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from swift_core.testing.forks import write_to
from swift_core.testing.gradients import gradient_trainer
from swift_core.testing.subject import Subject, figures_of


def be_rank(rank: int, place: Mapping[str, str], folder: Path) -> None:
    """Be one of those that train together; what it found goes to ``rank-N.json`` or ``error-N.txt``."""
    write_to(folder / f"rank-{rank}.log", folder / f"rank-{rank}.log")
    os.environ.update(place)
    try:
        found = _measured(folder / f"process-{rank}", _job(folder), folder if rank == 0 else None)
        (folder / f"rank-{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    except BaseException as error:
        traceback.print_exc()
        told = f"{type(error).__name__}: {error}".split("\n")[0]
        (folder / f"error-{rank}.txt").write_text(told, encoding="utf-8")
        os._exit(1)
    # gloo's threads may still be busy, and end a process that takes its leave with SIGABRT.
    os._exit(0)


def measure_again(folder: Path) -> None:
    """Load the saved run and evaluate it; the figures, or what went wrong, go to ``reloaded.json``."""
    from swift_core.runner import evaluate_run

    write_to(folder / "reloaded.log", folder / "reloaded.log")
    found: dict[str, float] | str
    try:
        found = figures_of(evaluate_run(Path(_job(folder)["run"])))
    except Exception as error:  # whatever a plugin raises is the answer
        traceback.print_exc()
        found = f"{type(error).__name__}: {error}".split("\n")[0]
    (folder / "reloaded.json").write_text(json.dumps(found), encoding="utf-8")


def _job(folder: Path) -> dict[str, Any]:
    job: dict[str, Any] = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    return job


def _measured(own: Path, job: dict[str, Any], target: Path | None) -> dict[str, Any]:
    subject = _subject(own, job)
    trainer, keep = gradient_trainer(subject, 2, ddp_backend="gloo")
    evaluates = trainer.eval_data is not None or trainer.options.evaluates
    figures = figures_of(trainer.evaluate()) if evaluates else {}
    if not subject.batch_loss:
        trainer.train()
        if target is not None:
            save_file(
                {name: grad.contiguous() for name, grad in keep.kept.items()}, target / "gradient.safetensors"
            )
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {"figures": figures, "losses": losses}


def _subject(folder: Path, job: dict[str, Any]) -> Subject:
    return Subject(
        task_type=job["task_type"],
        rows=job["rows"],
        folder=folder,
        options=job["options"],
        eval_rows=job["eval_rows"],
        batch_loss=job["batch_loss"],
        steps=job["steps"],
    )
