"""The files of a bundle and its manifest."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from swift_core.errors import UserError, listed
from swift_core.runs.atomic import sha256_of, write_text
from swift_embedding.documents import LINES, OFFSETS
from swift_embedding.golden import GOLDEN

MODEL = "model"
INDEX = "index.faiss"
RECALL = "recall.npz"

_NEEDED = (f"{MODEL}/config.json", INDEX, LINES, OFFSETS, RECALL, GOLDEN)


def copy_model(before: Path, folder: Path) -> None:
    """Give the bundle ``folder`` the model of the bundle ``before``: by links where the disk knows them."""
    try:
        shutil.copytree(before / MODEL, folder / MODEL, copy_function=os.link)
    except OSError:  # shutil.Error is one
        shutil.rmtree(folder / MODEL, ignore_errors=True)
        shutil.copytree(before / MODEL, folder / MODEL)


def write_manifest(folder: Path, before: dict[str, Any], details: dict[str, Any]) -> dict[str, Any]:
    """Write the manifest ``before`` with new ``details``, and the SHA-256 of all but the model anew."""
    files = {
        name: digest if name.startswith(f"{MODEL}/") else sha256_of(folder / name)
        for name, digest in before["files"].items()
    }
    manifest = {**before, **details, "files": files}
    write_text(folder / "manifest.json", json.dumps(manifest, indent=2, ensure_ascii=False))
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read ``manifest.json``.

    Raises:
        UserError: it is not there, or not that of a bundle.
    """
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        kind, files = manifest["format"], manifest["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: expected the manifest of an export (faiss), found "
            f"{'no such file' if isinstance(error, OSError) else 'something else'}; name the folder "
            "exports/faiss of a run"
        ) from error
    if kind != "faiss":
        raise UserError(f"{path}: expected an export in the format faiss, found {kind!r}; export with faiss")
    unlisted = [name for name in _NEEDED if name not in files]
    if unlisted:
        raise UserError(f"{path}: files: expected a SHA-256 of {listed(unlisted)} too; export again")
    return dict(manifest)


def verify_files(folder: Path, files: dict[str, str]) -> None:
    """Compare every file with its SHA-256.

    Raises:
        UserError: files are missing or were changed.
    """
    faults = []
    for name, expected in sorted(files.items()):
        path = folder / name
        if not path.is_file():
            faults.append(f"{path}: manifest.json lists this file, but it is gone; copy the bundle again")
            continue
        found = sha256_of(path)
        if found != expected:
            faults.append(
                f"{path}: it was changed after the export (SHA-256 {found[:12]}..., manifest.json has "
                f"{expected[:12]}...); copy the bundle again, or load it with verify=False if you changed it"
            )
    if faults:
        raise UserError(*faults)
