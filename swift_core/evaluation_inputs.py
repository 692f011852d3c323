"""What an evaluation reads besides ``eval_dataset``: fingerprints of the data that options of a task name."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift_core.runs.atomic import sha256_of

if TYPE_CHECKING:
    from swift_core.arguments import TrainingArguments


def evaluation_inputs(args: TrainingArguments) -> dict[str, str]:
    """Fingerprints by the names of the task's options that decide what evaluations read, where they are set.

    A path stands for what lies there: the bytes of a file, or names and bytes of all files of a folder. A
    value that is no path on this machine, such as a hub id, stands for itself. Files that can't be read count
    by their names: whether they are needed is for the evaluation to say.
    """
    if args.task is None:
        return {}
    cache = Path(args.core.cache_dir).expanduser().resolve() if args.core.cache_dir else None
    found = {}
    for field in dataclasses.fields(args.task):
        value, meaning = getattr(args.task, field.name), _meaning(field)
        if meaning is not None and _is_set(field, value):
            found[field.name] = _of_path(value, cache) if meaning == "path" else _of_value(value)
    return found


def other_inputs(before: Mapping[str, str] | None, after: Mapping[str, str] | None) -> list[str]:
    """The options under which two runs read different things, an option of one of them alone among them.

    Args:
        before: ``evaluation_inputs`` of a record; None for one from before there were any, of which nobody
            can say what it read.
        after: those of the other.
    """
    if before is None or after is None:
        return []
    return [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]


def _meaning(field: dataclasses.Field[Any]) -> str | None:
    if field.metadata.get("evaluates"):
        return "path"
    meaning: str | None = field.metadata.get("evaluation_input")
    return meaning


def _is_set(field: dataclasses.Field[Any], value: Any) -> bool:
    if field.metadata.get("evaluates"):
        return bool(value)
    # Left out or given as it is by default: the same is read.
    factory = field.default_factory
    default = field.default if factory is dataclasses.MISSING else factory()
    return value is not None and bool(value != default)


def _of_path(value: Any, cache: Path | None) -> str:
    # Who only compares records need not wait for fsspec.
    from swift_core.data.locations import exists, local_path, shown

    if isinstance(value, list | tuple):
        return _of_value([_of_path(part, cache) for part in value])
    path = local_path(str(value))
    if not value or not exists(path):
        # An address without user, password and query: a digest of a short secret can be guessed.
        return hashlib.sha256(shown(str(value)).encode()).hexdigest()
    return _of_folder(path, cache) if path.is_dir() else _of_file(path)


def _of_value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _of_file(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError:
        return "unreadable"


def _of_folder(folder: Path, cache: Path | None) -> str:
    files = {path.relative_to(folder).as_posix(): path for path in _files_below(folder, cache)}
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(os.fsencode(name) + f"\0{_of_file(files[name])}\n".encode())
    return digest.hexdigest()


def _files_below(folder: Path, cache: Path | None) -> Iterator[Path]:
    """Files at any depth, without what training itself writes: runs and tokenised data."""
    seen = {cache}
    for here, folders, names in os.walk(folder, followlinks=True):
        real = Path(here).resolve()
        if real in seen:  # a link may lead back up
            folders.clear()
            continue
        seen.add(real)
        # In this order, so that of two links to one folder the same is followed each time.
        folders[:] = sorted(name for name in folders if not name.startswith("task-type="))
        yield from (path for path in (Path(here, name) for name in names) if path.is_file())
