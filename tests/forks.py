"""Runs a script on several processes: ``python forks.py COUNT PORT SCRIPT ARGUMENTS...``.

As ``torch.distributed.run`` does it, but libraries are imported once, before the fork: that takes longer than
what a test does afterwards. Nothing may compute before the fork, since threads don't survive it.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import runpy
import sys
from multiprocessing.connection import wait


def run(rank: int, count: int, port: str, script: str, arguments: list[str]) -> None:
    """Be process number ``rank``."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(count)}
    os.environ.update(place, RANK=str(rank), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(count))
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")
    sys.stdout.flush()
    os._exit(0)  # gloo's threads may still be busy, and end a process that takes its leave with SIGABRT


def main() -> int:
    """Fork, and end all when one fails: the others would wait for it."""
    # The trainer brings most libraries; the others are what it imports late.
    for library in ("swift_core.trainer", "torch.utils.tensorboard", "sklearn.metrics", "ir_measures"):
        importlib.import_module(library)

    count, port, script, *arguments = sys.argv[1:]
    context = multiprocessing.get_context("fork")
    alive = [
        context.Process(target=run, args=(rank, int(count), port, script, arguments))
        for rank in range(int(count))
    ]
    for process in alive:
        process.start()
    while alive:
        wait([process.sentinel for process in alive])
        if any(process.exitcode for process in alive):
            for process in alive:
                process.kill()
            return 1
        alive = [process for process in alive if process.exitcode is None]
    return 0


if __name__ == "__main__":
    sys.exit(main())
