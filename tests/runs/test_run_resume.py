"""Which runs can be resumed, by whom, and from which checkpoint."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from swift_core.errors import UserError
from swift_core.runs.record import Run, find_resumable

MakeRun = Callable[..., Run]
MakeCheckpoint = Callable[[Run, int], Path]

CREATE = """
import sys, time
from pathlib import Path
from swift_core.runs.record import Run
run = Run.create(Path(sys.argv[1]), label="embedding", task_type="embedding", run_name=None,
                 options={"rank": 8}, packages=[])
print(run.folder, flush=True)
time.sleep(60)
"""


class Sleeping:
    """A run that belongs to another, living process, which the test may kill."""

    def __init__(self, output_dir: Path) -> None:
        command = [sys.executable, "-c", CREATE, str(output_dir)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.folder = Path(self.process.stdout.readline().strip())

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def test_killed_process_is_told_from_a_running_one_and_can_be_resumed(
    tmp_path: Path, make_checkpoint: MakeCheckpoint
) -> None:
    owner = Sleeping(tmp_path)
    try:
        run = Run.open(owner.folder)
        make_checkpoint(run, 5)
        assert run.state == "running"
        with pytest.raises(UserError, match=f"running on host .* as process {owner.process.pid}"):
            run.continue_()
        assert find_resumable(tmp_path, label="embedding", options={"rank": 8}) is None
    finally:
        owner.kill()
    assert run.state == "killed"
    found = find_resumable(tmp_path, label="embedding", options={"rank": 8})
    assert found is not None and found.folder == owner.folder
    found.continue_()
    assert found.state == Run.open(owner.folder).state == "running"
    assert [session["pid"] for session in found.record["sessions"]] == [owner.process.pid, os.getpid()]
    with pytest.raises(UserError, match="is running"):
        run.continue_()


def test_reused_process_id_means_killed(make_run: MakeRun, reopened: Callable[..., Run]) -> None:
    run = make_run()
    earlier = run.record["sessions"][0]["process_started"] - 3600
    assert reopened(run, process_started=earlier).state == "killed"


def test_run_on_another_host_stays_running(make_run: MakeRun, reopened: Callable[..., Run]) -> None:
    run = reopened(make_run(), host="another-host", process_started=0.0)
    assert run.state == "running"
    with pytest.raises(UserError, match=r"host 'another-host'.*\"state\": \"killed\""):
        run.continue_()
    (run.folder / "run.json").write_text(json.dumps({**run.record, "state": "killed"}))
    run.continue_()
    assert run.state == "running"


def test_finished_run_is_not_continued(make_run: MakeRun) -> None:
    run = make_run()
    stale = Run.open(run.folder)
    run.end("finished")
    with pytest.raises(UserError, match="has finished"):
        stale.continue_()


def test_continued_run_starts_without_the_old_end(make_run: MakeRun) -> None:
    run = make_run()
    run.end("failed", "out of memory")
    run.continue_()
    assert (run.record["ended"], run.record["error"]) == (None, None)
    first, second = run.record["sessions"]
    assert first["ended"] is not None and second["ended"] is None
    assert second["packages"] == {"pytest": pytest.__version__}
    run.end("finished")
    assert Run.open(run.folder).record["sessions"][0]["ended"] == first["ended"]


def test_of_two_that_continue_one_gets_the_run(make_run: MakeRun) -> None:
    run = make_run()
    run.end("interrupted")
    barrier, results = threading.Barrier(8), []

    def take() -> None:
        mine = Run.open(run.folder)
        barrier.wait()
        try:
            mine.continue_()
            results.append("taken")
        except UserError:
            results.append("refused")

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["refused"] * 7 + ["taken"]
    assert len(Run.open(run.folder).record["sessions"]) == 2


def ended(run: Run, state: Any = "failed") -> Run:
    run.end(state)
    return run


def test_the_newest_fitting_run_is_resumable(
    make_run: MakeRun, make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    options = {"rank": 8, "hub_token": "abc", "path": Path("x"), "betas": (0.9, 0.99), "cap": float("inf")}
    older = ended(make_run(options=options, run_name="older"), "interrupted")
    wanted = ended(make_run(options=options, run_name="wanted"))
    for run in (older, wanted):
        make_checkpoint(run, 10)
    ended(make_run(options=options, run_name="no-checkpoint"))
    for given, state in (({"rank": 16}, "failed"), (options, "finished")):
        make_checkpoint(ended(make_run(options=given), state), 10)
    make_checkpoint(make_run(options=options, run_name="running"), 10)
    make_checkpoint(ended(make_run(options=options, label="other")), 10)
    found = find_resumable(
        tmp_path / "output", label="embedding", options={**options, "hub_token": "renewed"}
    )
    assert found is not None and found.id == wanted.id
    assert find_resumable(tmp_path / "nowhere", label="embedding", options=options) is None


def test_complete_and_incomplete_checkpoints(make_run: MakeRun, make_checkpoint: MakeCheckpoint) -> None:
    run = make_run()
    complete = [make_checkpoint(run, step) for step in (9, 10, 100)]
    (make_checkpoint(run, 20) / "trainer_state.json").unlink()
    (make_checkpoint(run, 30) / "trainer_state.json").write_text('{"global_step": 3')
    (make_checkpoint(run, 40) / "trainer_state.json").write_text('{"global_step": 39}')
    (make_checkpoint(run, 50) / "trainer_state.json").write_text("[]")
    (run.folder / "checkpoint-best").mkdir()
    (run.folder / "checkpoint-7").write_text("a file")
    assert run.checkpoints() == complete
    removed = run.remove_incomplete_checkpoints()
    assert [path.name for path in removed] == [f"checkpoint-{step}" for step in (20, 30, 40, 50)]
    assert not any(path.exists() for path in removed)
    assert run.checkpoints() == complete
    assert (run.folder / "checkpoint-best").is_dir()
