"""Benchmarks one after the other: ``one_after_another.py '[["embedding", "--rows", "9"], ...]'``.

Where a benchmark starts a process of its own, it is forked: a fresh one would import the libraries again,
which takes longer than what the tests let it do.
"""

from __future__ import annotations

import json
import multiprocessing
import sys

from benchmarks.__main__ import main

if __name__ == "__main__":
    forking = multiprocessing.get_context("fork")
    multiprocessing.get_context = lambda method=None: forking  # type: ignore[assignment]
    sys.exit(max(main(command) for command in json.loads(sys.argv[1])))
