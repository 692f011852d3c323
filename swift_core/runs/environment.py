"""Where and when a run happens: packages, source code, machine, process, time."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

# psutil adds the boot time to a start counted from boot, and a clock that is being synchronised moves the
# boot time a little. A process id does not come round again within this span.
START_TOLERANCE_SECONDS = 2.0


def package_versions(distributions: Iterable[str]) -> dict[str, str]:
    """Return the installed version of each of ``distributions``, by name; missing ones are left out."""
    versions = {}
    for name in sorted(set(distributions)):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def git_state(folder: Path, *, timeout_seconds: float = 5.0) -> dict[str, Any] | None:
    """Return ``{commit, branch, dirty}`` of the work tree that ``folder`` lies in.

    ``commit`` is None before the first commit, ``branch`` is None with a detached head. ``dirty`` looks at
    tracked files only: outputs that nobody ignores would make every run dirty. None when ``folder`` is in
    no repository, when git is missing or refuses, or when it takes longer than ``timeout_seconds``.
    """
    # One command is one timeout. No lock, so that a commit made meanwhile does not fail; no monitor, because
    # a repository's settings may name a program to run as one.
    command = ["git", "--no-optional-locks", "-c", "core.fsmonitor=false", "-C", str(folder), "status"]
    command += ["--porcelain=v2", "--branch", "--untracked-files=no"]
    try:
        answer = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=timeout_seconds,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return _parsed(answer.stdout.decode("utf-8", "replace").splitlines())


def _parsed(lines: list[str]) -> dict[str, Any]:
    headers = dict(line[2:].split(" ", 1) for line in lines if line.startswith("# branch."))
    commit, branch = headers.get("branch.oid"), headers.get("branch.head")
    return {
        "commit": None if commit == "(initial)" else commit,
        "branch": None if branch == "(detached)" else branch,
        "dirty": any(line and not line.startswith("#") for line in lines),
    }


def now() -> str:
    """Return the time in UTC as ISO 8601 with milliseconds; such times sort as text."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def host_name() -> str:
    """Return the name of this machine, as :func:`host_state` records it."""
    return socket.gethostname()


def is_this_process(session: Mapping[str, Any]) -> bool:
    """Tell whether ``session`` is one of this process: ids come round again, here and on other hosts."""
    own = session["host"] == host_name() and session["pid"] == os.getpid()
    return own and is_alive(session["pid"], session["process_started"])


def host_state() -> dict[str, Any]:
    """Say which process runs where: host, pid, process_started (Unix seconds), python, platform, user."""
    process = psutil.Process()
    return {
        "host": host_name(),
        "pid": process.pid,
        "process_started": process.create_time(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        # Unlike getpass, psutil answers also where the user id has no name, as in many containers.
        "user": process.username(),
    }


def is_alive(pid: int, process_started: float) -> bool:
    """Tell whether the process ``pid`` of this host lives and is the one that started then."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return bool(abs(process.create_time() - process_started) <= START_TOLERANCE_SECONDS)
    except psutil.AccessDenied:
        return True
    except (psutil.NoSuchProcess, ValueError, OverflowError):
        return False
