"""``run.json`` on disk: reading it with faults told, writing it, one taker at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from swift_core.errors import UserError
from swift_core.runs.atomic import write_text

SCHEMA = 1
RECORD_NAME = "run.json"
STATES = ("running", "finished", "failed", "interrupted", "killed")
"""``killed`` is never written by us; somebody who knows that a machine is gone may write it."""

_FIELDS: Mapping[str, type | tuple[type, ...]] = {
    "run_id": str,
    "label": str,
    "task_type": str,
    "created": str,
    "options": dict,
    "packages": dict,
}
_SESSION_FIELDS: Mapping[str, type | tuple[type, ...]] = {
    "host": str,
    "pid": int,
    "process_started": (int, float),
}


def read_record(folder: Path) -> dict[str, Any]:
    """Return the record of the run in ``folder``.

    Raises:
        UserError: there is none, or it can't be read as one; the message says what was found.
    """
    path = folder / RECORD_NAME
    try:
        record = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        found = "a folder without one" if folder.is_dir() else "no such folder"
        raise UserError(
            f"{path}: expected the record of a run, found {found}. "
            "Give the folder OUTPUT_DIR/task-type=<label>/<run-id> of a run."
        ) from None
    except OSError as fault:
        raise UserError(f"{path}: expected a readable file, found: {fault.strerror}.") from None
    except ValueError as fault:
        raise UserError(
            f"{path}: expected JSON, found something else ({fault}). Restore the file, or start a new run."
        ) from None
    _check(path, record)
    return dict(record)


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write ``record`` atomically.

    Raises:
        UserError: the disk is full or refuses; the record on disk is the one before.
    """
    text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with writing_told(folder):
        write_text(folder / RECORD_NAME, text)


@contextlib.contextmanager
def writing_told(folder: Path) -> Iterator[None]:
    """Turn an OSError of the block into an error that names ``folder`` and says what to do."""
    try:
        yield
    except OSError as fault:
        if fault.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "Free space there, or set output_dir to a folder on another disk."
        else:
            remedy = "Set output_dir to a folder that you may write to, or change its permissions."
        raise UserError(
            f"output_dir: expected a folder that can be written to, found {folder}: "
            f"{fault.strerror or fault}. {remedy}"
        ) from fault


@contextlib.contextmanager
def sole_taker(folder: Path) -> Iterator[None]:
    """Let one process at a time in; a process that dies inside lets the next one in."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        # Some network file systems know no locks. There two sessions could take a run in the same
        # millisecond; refusing every resume would be worse.
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _check(path: Path, record: object) -> None:
    schema = record.get("schema") if isinstance(record, dict) else None
    if isinstance(schema, int) and schema > SCHEMA:
        raise UserError(
            f"{path}: expected a record of schema {SCHEMA} or older, found schema {schema}. "
            "It was written by a newer swift-core: upgrade swift-core to read it."
        )
    if not isinstance(record, dict) or schema != SCHEMA or not _is_whole(record):
        raise UserError(
            f"{path}: expected the record of a run, found other JSON. "
            "Give the folder OUTPUT_DIR/task-type=<label>/<run-id> of a run."
        )


def _is_whole(record: Mapping[str, Any]) -> bool:
    sessions = record.get("sessions")
    return (
        _has(record, _FIELDS)
        and record.get("state") in STATES
        and isinstance(sessions, list)
        and len(sessions) > 0
        and all(isinstance(session, dict) and _has(session, _SESSION_FIELDS) for session in sessions)
    )


def _has(entry: Mapping[str, Any], fields: Mapping[str, type | tuple[type, ...]]) -> bool:
    return all(isinstance(entry.get(name), kind) for name, kind in fields.items())
