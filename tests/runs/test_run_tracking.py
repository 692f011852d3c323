"""The recorder, seen through TensorBoard's own reader."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pluggy
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from swift_core.hookspecs import RunHooks
from swift_core.runs.record import Run
from swift_core.tracking import RunRecorder, scalar_tag

MakeRun = Callable[..., Run]

FULL_DISK = """
import resource, sys
from pathlib import Path
from swift_core.runs.record import Run
from swift_core.tracking import RunRecorder
run = Run.create(Path(sys.argv[1]), label="embedding", task_type="embedding", run_name=None,
                 options={}, packages=[])
recorder = RunRecorder()
recorder.run_started(run)
size = max(path.stat().st_size for path in run.logs.iterdir())
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, size + 100))
for step in range(50):
    recorder.metrics_logged(run, step, {"loss": 1.0, "eval_loss": 2.0})
recorder.run_ended(run)
print("trained")
"""


def events(run: Run) -> EventAccumulator:
    return EventAccumulator(str(run.logs)).Reload()


def points(run: Run, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in events(run).Scalars(tag)]


def texts(run: Run, tag: str) -> list[str]:
    found = events(run).Tensors(f"{tag}/text_summary")
    return [value.decode("utf-8") for event in found for value in event.tensor_proto.string_val]


def record_session(run: Run, recorder: RunRecorder, steps: range, loss: float) -> None:
    recorder.run_started(run)
    for step in steps:
        recorder.metrics_logged(run, step, {"loss": loss})


def logged_steps(run: Run) -> list[int]:
    return [json.loads(line)["step"] for line in run.metrics_file.read_text().splitlines()]


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("loss", "train/loss"),
        ("train_runtime", "train/train_runtime"),
        ("eval_ndcg@10", "eval/ndcg@10"),
        ("evaluation", "train/evaluation"),
    ],
)
def test_tags(name: str, tag: str) -> None:
    assert scalar_tag(name) == tag


def test_recorder_keeps_the_contract(make_run: MakeRun) -> None:
    manager = pluggy.PluginManager("swift")
    manager.add_hookspecs(RunHooks)
    manager.register(RunRecorder())
    run = make_run()
    manager.hook.run_started(run=run)
    manager.hook.metrics_logged(run=run, step=1, metrics={"loss": 0.5, "eval_accuracy": 0.25})
    manager.hook.run_ended(run=run)
    manager.check_pending()
    assert points(run, "train/loss") == [(1, 0.5)]
    assert points(run, "eval/accuracy") == [(1, 0.25)]
    (line,) = run.metrics_file.read_text().splitlines()
    assert {"step": 1, "loss": 0.5, "eval_accuracy": 0.25}.items() <= json.loads(line).items()


def test_event_files_say_whose_they_are(make_run: MakeRun) -> None:
    options = {"rank": 8, "hub_token": "abc", "name": "商品"}
    run = make_run(label="product-classification", options=options)
    recorder = RunRecorder()
    recorder.run_started(run)
    assert texts(run, "task") == ["task=product-classification"]
    assert texts(run, "run") == [run.id]
    (shown,) = texts(run, "options")
    assert json.loads(shown) == {"rank": 8, "hub_token": "<REDACTED>", "name": "商品"}
    recorder.run_ended(run)


def test_what_was_logged_is_on_disk_before_the_run_ends(make_run: MakeRun) -> None:
    run, recorder = make_run(), RunRecorder()
    record_session(run, recorder, range(1, 3), 1.0)
    assert points(run, "train/loss") == [(1, 1.0), (2, 1.0)]
    recorder.run_ended(run)


def test_resumed_run_has_each_step_once(make_run: MakeRun) -> None:
    run = make_run()
    first = RunRecorder()
    record_session(run, first, range(1, 8), 1.0)  # killed here: nobody ends it
    time.sleep(1.1)  # event files sort by the second in their names
    second = RunRecorder(resume_step=4)
    record_session(run, second, range(5, 10), 2.0)
    second.run_ended(run)
    first.run_ended(run)
    expected = [(step, 1.0) for step in range(1, 5)] + [(step, 2.0) for step in range(5, 10)]
    assert points(run, "train/loss") == expected
    assert logged_steps(run) == list(range(1, 10))
    assert texts(run, "task") == ["task=embedding"]


def test_resumed_run_without_event_files_is_described_too(make_run: MakeRun) -> None:
    run, recorder = make_run(), RunRecorder(resume_step=4)
    recorder.run_started(run)
    recorder.run_ended(run)
    assert texts(run, "task") == ["task=embedding"]


def test_a_curve_has_one_point_for_a_step(make_run: MakeRun) -> None:
    run, recorder = make_run(), RunRecorder()
    recorder.run_started(run)
    recorder.metrics_logged(run, 10, {"eval_loss": 0.5})
    recorder.metrics_logged(run, 10, {"eval_loss": 0.5})
    recorder.run_ended(run)
    assert points(run, "eval/loss") == [(10, 0.5)]
    assert logged_steps(run) == [10, 10]


def test_full_disk_for_lines_costs_only_the_lines(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    run, recorder = make_run(), RunRecorder()
    run.metrics_file.symlink_to("/dev/full")
    record_session(run, recorder, range(1, 4), 1.0)
    recorder.run_ended(run)
    assert [step for step, _ in points(run, "train/loss")] == [1, 2, 3]
    told = capsys.readouterr().err
    assert told == "warning: metrics.jsonl: No space left on device. Training goes on without this log.\n"


def test_logs_that_cannot_be_opened_cost_only_the_events(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    run, recorder = make_run(), RunRecorder()
    run.logs.write_text("a file is in the way")
    record_session(run, recorder, range(1, 4), 1.0)
    recorder.run_ended(run)
    assert logged_steps(run) == [1, 2, 3]
    told = capsys.readouterr().err
    assert told.startswith("warning: the TensorBoard event files: ") and told.count("\n") == 1


def test_disk_that_fills_up_while_training(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (answer.returncode, answer.stdout) == (0, "trained\n"), answer.stderr
    assert answer.stderr.count("warning: the TensorBoard event files: File too large") == 1
    assert answer.stderr.count("warning: metrics.jsonl: File too large") == 1


def test_ending_without_a_start(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    recorder: Any = RunRecorder()
    recorder.run_ended(make_run())
    assert capsys.readouterr().err == ""
