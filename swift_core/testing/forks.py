"""Programs in processes of their own that start at once: forked from one that has imported the libraries.

Importing torch and transformers takes longer than what most tests do afterwards. The first use starts
a server (:mod:`multiprocessing`'s "forkserver") that imports them and computes nothing, so that it has no
threads, which would not survive a fork; all later processes are forked from it.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

# The trainer brings most libraries; the others are what it and task packages import late.
_PRELOADED = ["swift_core.trainer", "swift_core.cli.work", "torch.utils.tensorboard", "sklearn.metrics"]


def fork_context() -> ForkServerContext:
    """The context of processes that find the libraries imported, but no task package."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context


def wait_for_all(processes: Sequence[ForkServerProcess], timeout: float) -> None:
    """Wait until all processes have ended well, or one has not: kill the others then, they would wait for it.

    Args:
        processes: Processes that were started.
        timeout: Seconds after which all are killed.
    """
    end = time.monotonic() + timeout
    try:
        while running := [process for process in processes if process.exitcode is None]:
            wait([process.sentinel for process in running], max(0.0, end - time.monotonic()))
            if any(process.exitcode for process in processes) or time.monotonic() > end:
                return
    finally:
        for process in processes:
            if process.exitcode is None:
                process.kill()
                process.join()


def write_to(stdout: Path, stderr: Path) -> None:
    """Let this process, which has the outputs of the server, append to files instead."""
    for number, path in enumerate((stdout, stderr), start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)


def places_of(count: int) -> list[dict[str, str]]:
    """Environment variables that make each of ``count`` processes one of a gloo group on this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    return [
        {**group, "RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(count)}
        for rank in range(count)
    ]


def run_forked(
    *command: str,
    folder: Path,
    processes: int = 1,
    environment: Mapping[str, str] | None = None,
    timeout: float = 240,
) -> subprocess.CompletedProcess[str]:
    """Run a program of Python as ``python *command`` would, on one process or as a gloo group of several.

    Args:
        command: ``script.py`` or ``-m module``, and its arguments.
        folder: Where it runs.
        processes: How many; all write to the same outputs.
        environment: All variables of the program; default: those of this process. What libraries read when
            they are imported was read already.
        timeout: Seconds.

    Returns:
        stdout, stderr, and the exit code of a process that failed, or 0.
    """
    given = dict(os.environ if environment is None else environment)
    places = places_of(processes) if processes > 1 else [{}]
    with tempfile.TemporaryDirectory() as name:
        outputs = [Path(name, "stdout"), Path(name, "stderr")]
        context = fork_context()
        alive = [
            context.Process(target=_be, args=(command, folder, {**given, **place}, outputs))
            for place in places
        ]
        for process in alive:
            process.start()
        wait_for_all(alive, timeout)
        codes = [process.exitcode for process in alive]
        # Those that were killed for the sake of the first failed one are not what failed.
        code = max((code for code in codes if code), default=0)
        told = [path.read_text(encoding="utf-8", errors="replace") for path in outputs if path.exists()]
    stdout, stderr = told or ["", ""]
    return subprocess.CompletedProcess(command, code, stdout, stderr)


def _be(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], outputs: Sequence[Path]
) -> None:
    write_to(*outputs)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    more = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path not in sys.path]
    sys.path[:0] = ["" if command[0] == "-m" else str(Path(folder, command[0]).parent), *filter(None, more)]
    run: Callable[..., Any] = runpy.run_module if command[0] == "-m" else runpy.run_path
    program, *arguments = command[1:] if command[0] == "-m" else command
    sys.argv = [program, *arguments]
    run(program, run_name="__main__")
