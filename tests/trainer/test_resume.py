"""A run that was killed goes on as if nothing had happened."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from swift_core import TrainingArguments, UserError
from swift_core.resuming import _MAY_CHANGE, new_run, refuse_other_run
from swift_core.runner import export_run
from swift_core.runs.record import Run

RUN_FILE = """
task_type: embedding
model_name_or_path: {model}
dataset: train.jsonl
output_dir: {output_dir}
cache_dir: cache
per_device_train_batch_size: 4
num_train_epochs: 3
save_steps: 3
logging_steps: 1
learning_rate: 1e-2
seed: 11
"""

KILLED_AT_STEP_8 = """
import os, signal, sys
from transformers import TrainerCallback
from swift_core import SwiftTrainer, TrainingArguments

class Killer(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 8:
            os.kill(os.getpid(), signal.SIGKILL)

SwiftTrainer(TrainingArguments.from_file("killed.yaml"), callbacks=[Killer()]).train()
"""


def events(folder: Path) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    scalars = EventAccumulator(str(folder / "logs")).Reload().Scalars("train/loss")
    return [(event.step, event.value) for event in scalars]


def test_a_killed_run_resumes_with_the_curve_of_an_unbroken_one(swift, curve, rows, tiny_encoder, tmp_path):
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(18)))
    for name in ("whole", "killed"):
        text = RUN_FILE.format(model=tiny_encoder, output_dir=name)
        (tmp_path / f"{name}.yaml").write_text(text)
    whole = json.loads(swift("train", "whole.yaml", "--json", code=0).stdout)

    dead = subprocess.run(
        [sys.executable, "-c", KILLED_AT_STEP_8], cwd=tmp_path, capture_output=True, check=False
    )
    assert dead.returncode == -signal.SIGKILL, dead.stderr.decode()
    (folder,) = (tmp_path / "killed" / "task-type=embedding").iterdir()
    run = Run.open(folder)
    assert (run.state, [path.name for path in run.checkpoints()]) == (
        "killed",
        ["checkpoint-3", "checkpoint-6"],
    )
    # A checkpoint that the kill cut off must not be taken for a whole one.
    (folder / "checkpoint-9").mkdir()
    (folder / "checkpoint-9" / "model.safetensors").write_bytes(b"half")

    resumed = json.loads(swift("train", "killed.yaml", "--resume", "--json", code=0).stdout)
    assert Path(resumed["folder"]) == folder
    assert curve(folder) == curve(Path(whole["folder"]))
    assert [step for step, _ in events(folder)] == list(range(1, 16))
    record = json.loads((folder / "run.json").read_text())
    assert (record["state"], len(record["sessions"])) == ("finished", 2)

    refused = swift("train", "killed.yaml", "--resume", str(folder), code=2)
    assert "has finished" in refused.stderr


def test_nothing_to_resume_is_said(swift, rows, tiny_encoder, tmp_path):
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(8)))
    (tmp_path / "run.yaml").write_text(RUN_FILE.format(model=tiny_encoder, output_dir="out"))
    done = swift("train", "run.yaml", "--resume", code=2)
    assert "holds no unfinished run of 'embedding' with these options" in done.stderr


def test_a_running_run_is_not_taken_over(make_trainer, tmp_path):
    trainer = make_trainer(save_steps=2)
    with trainer.recorded():
        trainer.train()
        other = make_trainer()
        with pytest.raises(UserError, match="is running"):
            other.train(resume_from_checkpoint=trainer.run.checkpoints()[-1])


def test_a_run_is_not_resumed_as_another(make_trainer, rows):
    def interrupted():
        trainer = make_trainer(save_steps=2)
        with pytest.raises(KeyboardInterrupt), trainer.recorded():
            trainer.train()
            raise KeyboardInterrupt
        return trainer.run.checkpoints()[-1]

    checkpoint = interrupted()
    record = (checkpoint.parent / "run.json").read_text()
    with pytest.raises(UserError, match=r"option temperature was None in that run, found 0.9"):
        make_trainer(save_steps=2, temperature=0.9).train(resume_from_checkpoint=checkpoint)
    with pytest.raises(UserError, match="the train data is not what the run began with"):
        make_trainer(rows(12), save_steps=2).train(resume_from_checkpoint=checkpoint)
    with pytest.raises(UserError, match="no complete checkpoint"):
        make_trainer(save_steps=2).train(resume_from_checkpoint=checkpoint.parent / "checkpoint-77")
    assert (checkpoint.parent / "run.json").read_text() == record
    of_two = json.dumps({**json.loads(record), "processes": 2})
    (checkpoint.parent / "run.json").write_text(of_two)
    with pytest.raises(UserError, match="was one of 2 processes, found 1"):
        make_trainer(save_steps=2).train(resume_from_checkpoint=checkpoint)
    (checkpoint.parent / "run.json").write_text(record)
    for step in (2, 3):
        Run.open(checkpoint.parent).write_table(step, "rows", [])
    # Gone back to an earlier checkpoint and interrupted again, it does not go on with the course left.
    for _ in range(2):
        back = make_trainer(save_steps=2).recorded(checkpoint.with_name("checkpoint-2"))
        with pytest.raises(KeyboardInterrupt), back:
            raise KeyboardInterrupt
    names = sorted(path.name for path in checkpoint.parent.glob("*checkpoint-*"))
    assert names == ["abandoned-checkpoint-4", "checkpoint-2"]
    assert list(Run.open(checkpoint.parent).evaluations()) == [2]
    # Nor is a model of before judged by figures, or exported with those, that come after it.
    taken = Run.open(checkpoint.parent)
    assert taken.record["model"] is None and not taken.model.exists()
    with pytest.raises(UserError, match="has no model"):
        export_run(taken.folder, ["hf"])
    assert (taken.folder / "abandoned-model").is_dir()
    again = make_trainer(save_steps=2)
    again.train(resume_from_checkpoint=True)
    assert again.run.folder == checkpoint.parent and again.run.model.is_dir()


def test_the_docs_name_what_may_change_when_a_run_goes_on(options):
    run = new_run(TrainingArguments(**options))
    schedule = {f"{what}_strategy": "epoch" for what in ("logging", "save", "eval")}
    refuse_other_run(run, TrainingArguments(**options, **schedule, logging_first_step=True), [], {})
    text = (Path(__file__).parents[2] / "docs/runs.md").read_text()
    table = text.partition("| options | what |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", table)) == _MAY_CHANGE
