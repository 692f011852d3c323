"""Which ``checkpoint-N`` folders of a run can be resumed from."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

_NAME = re.compile(r"checkpoint-(\d+)")


def complete_checkpoints(folder: Path) -> list[Path]:
    """Return the complete checkpoints in ``folder``, earliest step first."""
    return [path for step, path in _numbered(folder) if _is_complete(path, step)]


def remove_incomplete(folder: Path) -> list[Path]:
    """Remove the checkpoints in ``folder`` that were cut off while written, and return their paths."""
    incomplete = [path for step, path in _numbered(folder) if not _is_complete(path, step)]
    for path in incomplete:
        shutil.rmtree(path)
    return incomplete


def _numbered(folder: Path) -> list[tuple[int, Path]]:
    matches = [(_NAME.fullmatch(path.name), path) for path in folder.iterdir() if path.is_dir()]
    return sorted((int(match[1]), path) for match, path in matches if match)


def _is_complete(checkpoint: Path, step: int) -> bool:
    # transformers.Trainer writes this file after everything else that belongs to a checkpoint.
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(state, dict) and state.get("global_step") == step
