"""What a new run starts from: a folder of its own, a description of this process, an empty record."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from swift_core.runs.environment import git_state, host_state, now, package_versions
from swift_core.runs.stored import SCHEMA

_SLUG_CHARACTERS = 48


def new_folder(parent: Path, run_name: str | None) -> Path:
    """Make and return a folder in ``parent`` that no other process has, named after the time and the run."""
    slug = re.sub(r"[\W_]+", "-", (run_name or "").lower())[:_SLUG_CHARACTERS].strip("-")
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    base = f"{stamp}-{slug}" if slug else stamp
    for attempt in itertools.count(1):
        folder = parent / (base if attempt == 1 else f"{base}-{attempt}")
        # Only mkdir itself can say that no other process took the name; looking first can't.
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            break
    return folder


def new_session(packages: Iterable[str]) -> dict[str, Any]:
    """Describe this process; a resumed run has several sessions, maybe on other code or versions."""
    provenance = {"git": git_state(Path.cwd()), "packages": package_versions(packages)}
    return {**host_state(), **provenance, "started": now(), "ended": None}


def new_record(session: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a record that say how a run starts, and those that are filled in later."""
    return {
        "schema": SCHEMA,
        "state": "running",
        "created": session["started"],
        "ended": None,
        "sessions": [session],
        "packages": session["packages"],
        "git": session["git"],
        "data": [],
        "metrics": {},
        "model": None,
        "exports": {},
        "labels": None,
        "gates": None,
        "error": None,
    }
