"""``swift runs``: the runs of a folder. ``swift gate``: whether one is good enough for its label."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from swift_core.cli.show import print_table
from swift_core.errors import UserError
from swift_core.labels.finding import find_labels
from swift_core.labels.verdicts import gates_for, has_failed, settle_gates
from swift_core.runs.record import Run, list_runs


def runs(parsed: argparse.Namespace) -> int:
    """``swift runs``: newest first."""
    folder = Path(parsed.output_dir)
    if not folder.is_dir():
        raise UserError(f"OUTPUT_DIR: expected the output_dir of runs, found no folder {folder}")
    wanted = parsed.task_type and names_of(parsed.task_type, parsed.labels)
    found = [run for run in list_runs(folder) if not wanted or _is_of(run, wanted)]
    rows = [_row(run) for run in found]
    if parsed.json:
        print(json.dumps(rows, ensure_ascii=False))
        return 0
    if not rows:
        print(f"{folder} holds no run" + (f" of {parsed.task_type}" if wanted else ""))
        return 0
    head = ("label", "run", "state", "gates", "figures")
    print_table(
        head, [(r["label"], r["run_id"], r["state"], r["gates"], _figures(r["metrics"])) for r in rows]
    )
    return 0


def names_of(label: str, labels: str | None) -> Sequence[str]:
    """The name, and all others that the same label has or had."""
    found = find_labels(labels)
    known = found.named(label) if found is not None else None
    return (label,) if known is None else (known.name, *known.former)


def _is_of(run: Run, names: Sequence[str]) -> bool:
    task_type = run.record["task_type"]
    return run.record["label"] in names or task_type in names or task_type.rpartition(":")[2] in names


def _row(run: Run) -> dict[str, Any]:
    verdict = run.record.get("gates")
    return {
        "folder": str(run.folder),
        "run_id": run.id,
        "label": run.record["label"],
        "task_type": run.record["task_type"],
        "run_name": run.record.get("run_name"),
        "state": run.state,
        "created": run.record["created"],
        "gates": None if verdict is None else ("passed" if verdict["passed"] else "failed"),
        "metrics": run.record.get("metrics", {}),
    }


def _figures(metrics: dict[str, float | None]) -> str:
    shown = {
        n.removeprefix("eval_"): v
        for n, v in metrics.items()
        if n.startswith("eval_") and n != "eval_runtime"
    }
    # A record has null for a figure that is NaN or infinite.
    told = {name: "-" if value is None else f"{value:.4g}" for name, value in shown.items()}
    return "  ".join(f"{name} {value}" for name, value in [*told.items()][:3])


def gate(parsed: argparse.Namespace) -> int:
    """``swift gate RUN``: judge a run by the gates of its label; exit code 1 when it fails."""
    run = Run.open(Path(parsed.run))
    applied = gates_for(run, parsed.labels)
    if applied is not None and not applied.gates and run.record.get("gates") is not None:
        settle_gates(run, applied)
        if parsed.json:
            print(json.dumps({"run_id": run.id, "passed": None, "file": applied.place, "results": []}))
        else:
            print(
                f"label '{applied.name}' has no gates any more in {applied.place}: the verdict is taken back"
            )
        return 0
    if applied is None or not applied.gates:
        raise UserError(
            f"{run.folder}: label '{run.record['label']}' has no gates"
            + (f" in {applied.place}" if applied else ", and no labels file was found")
        )
    results = settle_gates(run, applied)
    if parsed.json:
        verdict = {"run_id": run.id, "passed": not has_failed(run), "file": applied.place}
        print(json.dumps({**verdict, "results": [dataclasses.asdict(result) for result in results]}))
    else:
        print(f"gates of label '{applied.name}': {applied.place} ({applied.found_by})")
        for result in results:
            print(result.line)
    return 1 if has_failed(run) else 0
