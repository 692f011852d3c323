"""A small project in the current folder, and the command line called in this process."""

from __future__ import annotations

import json
import shlex
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pytest
import transformers
from huggingface_hub import constants

from swift_core.cli import main

WORDS = ["sea", "fish", "ship", "forest", "bird", "deer", "fox", "tree", "rain", "snow", "wind"]
RUN = """\
task_type: embedding
model_name_or_path: model
dataset: train.jsonl
output_dir: out
cache_dir: cache
per_device_train_batch_size: 4
max_steps: 2
save_steps: 1
"""


@dataclass(frozen=True)
class Outcome:
    """What a command gave."""

    code: int
    out: str
    err: str


def make_rows(count: int) -> list[dict[str, Any]]:
    """Rows with different queries and positives, and one negative each."""
    texts = [f"{WORDS[n % len(WORDS)]} {n}" for n in range(count)]
    return [{"query": text, "positive": f"number {text}", "negatives": [f"no {text}"]} for text in texts]


def lay_out(folder: Path, model: Path) -> None:
    """Lay a run file, training data and a model into ``folder``."""
    shutil.copytree(model, folder / "model")
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in make_rows(8)))
    (folder / "run.yaml").write_text(RUN)


@pytest.fixture
def project(tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with ``run.yaml``, ``train.jsonl`` and ``model/``."""
    lay_out(tmp_path, tiny_encoder)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def trained_run(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run with two checkpoints."""
    folder = tmp_path_factory.mktemp("trained")
    lay_out(folder, tiny_encoder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", "run.yaml"]) == 0
    return next(folder.glob("out/*/*"))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Hosts that somebody looked up; none of them is found."""
    hosts: list[str] = []

    def look_up(host: Any, *rest: Any, **named: Any) -> Any:
        hosts.append(str(host))
        raise socket.gaierror(socket.EAI_NONAME, "no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return hosts


@pytest.fixture
def cli(
    asked: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], Outcome]]:
    """Run a command line, given as one would type it, in this process; without a network."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    verbosity = transformers.logging.get_verbosity()

    def run(command: str) -> Outcome:
        capsys.readouterr()
        try:
            code = main(shlex.split(command))
        except SystemExit as done:  # argparse ends the process itself
            code = int(done.code or 0)
        said = capsys.readouterr()
        return Outcome(code, said.out, said.err)

    yield run
    transformers.logging.set_verbosity(verbosity)
    transformers.logging.enable_progress_bar()
    datasets.enable_progress_bars()
