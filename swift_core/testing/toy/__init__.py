"""The task type ``toy-topics``: a model of a few hundred numbers that learns topics of texts in seconds.

It needs no download. Extensions and tools are tried on it; to the command line it exists only inside
:func:`toy_installed`.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TOY = "toy-topics"
TOY_ROWS: tuple[dict[str, Any], ...] = (
    {"text": "the match ended two to one", "topic": "sport"},
    {"text": "stocks fell again", "topic": "money"},
    {"text": "the goalkeeper saved it in the last minute of the match", "topic": "sport"},
    {"text": "the bank raised rates for the third time", "topic": "money"},
    {"text": "a race", "topic": "sport"},
    {"text": "profits of the bank rose and stocks followed", "topic": "money"},
    {"text": "they won the race by a second", "topic": "sport"},
    {"text": "rates of interest", "topic": "money"},
)


@contextmanager
def toy_installed() -> Iterator[str]:
    """Make the toy visible to the registry, and give its name."""
    with tempfile.TemporaryDirectory() as folder:
        info = Path(folder) / "swift_core_toy-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: swift-core-toy\nVersion: 1.0\n")
        entry = f"[swift.tasks]\n{TOY} = swift_core.testing.toy.spec:SPEC\n"
        (info / "entry_points.txt").write_text(entry)
        sys.path.insert(0, folder)
        importlib.invalidate_caches()
        try:
            yield TOY
        finally:
            sys.path.remove(folder)
