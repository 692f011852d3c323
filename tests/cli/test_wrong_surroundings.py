"""Mistakes in Python, and what a machine, a network or a shell may do."""

from __future__ import annotations

import errno
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from swift_core import SwiftTrainer, TrainingArguments, UserError

from .mistakes.making import CHECK, TRAIN

# -- the Python API ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([], "there are no rows in it"),
        ([{"query": "a"}], "no row has the column 'positive'"),
        ([1], "row 1 of train_dataset: expected a mapping"),
        (3, "train_dataset: expected a path"),
        (["a.jsonl", {"query": "a"}], "a list that mixes paths and other things"),
    ],
)
def test_wrong_data_in_memory_is_refused_before_a_model_is_built(data: Any, says: str, project, monkeypatch):
    monkeypatch.setattr("swift_embedding.hooks.load_backbone", lambda *_: pytest.fail("a model was built"))
    with pytest.raises(UserError, match=says):
        SwiftTrainer(TrainingArguments.from_file("run.yaml"), train_dataset=data)


def test_wrong_options_in_python_are_told_all_at_once():
    with pytest.raises(UserError) as caught:
        TrainingArguments(task_type="embedding", seeed=1, temperature="low", max_steps=0)
    assert [fault.split(":")[0] for fault in caught.value.faults] == [
        "there is no option 'seeed'. Did you mean 'seed'?",
        "temperature",
        "max_steps",
    ]


# -- the environment --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (f"{TRAIN} model_name_or_path=acme/no", "the hub can't be reached"),
        (f"{CHECK} dataset=acme/no", "the hub could not be asked"),
        (f"{TRAIN} push_to_hub=true", "the hub can't be used"),
    ],
)
def test_a_hub_out_of_reach_is_a_sentence_within_seconds(command, says, project, cli, asked, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    started = time.perf_counter()
    done = cli(command)
    assert says in done.err and "Traceback" not in done.err, done.err
    assert done.code == (1 if "push" in command else 2)
    assert asked and time.perf_counter() - started < 10


def test_a_full_disk_at_the_start_is_told_with_the_folder(project, cli, monkeypatch):
    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr("swift_core.runs.stored.write_text", full)
    done = cli(TRAIN)
    assert done.code == 2
    assert "output_dir: expected a folder that can be written to" in done.err
    assert "Free space there" in done.err


def test_a_full_disk_while_saving_fails_the_run_and_says_so_in_its_record(project, cli, monkeypatch):
    def full(self: Any, *_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "model.safetensors")

    monkeypatch.setattr(SwiftTrainer, "_save", full)
    done = cli(TRAIN)
    assert (done.code, "Traceback" in done.err) == (1, False)
    assert "the disk is full (model.safetensors)" in done.err
    record = json.loads(next(project.glob("out/*/*/run.json")).read_text())
    assert record["state"] == "failed"


def test_an_unexpected_failure_is_shown_as_it_is(project, cli, monkeypatch):
    def broken(**_: Any) -> None:
        raise KeyError("a fault of ours")

    monkeypatch.setattr("swift_embedding.hooks.compute", lambda *_, **__: broken())
    done = cli(TRAIN)
    assert done.code == 1
    assert "Traceback" in done.err
    assert done.err.rstrip().endswith("swift: the run failed: KeyError: 'a fault of ours'")


# -- a shell ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        ("trian run.yaml", 2, "Did you mean 'train'?"),
        ("train run.yaml temprature=1", 2, "Did you mean 'temperature'?"),
        ("train run.yaml dataset=no.jsonl", 2, "no.jsonl: no such file or folder"),
        ("train run.yaml learning_rate=1e38", 1, "training diverged"),
    ],
)
def test_the_shell_sees_the_exit_code_and_no_traceback(command, code, says, project, swift):
    done = swift(*shlex.split(command), code=code)
    assert says in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_an_output_that_takes_nothing_is_a_sentence():
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "swift_core", "tasks"],
            stdout=full,
            stderr=subprocess.PIPE,
            # Buffered, as in most shells: it fails only when the command is done.
            env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (
        1,
        "swift: the output can't be written: No space left on device\n",
    )
