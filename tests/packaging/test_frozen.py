"""What was built for an earlier release goes on working; the wheels in ``frozen/`` are never built again.

Each is a package written against the release of its version, that names every argument of every hook and
returns all that they may return: a wheel is a zip file, so its source can be read there. With the first
release candidate of a minor release a new one is written and built (``python -m build --wheel``), with what
came in since; the last one must pass until the minor release after that.
"""

from __future__ import annotations

import inspect
import json
import sys
import zipfile
from collections.abc import Iterator
from importlib import invalidate_caches
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

from swift_core import __version__
from swift_core.cli import main
from swift_core.hookspecs import RUN_HOOKS, TASK_HOOKS, RunHooks, TaskHooks

WHEELS = sorted((Path(__file__).parent / "frozen").glob("*.whl"))
RUN_FILE = """
task_type: frozen-line
dataset: train.jsonl
eval_dataset: points
extensions: {frozen-watch: {add: 0.5}}
max_steps: 3
logging_steps: 1
export_formats: [json]
"""


@pytest.fixture(params=WHEELS, ids=lambda path: path.stem)
def frozen(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An unpacked wheel on the path, and a folder with data for it as the current one."""
    site = tmp_path / "site"
    zipfile.ZipFile(request.param).extractall(site)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.chdir(tmp_path)
    invalidate_caches()
    rows = [{"x": n / 4, "y": n / 2} for n in range(8)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "points").mkdir()
    (tmp_path / "points" / "points.txt").write_text("1 2\n2 4\n")
    (tmp_path / "run.yaml").write_text(RUN_FILE)
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "swift_frozen"]:
        del sys.modules[name]


def result_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_it_trains_measures_and_exports(frozen: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = result_of(capsys, "train", "run.yaml")
    assert result["metrics"]["eval_mse"] < 10, "what a slope of 0 has"
    run = Path(result["folder"])
    seen = json.loads((run / "watched.json").read_text())
    assert ["started", "running"] in seen and seen[-1] == ["ended", "finished"]
    assert "make_model" in seen and "export" in seen
    assert "evaluate" in seen and [entry for entry in seen if entry[1:2] == [3]]
    manifest = json.loads((run / "exports" / "json" / "manifest.json").read_text())
    assert (manifest["rows"], manifest["has_data"], manifest["start"]) == (8, True, 0.0)
    again = result_of(capsys, "evaluate", str(run))
    assert again["eval_slope"] == pytest.approx(result["metrics"]["eval_slope"])


def test_it_is_measured_on_data_of_its_own(frozen: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = ("eval_dataset=null", "probes=[1.0]", "export_formats=[]")
    metrics = result_of(capsys, "train", "run.yaml", *changes)["metrics"]
    assert "eval_slope" in metrics and "eval_mse" not in metrics


def test_its_checks_and_its_command_are_called(frozen: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (frozen / "bad.jsonl").write_text('{"point": [1, 2]}\n{"point": [1]}\n')
    assert main(["check", "run.yaml", "dataset=bad.jsonl"]) == 2
    assert "bad.jsonl:2: point: expected two numbers" in capsys.readouterr().err
    assert main(["check", "run.yaml", "start=2000"]) == 2
    assert "start: is beyond largest" in capsys.readouterr().err
    assert main(["frozen-hello", "you"]) == 0
    assert capsys.readouterr().out == "hello you\n"


def test_it_names_all_arguments_that_there_are() -> None:
    """So that one which goes away is missed. What came in since its release need not be in it."""
    if not WHEELS[-1].name.startswith(f"swift_frozen-{'.'.join(__version__.split('.')[:2])}-"):
        pytest.skip(f"{WHEELS[-1].name} is of an earlier release, which did not know all of them")
    source = zipfile.ZipFile(WHEELS[-1])
    text = "".join(source.read(name).decode() for name in source.namelist() if name.endswith(".py"))
    for hook in (*TASK_HOOKS, *RUN_HOOKS):
        owner = TaskHooks if hook in TASK_HOOKS else RunHooks
        names = [name for name in inspect.signature(getattr(owner, hook)).parameters if name != "self"]
        assert f"def {hook}(self, {', '.join(names)})" in text or f"def {hook}({', '.join(names)})" in text


def test_there_is_one_for_the_release_before() -> None:
    version = Version(__version__)
    wanted = f"0.{max(version.minor - 1, 1)}"
    assert wanted in [path.name.split("-")[1] for path in WHEELS]
