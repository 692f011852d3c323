"""What a figure was measured with: nobody can compare figures without it."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path


def cpu_model() -> str:
    """Name of the processor, as far as the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def machine_lines(packages: Sequence[str]) -> list[str]:
    """Processor, Python and the versions of ``packages``, for the head of a report."""
    lines = [
        f"machine   {cpu_model()}, {len(os.sched_getaffinity(0))} cores, {platform.machine()}",
        f"versions  Python {platform.python_version()}, swift-core {version('swift-core')}"
        + "".join(f", {name} {version(name)}" for name in packages),
    ]
    load = os.getloadavg()[0]
    return [*lines, f"load      {load:.1f} before the start (1 minute)"]
