"""A project with a task type that learns a line in a second, and the command line in this process."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import datasets
import psutil
import pytest
import transformers

from swift_core.cli import main
from swift_core.labels.definitions import Labels
from swift_core.labels.reading import read_labels

LINE = Path(__file__).parents[1] / "packaging" / "acme-linear" / "acme_linear"
RUN = """\
task_type: speed-curve
dataset: train.csv
eval_dataset: train.csv
cache_dir: cache
num_train_epochs: 2
"""


@dataclass(frozen=True)
class Outcome:
    """What a command gave."""

    code: int
    out: str
    err: str


@pytest.fixture
def me() -> str:
    """The user that the tests run as."""
    return str(psutil.Process().username())


@pytest.fixture
def read() -> Callable[[str], Labels]:
    """Read the text of a labels file."""
    return lambda text: read_labels(text, place="labels.toml")


@pytest.fixture
def project(tmp_path: Path, install: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a run file of the label speed-curve and its data, and no labels.toml."""
    install(
        "acme-linear",
        files={f"acme_linear/{path.name}": path.read_text() for path in LINE.glob("*.py")},
        entry_points={"swift.tasks": {"line-fitting": "acme_linear.spec:SPEC"}},
    )
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / ".git").mkdir()  # nothing above the project is looked at
    rows = [f"{n / 8},{3 * n / 8 - 1}" for n in range(16)]
    (folder / "train.csv").write_text("\n".join(["x,y", *rows]) + "\n")
    (folder / "run.yaml").write_text(RUN)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("SWIFT_LABELS", raising=False)
    return folder


@pytest.fixture
def cli(project: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[str], Outcome]]:
    """Run a command line, given as one would type it, in the project."""
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
