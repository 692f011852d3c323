"""Exports: the format is checked before training, the folder appears whole or not at all."""

from __future__ import annotations

import json
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift_core.errors import SwiftError, did_you_mean, listed
from swift_core.labels.verdicts import refuse_failed
from swift_core.runs.atomic import replaced_folder, sha256_of, write_text
from swift_core.runs.plain import plain
from swift_core.spec import TaskSpec

if TYPE_CHECKING:
    from swift_core.trainer import SwiftTrainer


def export_faults(name: str, spec: TaskSpec) -> str | None:
    """Why the format ``name`` can't be written here: unknown to the task, or a distribution is missing."""
    names = [entry.name for entry in spec.exports]
    entry = spec.export_format(name)
    if entry is None:
        return (
            f"task type '{spec.name}' has no export format '{name}'.{did_you_mean(name, names)} "
            f"Formats: {listed(names)}"
        )
    missing = [need for need in entry.requires if not any(_installed(d) for d in need.split("|"))]
    if missing:
        packages = " ".join(need.split("|")[0] for need in missing)
        return f"export format '{name}' needs {listed(missing)}: pip install {packages}"
    return None


def _installed(distribution: str) -> bool:
    try:
        version(re.split(r"[<>=!~ \[]", distribution)[0])
    except PackageNotFoundError:
        return False
    return True


def write_export(target: Path, name: str, trainer: SwiftTrainer) -> dict[str, Any]:
    """Let the task write format ``name``, add ``manifest.json`` and put the folder at ``target`` at once.

    The manifest holds the format, where the model comes from, what the task tells, and the SHA-256 of every
    file.
    """
    # Loads torch, which the check of a format before training must not wait for.
    from swift_core.models import without_progress_bars

    run = trainer.run
    if run is None:
        raise SwiftError("export: there is no run to export")
    refuse_failed(run, despite=trainer.options.core.despite_gates)
    with replaced_folder(target) as folder, trainer.measuring() as model, without_progress_bars():
        details = trainer.runtime.export(
            model=model,
            collator=trainer.collator,
            format=name,
            folder=folder,
            data=trainer.train_data,
            args=trainer.options,
            run=run,
        )
        files = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / "manifest.json")
        manifest = {
            **plain(details),
            "format": name,
            "label": run.record["label"],
            "task_type": run.record["task_type"],
            "run_id": run.id,
            "gates": run.record.get("gates"),
            "base_model": run.base_model,
            "packages": run.record["packages"],
            "data": [trainer.train_data.summary] if trainer.train_data else run.record["data"],
            "files": {str(path.relative_to(folder)): sha256_of(path) for path in files},
        }
        write_text(folder / "manifest.json", json.dumps(manifest, indent=2, ensure_ascii=False))
    run.update(exports={name: str(target)})
    return manifest
