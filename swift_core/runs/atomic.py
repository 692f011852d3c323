"""Files and folders that are either whole or not there."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

TEMPORARY = ".tmp-"
"""How the names of unfinished files and folders start; readers skip them."""


def write_text(path: Path, text: str) -> None:
    """Write ``text`` (UTF-8) to ``path``: a reader sees the old text or the new one, never a part.

    Raises:
        OSError: nothing was written; an older file is untouched.
    """
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` in the same way, making the folders above it.

    Raises:
        OSError: nothing was written; an older file is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = _beside(path)
    try:
        with fresh.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    _flush_folder(path.parent)


@contextlib.contextmanager
def replaced_folder(path: Path) -> Iterator[Path]:
    """Fill the empty folder that this yields; it becomes ``path`` when the block ends without an error.

    An older ``path`` stays untouched until then, and stays for good when the block raises. A process
    killed inside the block leaves a folder whose name starts with ``.tmp-`` beside ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = _beside(path)
    fresh.mkdir()
    try:
        yield fresh
        swap_folder(fresh, path)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content as 64 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _beside(path: Path) -> Path:
    # tempfile would give mode 0600; the record is for the whole team, so the umask decides.
    return path.with_name(f"{TEMPORARY}{path.name}-{secrets.token_hex(4)}")


def swap_folder(fresh: Path, path: Path) -> None:
    """Give the whole folder ``fresh`` the name ``path``; an older ``path`` is there until then.

    Raises:
        OSError: the older one, if any, is in its place again.
    """
    _flush_tree(fresh)
    aside = _beside(path)
    try:
        with contextlib.suppress(FileNotFoundError):
            path.rename(aside)
        fresh.rename(path)
    except BaseException:
        # `fresh` still there means that it did not take the name, so the old one gets it back.
        if fresh.exists() and os.path.lexists(aside):
            aside.rename(path)
        raise
    _flush_folder(path.parent)
    _remove(aside)


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        # The new folder is in place: leftovers of the old one are no reason to fail.
        shutil.rmtree(path, ignore_errors=True)


def _flush_tree(folder: Path) -> None:
    # A rename may reach the disk before the data does; after a power cut the folder would hold empty files.
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            _flush(path)
        elif path.is_dir():
            _flush_folder(path)


def _flush_folder(folder: Path) -> None:
    # Some network file systems refuse to sync a folder; they have no more to offer.
    with contextlib.suppress(OSError):
        _flush(folder)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
