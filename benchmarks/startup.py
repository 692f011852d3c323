"""CPU time of ``swift --help`` and ``swift tasks`` with many task packages installed."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.machine import machine_lines

_SPEC = """from swift_core import Column, TaskSpec

SPEC = TaskSpec(
    name={task!r},
    summary="A task type that stands for somebody's own",
    columns=(Column(name="text", type="text", meaning="What is read."),),
    implementation="{module}.hooks",
)
"""

_SWIFT = ("-m", "swift_core")
_COMMANDS: tuple[tuple[str, tuple[str, ...], int | None], ...] = (
    ("swift --help", (*_SWIFT, "--help"), 150),
    ("swift tasks", (*_SWIFT, "tasks"), 250),
    ("python -c pass", ("-c", "pass"), None),
    ('python -c "import transformers"', ("-c", "import transformers"), None),
)
"""What is run, with Python's arguments and the target in milliseconds."""


def write_packages(site: Path, count: int) -> None:
    """Lay ``count`` task packages into ``site`` as pip would: modules and metadata."""
    for number in range(count):
        task, module = f"startup-{number}", f"startup_{number}"
        info = site / f"{module}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {task}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[swift.tasks]\n{task} = {module}.spec:SPEC\n")
        (site / module).mkdir()
        (site / module / "__init__.py").write_text("")
        (site / module / "spec.py").write_text(_SPEC.format(task=task, module=module))


def cpu_milliseconds(command: list[str], env: dict[str, str]) -> float:
    """User and system time of ``command`` and the children it waited for.

    Raises:
        RuntimeError: it failed; a time of it would mean nothing.
    """
    child = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise RuntimeError(f"{command}: exit code {child.returncode}")
    return 1000 * (usage.ru_utime + usage.ru_stime)


def measure(site: Path, runs: int) -> list[float]:
    """Median of each command, in milliseconds; one more run first fills the caches of bytecode and disk."""
    env = {**os.environ, "PYTHONPATH": str(site)}
    found: list[list[float]] = [[] for _ in _COMMANDS]
    for round_number in range(runs + 1):
        # In turns, so that a busy moment of the machine does not hit one command alone.
        for times, (_, arguments, _) in zip(found, _COMMANDS, strict=True):
            took = cpu_milliseconds([sys.executable, *arguments], env)
            if round_number:
                times.append(took)
    return [statistics.median(times) for times in found]


def main(arguments: list[str]) -> int:
    """Print the table; the exit code is 1 when a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks startup", description=__doc__)
    parser.add_argument("--packages", type=int, default=100, help="installed task packages (default: 100)")
    parser.add_argument("--runs", type=int, default=11, help="runs of which the median counts (default: 11)")
    parsed = parser.parse_args(arguments)
    print("\n".join(machine_lines([])))
    print(
        f"{parsed.packages} task packages installed; CPU time (user + system), median of {parsed.runs} runs\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        write_packages(Path(folder), parsed.packages)
        medians = measure(Path(folder), parsed.runs)
    missed = False
    print("| command | CPU ms | target |\n| --- | ---: | ---: |")
    for took, (name, _, target) in zip(medians, _COMMANDS, strict=True):
        missed = missed or (target is not None and took >= target)
        print(f"| `{name}` | {took:.0f} | {'' if target is None else f'< {target}'} |")
    return int(missed)
