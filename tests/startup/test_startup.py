"""What a command that only shows things may cost: nothing heavy is imported, however much is installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

HEAVY = {"torch", "transformers", "datasets", "numpy", "faiss"}
PACKAGES = 100

SPEC = """
from swift_core import TaskSpec
SPEC = TaskSpec(name={task!r}, summary="the task {task}", columns=(), implementation="{module}.hooks")
"""

BROKEN = {
    "no-such-import": ("import no_such_module", "ModuleNotFoundError"),
    "raises": ("raise RuntimeError('half installed')", "half installed"),
    "no-syntax": ("SPEC = (", "SyntaxError"),
    "no-spec": ("SPEC = {'name': 'no-spec'}", "is a dict, expected a swift_core.TaskSpec"),
    "other-name": (SPEC.format(task="another", module="m"), "the spec calls itself 'another'"),
}
"""Source of a spec by task type, and what `swift plugins` says about it."""

# As `python -m swift_core` does, and at the end what was imported on the way, for the last line of stderr.
DRIVER = """
import atexit, json, runpy, sys
atexit.register(lambda: print(json.dumps(sorted(sys.modules)), file=sys.stderr))
runpy.run_module("swift_core", run_name="__main__", alter_sys=True)
"""


class Outcome(NamedTuple):
    """A command that ended with exit code 0."""

    text: str
    modules: set[str]


Command = Callable[..., Outcome]


@pytest.fixture
def crowded(install, tmp_path: Path) -> Command:
    """Run a command where 100 task packages are installed, of which 5 are broken."""
    healthy = {f"task-{n}": "" for n in range(PACKAGES - len(BROKEN))}
    for task in [*healthy, *BROKEN]:
        module = f"crowd_{task.replace('-', '_')}"
        text = BROKEN[task][0] if task in BROKEN else SPEC.format(task=task, module=module)
        site = install(
            f"crowd-{task}",
            files={f"{module}/__init__.py": "", f"{module}/spec.py": text},
            entry_points={"swift.tasks": {task: f"{module}.spec:SPEC"}},
        )

    def run(*arguments: str) -> Outcome:
        done = subprocess.run(
            [sys.executable, "-c", DRIVER, *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(site), "COLUMNS": "100"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        said, modules = done.stderr.splitlines()[:-1], done.stderr.splitlines()[-1]
        assert said == []
        return Outcome(done.stdout, set(json.loads(modules)))

    return run


@pytest.mark.parametrize(
    ("arguments", "avoided"),
    [
        (("--help",), HEAVY | {"pydantic"}),
        (("tasks",), HEAVY | {"pydantic"}),
        (("plugins",), HEAVY),
        (("describe", "embedding"), HEAVY),
        (("describe", "embedding", "--json"), HEAVY),
        (("new", "a-b", "--kind", "extension"), HEAVY),
        (("new", "a-b", "--kind", "token-classification"), HEAVY),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_nothing_heavy_is_imported(crowded, arguments, avoided):
    outcome = crowded(*arguments)
    assert "swift_core.cli" in outcome.modules, "the driver must see what the command imports"
    assert outcome.modules & avoided == set()


def test_help_imports_no_installed_package(crowded):
    outcome = crowded("--help")
    assert not [
        name
        for name in outcome.modules
        if name.startswith(("crowd_", "swift_embedding", "swift_cls", "swift_reranker"))
    ]
    assert "describe" in outcome.text


def test_describing_one_task_imports_no_other(crowded):
    outcome = crowded("describe", "embedding")
    assert not [name for name in outcome.modules if name.startswith("crowd_")]
    assert "temperature" in outcome.text


def test_every_healthy_task_is_listed(crowded):
    rows = json.loads(crowded("tasks", "--json").text)
    expected = {f"task-{n}" for n in range(PACKAGES - len(BROKEN))} | {"embedding"}
    found = {row["task_type"] for row in rows}
    assert expected <= found
    assert not found & BROKEN.keys()
    assert f"{len(BROKEN)} more can't be used; `swift plugins` says why." in crowded("tasks").text


def test_every_broken_package_is_told(crowded):
    faults = {row["package"]: row["fault"] for row in json.loads(crowded("plugins", "--json").text)}
    for task, (_, message) in BROKEN.items():
        assert message in faults[f"crowd-{task}"]
        assert f"crowd-{task}" in faults[f"crowd-{task}"], "the sentence names the package"
    assert [name for name, fault in faults.items() if fault] == sorted(f"crowd-{task}" for task in BROKEN)
