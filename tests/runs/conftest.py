"""What the tests of runs share: fixtures, because importlib mode gives test files no common module."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from swift_core.runs.record import Run


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Run]:
    """Create a run below ``tmp_path / "output"``; arguments of ``Run.create`` may be given by name."""

    def make(**given: Any) -> Run:
        usual: dict[str, Any] = {
            "label": "embedding",
            "task_type": "embedding",
            "run_name": None,
            "options": {},
            "packages": ["pytest", "no-such-distribution"],
        }
        return Run.create(tmp_path / "output", **(usual | given))

    return make


@pytest.fixture
def make_checkpoint() -> Callable[[Run, int], Path]:
    """Write a folder that looks like a complete checkpoint of ``transformers.Trainer``."""

    def make(run: Run, step: int) -> Path:
        folder = run.folder / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"weights")
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
        return folder

    return make


@pytest.fixture
def reopened() -> Callable[..., Run]:
    """Open a run as another process would, after changing fields of its last session on disk."""

    def change(run: Run, **changes: Any) -> Run:
        path = run.folder / "run.json"
        record = json.loads(path.read_text())
        record["sessions"][-1] |= changes
        path.write_text(json.dumps(record))
        return Run.open(run.folder)

    return change
