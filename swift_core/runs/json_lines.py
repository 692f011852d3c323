"""Files of JSON lines: ``metrics.jsonl``, a line for each time that figures were logged, and tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from swift_core.runs.atomic import write_text
from swift_core.runs.environment import now
from swift_core.runs.plain import plain


def append_line(path: Path, step: int, metrics: Mapping[str, float]) -> None:
    """Append ``{"step", "time", **metrics}``; a figure that is NaN or infinite becomes null."""
    line: dict[str, Any] = {"step": step, "time": now()}
    line |= {name: value for name, value in metrics.items() if name not in line}
    with path.open("a", encoding="utf-8", newline="") as stream:
        stream.write(_line(line))


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one line for each row, all or none; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(_line(row) for row in rows))


def drop_after(path: Path, step: int) -> None:
    """Rewrite the file without lines of a later step than ``step`` and without broken ones."""
    if not path.exists():
        return
    lines = path.read_bytes().split(b"\n")
    kept = [line.decode("utf-8") + "\n" for line in lines if _belongs(line, step)]
    write_text(path, "".join(kept))


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(plain(row), ensure_ascii=False, allow_nan=False) + "\n"


def _belongs(line: bytes, step: int) -> bool:
    try:
        entry = json.loads(line)
    except ValueError:  # cut off when the process was killed, maybe inside a character
        return False
    return isinstance(entry, dict) and isinstance(entry.get("step"), int) and entry["step"] <= step
