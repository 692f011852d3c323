"""``python -m swift_core.testing.worker FOLDER``: the processes of :mod:`swift_core.testing.processes`."""

from __future__ import annotations

import contextlib
import importlib
import json
import multiprocessing
import os
import sys
import traceback
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from swift_core.errors import SwiftError
from swift_core.registry import find_task
from swift_core.runtime import Runtime
from swift_core.testing.gradients import gradient_trainer
from swift_core.testing.subject import Subject, figures_of

_PROCESSES = 2


def main() -> int:
    """Run the two processes and then, in this one, measure the saved run; write what was found."""
    folder = Path(sys.argv[1])
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    # Before anything is computed here: threads don't survive a fork.
    ranks = _forked(folder, job)
    results = {"ranks": ranks, "reloaded": _reloaded(job)}
    fresh = folder / "results.json.new"
    fresh.write_text(json.dumps(results), encoding="utf-8")
    fresh.replace(folder / "results.json")
    return 0


def _import_late_ones(task_type: str) -> None:
    """Import what a run imports late, once for both processes: that takes longer than what they do."""
    importlib.import_module("torch.utils.tensorboard")
    # A plugin that can't be imported is told by the processes.
    with contextlib.suppress(SwiftError):
        Runtime(find_task(task_type))


def _forked(folder: Path, job: dict[str, Any]) -> list[Any] | str:
    _import_late_ones(job["task_type"])
    context = multiprocessing.get_context("fork")
    alive = [context.Process(target=_be_rank, args=(rank, folder, job)) for rank in range(_PROCESSES)]
    for process in alive:
        process.start()
    while alive:
        wait([process.sentinel for process in alive])
        if any(process.exitcode for process in alive):
            # The other one would wait for it.
            for process in alive:
                process.kill()
            told = sorted(folder.glob("error-*.txt"))
            return told[0].read_text(encoding="utf-8") if told else "a process that ended without a word"
        alive = [process for process in alive if process.exitcode is None]
    return [json.loads((folder / f"rank-{rank}.json").read_text("utf-8")) for rank in range(_PROCESSES)]


def _be_rank(rank: int, folder: Path, job: dict[str, Any]) -> None:
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(job["port"]), "WORLD_SIZE": str(_PROCESSES)}
    os.environ.update(place, RANK=str(rank), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(_PROCESSES))
    try:
        found = _measured(folder / f"process-{rank}", job, folder if rank == 0 else None)
        (folder / f"rank-{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    except BaseException as error:
        traceback.print_exc()
        told = f"{type(error).__name__}: {error}".split("\n")[0]
        (folder / f"error-{rank}.txt").write_text(told, encoding="utf-8")
        os._exit(1)
    # gloo's threads may still be busy, and end a process that takes its leave with SIGABRT.
    os._exit(0)


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


def _reloaded(job: dict[str, Any]) -> dict[str, float] | str:
    from swift_core.runner import evaluate_run

    try:
        return figures_of(evaluate_run(Path(job["run"])))
    except Exception as error:  # whatever a plugin raises is the answer
        traceback.print_exc()
        return f"{type(error).__name__}: {error}".split("\n")[0]


if __name__ == "__main__":
    sys.exit(main())
