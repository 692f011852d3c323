"""Gates of a run: judged on its recorded figures, kept in its record, and minded by what comes after."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift_core.errors import UserError, listed
from swift_core.evaluation_inputs import other_inputs
from swift_core.labels.applying import Applied, recorded, resolve
from swift_core.labels.finding import find_labels
from swift_core.labels.gates import GateResult, judge, parse_gate
from swift_core.runs.environment import now
from swift_core.runs.record import Run

if TYPE_CHECKING:
    from collections.abc import Sequence


def settle_gates(run: Run, applied: Applied) -> list[GateResult]:
    """Judge ``run`` by the gates of ``applied`` and write the verdict into its record.

    Returns:
        A result for each gate; none when there are no gates, which takes an earlier verdict back.
    """
    gates = [parse_gate(text) for text in applied.gates]
    if not gates:
        # Passed would be a verdict too, though nobody has judged.
        if run.record.get("gates") is not None:
            run.take_verdict_back()
        return []
    baseline: Mapping[str, Any] | str | None = None
    if applied.label is not None and any(gate.baseline for gate in gates):
        found = find_baseline(applied.label.baseline or "", run, Path(applied.origin).parent)
        baseline = found if isinstance(found, str) else _comparable(found, run)
    results = [judge(gate, run.record["metrics"], baseline) for gate in gates]
    verdict = {
        "passed": all(result.passed for result in results),
        "checked": now(),
        "file": applied.to_record()["file"],
        "results": [dataclasses.asdict(result) for result in results],
    }
    run.update(gates=verdict)
    return results


def gates_for(run: Run, named: str | None = None) -> Applied | None:
    """The run's label as the labels file says now; where no file says it, as it was when the run began.

    Args:
        run: the run.
        named: path or address of the file; default: the one that holds in the working folder.

    Raises:
        UserError: the file can't be read, or what the label extends is not installed.
    """
    found = find_labels(named)
    label = found.named(run.record["label"]) if found is not None else None
    if label is None:
        return recorded(run.record)
    return resolve(label.name, found).governance


def results_of(run: Run) -> list[GateResult]:
    """The results that the record holds."""
    return _results(run.record.get("gates"))


def _results(verdict: Mapping[str, Any] | None) -> list[GateResult]:
    return [GateResult(**result) for result in (verdict or {"results": []})["results"]]


def has_failed(run: Run) -> bool:
    """Whether the record says that the run failed its gates."""
    verdict = run.record.get("gates")
    return verdict is not None and not verdict["passed"]


def refuse_failed(run: Run, *, despite: bool) -> None:
    """Refuse a run that failed its label's gates; gates that nobody has looked at yet are judged first.

    Raises:
        UserError: it failed them, and ``despite`` was not said.
    """
    if run.record.get("labels") is not None and run.record.get("gates") is None:
        applied = gates_for(run)
        if applied is not None:
            settle_gates(run, applied)
    if has_failed(run) and not despite:
        raise UserError(
            f"{_failure(run.folder, run.record)}; train a better one, or export this one all the same with "
            "--despite-gates (in Python: despite_gates=True)"
        )


def refuse_failed_export(folder: Path, *, despite: bool) -> None:
    """Refuse to serve the export of a run that failed its label's gates; for a server, before it loads it.

    The verdict is that of the run's record where the folder still lies in its run, since the run may have
    been judged again, else the one that the manifest keeps. Nothing is written.

    Args:
        folder: what an export wrote, with its ``manifest.json``.
        despite: serve it all the same; nothing is looked at.

    Raises:
        UserError: the run failed, or there is no manifest that could tell.
    """
    if despite:
        return
    kept = _manifest(folder)
    run = folder.absolute().parent.parent
    if (run / "run.json").is_file():
        record = Run.open(run).record
        # A folder that was copied into another run is none of its exports.
        judged = record["run_id"] == kept["run_id"] and record.get("gates") is not None
        kept = record if judged else kept
    if kept["gates"] is not None and not kept["gates"]["passed"]:
        raise UserError(
            f"{_failure(folder, kept)}; serve another one, or this one all the same with despite=True"
        )


def _manifest(folder: Path) -> Mapping[str, Any]:
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(
            f"{path}: expected the manifest of an export, which says whether its run failed its gates, found "
            f"none ({error.strerror}); give the folder that `swift export` wrote"
        ) from error
    except ValueError as error:
        raise UserError(f"{path}: expected JSON, found something else ({error}); export it again") from error
    if not isinstance(manifest, dict) or not {"run_id", "label", "gates"} <= manifest.keys():
        raise UserError(f"{path}: expected run_id, label and gates, found no manifest of an export")
    return manifest


def _failure(place: Path, record: Mapping[str, Any]) -> str:
    failed = [result.told for result in _results(record["gates"]) if not result.passed]
    return f"{place}: the run failed the gates of label '{record['label']}' ({listed(failed)})"


def find_baseline(wanted: str, run: Run, folder: Path) -> Run | str:
    """The run that ``wanted`` names, or why there is none, in words.

    Args:
        wanted: a run's folder, relative to ``folder`` or to the working folder, or its id.
        run: the run that is judged; an id is looked for among its neighbours, its own label first.
        folder: where the labels file is.
    """
    path = Path(wanted).expanduser()
    places: Sequence[Path] = [folder / path, path]
    if len(path.parts) == 1:
        neighbours = sorted(run.folder.parent.parent.glob(f"task-type=*/{wanted}/run.json"))
        own = [record.parent for record in neighbours if record.parent.parent == run.folder.parent]
        candidates = own or [record.parent for record in neighbours]
        if len(candidates) > 1:
            return f"there are several runs {wanted}: {listed([str(c) for c in candidates])}; give the folder"
        places = [*candidates, *places]
    for place in places:
        if (place / "run.json").is_file():
            try:
                return Run.open(place)
            except UserError as error:
                return f"the baseline can't be read: {error}"
    return f"the baseline run '{wanted}' is not there"


def _comparable(baseline: Run, run: Run) -> Mapping[str, Any] | str:
    before, after = (
        {part["name"]: part["fingerprint"] for part in one.record["data"]}.get("eval")
        for one in (baseline, run)
    )
    inputs = [one.record.get("evaluation_inputs") for one in (baseline, run)]
    if (before is not None and after is not None and before != after) or other_inputs(*inputs):
        return f"the baseline {baseline.id} was measured on other data; measure it on this"
    metrics: Mapping[str, Any] = baseline.record["metrics"]
    return metrics
