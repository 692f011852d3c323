"""Paths and URLs: what kind of data they name, how to show them, how to get at their bytes."""

from __future__ import annotations

import errno
import gzip
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import fsspec

from swift_core.data.rows import Digest
from swift_core.errors import did_you_mean

KNOWN_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
_BLOCK_BYTES = 1 << 20
_PATH_SHOWN = 200


class UnreadableError(Exception):
    """A file can't be read at all; the message is a sentence for the user."""


def is_url(location: str) -> bool:
    """Whether fsspec, rather than the local file system, has to open it."""
    return "://" in location


def shown(location: str) -> str:
    """The location without user, password and query, which may hold credentials."""
    if not is_url(location):
        return location
    return re.sub(r"//[^/?#]*@", "//", re.split(r"[?#]", location, maxsplit=1)[0])


def data_suffix(location: str) -> str | None:
    """One of :data:`KNOWN_SUFFIXES`, or None when the name has none of them."""
    name = shown(location).lower()
    suffix = Path(name.removesuffix(".gz")).suffix
    if suffix not in KNOWN_SUFFIXES or (suffix == ".parquet" and name.endswith(".gz")):
        return None
    return suffix


def local_path(location: str) -> Path:
    """The path with a leading ``~`` replaced by the home folder."""
    return Path(os.path.expanduser(location))  # noqa: PTH111 - Path.expanduser raises for an unknown user


def exists(path: Path) -> bool:
    """Whether something is there; False also for a string that can't be a path, such as a long text."""
    return os.path.exists(path)  # noqa: PTH110 - Path.exists raises for a name that is too long


@contextmanager
def local_copy(location: str, digest: Digest) -> Iterator[Path]:
    """Give a local file with the bytes of ``location``; the bytes are added to ``digest``.

    Raises:
        UnreadableError: there is no such file, or it can't be read.
    """
    if not is_url(location):
        path = local_path(location)
        _hash_local(path, location, digest)
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="swift-data-") as folder:
        # Readers tell compressed files by their suffix.
        path = Path(folder) / ("data.gz" if shown(location).lower().endswith(".gz") else "data")
        _download(location, path, digest)
        yield path


def _hash_local(path: Path, location: str, digest: Digest) -> None:
    if not exists(path):
        raise UnreadableError(missing(path, location))
    if not path.is_file():
        raise UnreadableError(f"{location}: expected a file, found something that is neither file nor folder")
    try:
        with path.open("rb") as stream:
            while block := stream.read(_BLOCK_BYTES):
                digest.update(block)
    except OSError as error:
        raise UnreadableError(f"{location}: {_reason(error)}") from error


def _download(location: str, path: Path, digest: Digest) -> None:
    name = shown(location)
    try:
        with fsspec.open(location, "rb") as remote, path.open("wb") as local:
            while block := remote.read(_BLOCK_BYTES):
                digest.update(block)
                local.write(block)
    except FileNotFoundError as error:
        raise UnreadableError(f"{name}: no such file") from error
    except ImportError as error:
        raise UnreadableError(f"{name}: can't be opened until a package is installed: {error}") from error
    except Exception as error:
        # Each file system raises exceptions of its own client library, which can't be listed here.
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            free = shutil.disk_usage(path.parent).free
            raise UnreadableError(
                f"{name}: does not fit into the temporary folder {path.parent.parent} ({free:,} bytes free); "
                "name another with TMPDIR"
            ) from error
        message = _without_secrets(str(error).split("\n", 1)[0], location)
        raise UnreadableError(f"{name}: can't be read ({type(error).__name__}: {message})") from error


def _without_secrets(message: str, location: str) -> str:
    message = message.replace(location, shown(location))
    authority = location.partition("://")[2].split("/", 1)[0]
    query = re.split(r"[?#]", location, maxsplit=1)[1:]
    for secret in (authority.rpartition("@")[0], *authority.rpartition("@")[0].split(":"), *query):
        if secret:
            message = message.replace(secret, "***")
    return message


def missing(path: Path, location: str) -> str:
    """Say that ``path`` is not there, and what in its folder has nearly the same name."""
    folder = path.parent
    # Somebody may have given the data itself in place of a path.
    location = location if len(location) <= _PATH_SHOWN else location[: _PATH_SHOWN - 1] + "…"
    if not exists(folder):
        return f"{location}: no such file, and no folder '{folder}'"
    try:
        names = [entry.name for entry in folder.iterdir()]
    except OSError as error:
        return f"{location}: {_reason(error)}"
    guess = did_you_mean(path.name, names)
    return f"{location}: no such file or folder" + (f".{guess}" if guess else "")


def _reason(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return "permission denied; make it readable for the user that runs this"
    return f"can't be read ({error.strerror or error})"


def open_bytes(path: Path) -> BinaryIO:
    """Open a local file for reading, decompressed when its name ends in ``.gz``.

    Raises:
        OSError: it can't be opened. Reading may also raise EOFError or zlib.error when it is damaged.
    """
    if path.name.lower().endswith(".gz"):
        return cast(BinaryIO, gzip.open(path, "rb"))
    return path.open("rb")
