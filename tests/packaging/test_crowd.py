"""Among 100 packages, of which 5 are broken, each in a way of its own, a healthy task trains as if alone."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from swift_core.cli import main
from swift_core.testing.toy import TOY_ROWS, toy_installed

SPEC = """
from swift_core import TaskSpec
SPEC = TaskSpec(name="{task}", summary="s", columns=(), implementation="{module}")
"""
BROKEN = {
    "acme-exits": "raise SystemExit('no licence found')",
    "acme-greedy": SPEC.format(task="embedding", module="m"),
    "acme-old": SPEC.format(task="acme-old", module="m"),
    "acme-garbled": "",
    "acme-nameless": "import a_module_that_is_not_there",
}
"""Broken packages, each with its module."""


def lay_crowd(install: Any) -> None:
    """95 healthy packages and the 5 broken ones."""
    for package in [*(f"acme-{n}" for n in range(95)), *BROKEN]:
        module = f"crowd_{package.replace('-', '_')}"
        task = "embedding" if package == "acme-greedy" else package
        site: Path = install(
            package,
            requires=["swift-core>=9" if package == "acme-old" else "swift-core>=0.1"],
            files={f"{module}.py": BROKEN.get(package, SPEC.format(task=task, module=module))},
            entry_points={"swift.tasks": {task: f"{module}:SPEC"}, "swift.extensions": {task: f"{module}:E"}},
        )
    (site / "acme_garbled-1.0.dist-info" / "entry_points.txt").write_bytes(
        b"\xff\xfe[swift.tasks]\nno sign\n"
    )
    (site / "acme_nameless-1.0.dist-info" / "METADATA").write_bytes(b"Name: \xff\xfe\n")


def train(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[list[str], list[dict[str, Any]]]:
    """The lines that a run prints, without times and folders, and the figures that it keeps."""
    folder.mkdir()
    rows = "".join(json.dumps(row) + "\n" for row in TOY_ROWS)
    (folder / "rows.jsonl").write_text(rows)
    text = f"task_type: toy-topics\ndataset: {folder}/rows.jsonl\noutput_dir: {folder}/output\n"
    text += f"cache_dir: {folder}/cache\nmax_steps: 3\nlogging_steps: 1\n"
    (folder / "run.yaml").write_text(text)
    assert main(["train", str(folder / "run.yaml")]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    (figures,) = folder.glob("output/*/*/metrics.jsonl")
    logged = [json.loads(line) for line in figures.read_text().splitlines()]
    kept = [{name: row[name] for name in ("loss", "grad_norm") if name in row} for row in logged]
    alike = re.sub(r"\d{8}-\d{6}\S*|useful tokens/s.*|in [\d.]+ s", "", printed.out.replace(str(folder), ""))
    return alike.splitlines(), kept


def test_a_healthy_task_trains_as_if_it_were_alone(
    install: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with toy_installed():
        alone = train(tmp_path / "alone", capsys)
        lay_crowd(install)
        assert train(tmp_path / "crowded", capsys) == alone
    assert [row["loss"] for row in alone[1] if "loss" in row], "there are figures to compare"
    assert [name for name in sys.modules if name.startswith("crowd_")] == []


def test_each_broken_one_is_told(install: Any, capsys: pytest.CaptureFixture[str]) -> None:
    lay_crowd(install)
    assert main(["plugins", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    faults = {row["package"]: row["fault"] for row in rows if not (row["provides"] or "").startswith("ext")}
    assert "SystemExit: no licence found" in faults["acme-exits"]
    assert "belongs to swift-embedding" in faults["acme-greedy"]
    assert "it needs swift-core >=9" in faults["acme-old"]
    assert "entry_points.txt can't be read" in faults["acme_garbled-1.0.dist-info"]
    assert "a_module_that_is_not_there" in faults["crowd_acme_nameless"]
    assert len([name for name, fault in faults.items() if name.startswith("acme-") and fault is None]) == 95
