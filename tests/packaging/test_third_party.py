"""Somebody else's task type, built and installed as a wheel: it works with no change to the core."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent

RUN_FILE = """
task_type: line-fitting
dataset: train.csv
columns: {x: metres, y: seconds}
eval_split: 0.25
num_train_epochs: 80
export_formats: [coefficients]
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, lay_package) -> Path:
    """Where pip put the wheel, beside a package that breaks and one that claims a taken name."""
    folder = tmp_path_factory.mktemp("wheels")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    build = [*pip, "wheel", "--quiet", "--no-build-isolation", "--no-deps", "--wheel-dir", str(folder)]
    subprocess.run([*build, str(HERE / "acme-linear")], check=True, capture_output=True)
    (wheel,) = folder.glob("acme_linear-3.1-*.whl")
    site = folder / "site"
    install = [*pip, "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    lay_package(
        site,
        "acme-broken",
        files={"acme_broken.py": "import a_module_that_is_not_there"},
        entry_points={"swift.tasks": {"broken": "acme_broken:SPEC"}},
    )
    lay_package(
        site,
        "acme-greedy",
        files={"acme_greedy.py": "SPEC = None"},
        entry_points={"swift.tasks": {"embedding": "acme_greedy:SPEC"}},
    )
    return site


@pytest.fixture
def line_data(tmp_path: Path) -> None:
    rows = [f"{x},{3 * x - 1}" for x in (n / 8 for n in range(32))]
    (tmp_path / "train.csv").write_text("\n".join(["metres,seconds", *rows]) + "\n")
    (tmp_path / "run.yaml").write_text(RUN_FILE)


def test_it_trains_evaluates_and_exports(swift, site, line_data):
    result = json.loads(swift("train", "run.yaml", "--json", path=site, code=0).stdout)
    assert result["metrics"]["eval_mse"] < 1e-2
    coefficients = json.loads((Path(result["exports"]["coefficients"]) / "line.json").read_text())
    assert coefficients["a"] == pytest.approx(3, abs=0.1)
    record = json.loads((Path(result["folder"]) / "run.json").read_text())
    assert record["packages"]["acme-linear"] == "3.1"

    again = json.loads(swift("evaluate", result["folder"], "--json", path=site, code=0).stdout)
    assert again["eval_mse"] == pytest.approx(result["metrics"]["eval_mse"], rel=1e-4)
    exported = json.loads(
        swift("export", result["folder"], "--format", "coefficients", "--json", path=site, code=0).stdout
    )
    manifest = json.loads((Path(exported["folder"]) / "manifest.json").read_text())
    assert manifest["a"] == pytest.approx(coefficients["a"])


def test_its_rows_and_options_are_checked_by_the_same_rules(swift, site, line_data, tmp_path: Path):
    with (tmp_path / "train.csv").open("a") as file:
        file.write("7,seven\n")
    done = swift("check", "run.yaml", path=site, code=2)
    assert "train.csv:34: column 'seconds' (as 'y'): expected a number" in done.stderr
    done = swift("check", "run.yaml", "start_slop=1", path=site, code=2)
    assert "Did you mean 'start_slope'" in done.stderr
    done = swift("check", "run.yaml", "start_slope=1e3", path=site, code=2)
    assert "expected a slope between -100 and 100" in done.stderr
    assert "Traceback" not in done.stderr


def test_its_neighbours_disturb_nothing_but_themselves(swift, site):
    tasks = {
        row["task_type"]: row["package"] for row in json.loads(swift("tasks", "--json", path=site).stdout)
    }
    assert tasks["line-fitting"] == "acme-linear"
    assert tasks["embedding"] == "swift-embedding"
    assert "broken" not in tasks
    faults = {
        row["package"]: row["fault"] for row in json.loads(swift("plugins", "--json", path=site).stdout)
    }
    assert faults["acme-linear"] is None
    assert "a_module_that_is_not_there" in faults["acme-broken"]
    assert faults["acme-greedy"]
    assert swift("describe", "embedding", path=site, code=0).stdout.startswith("embedding:")


def test_its_command_is_one_of_swifts(swift, site):
    assert swift("slope", "0", "1", "2", "7", path=site, code=0).stdout == "3.0\n"
    assert "slope (acme-linear)" in " ".join(swift("--help", path=site).stdout.split())
