"""A run: a folder ``OUTPUT_DIR/task-type=<label>/<run-id>/`` and the record ``run.json`` in it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from swift_core.errors import UserError
from swift_core.runs import checkpoints, json_lines
from swift_core.runs.atomic import write_bytes
from swift_core.runs.beginning import new_folder, new_record, new_session
from swift_core.runs.environment import host_name, is_alive, now
from swift_core.runs.plain import plain
from swift_core.runs.redact import redacted, without_credentials
from swift_core.runs.stored import RECORD_NAME, read_record, sole_taker, write_record, writing_told
from swift_core.spec import TASK_NAME

if TYPE_CHECKING:
    from swift_core.hookspecs import Evaluation


class Run:
    """One run. The process that created it or took it over with :meth:`continue_` owns it and may write.

    Attributes:
        folder: absolute path of the run's folder.
        record: what ``run.json`` holds.
    """

    def __init__(self, folder: Path, record: dict[str, Any]) -> None:
        """Use :meth:`create` or :meth:`open`."""
        self.folder = folder
        self.record = record

    @classmethod
    def create(
        cls,
        output_dir: Path,
        *,
        label: str,
        task_type: str,
        run_name: str | None,
        options: Mapping[str, Any],
        packages: Iterable[str],
        labels: Mapping[str, Any] | None = None,
    ) -> Run:
        """Make the folder of a new run, never one that exists, and write its record: state running.

        Args:
            output_dir: where all runs go; made if missing.
            label: what the run is filed under; a task type or a label that extends one.
            task_type: the task type that does the work.
            run_name: words for the end of the run's id.
            options: the resolved options; secrets are kept out of the record.
            packages: names of the distributions whose versions the record holds.
            labels: the labels file that held, with the label's definition; None where there was none.

        Raises:
            UserError: the label is no label, or ``output_dir`` can't be written to.
        """
        _check_label(label)
        session = new_session(packages)
        parent = output_dir.absolute() / f"task-type={label}"
        with writing_told(parent):
            parent.mkdir(parents=True, exist_ok=True)
            folder = new_folder(parent, run_name)
        run = cls(folder, {})
        identity = {"run_id": folder.name, "label": label, "task_type": task_type, "run_name": run_name}
        try:
            rest = {"options": redacted(options), "labels": labels}
            run._save({**identity, **new_record(session), **rest})
        except UserError:
            folder.rmdir()
            raise
        return run

    @classmethod
    def open(cls, folder: Path) -> Run:
        """Read the run in ``folder``.

        Raises:
            UserError: there is none, its record can't be read, or a newer swift-core wrote it.
        """
        return cls(folder.absolute(), read_record(folder))

    @property
    def base_model(self) -> str | None:
        """The model that the run was told to start from, by its options, its label or its task type."""
        options = self.record.get("resolved_options") or self.record["options"]
        name: str | None = options.get("model_name_or_path")
        return name

    def update(
        self,
        *,
        resolved_options: Mapping[str, Any] | None = None,
        data: Sequence[Mapping[str, Any]] | None = None,
        evaluation_inputs: Mapping[str, str] | None = None,
        processes: int | None = None,
        metrics: Mapping[str, float] | None = None,
        model: str | None = None,
        exports: Mapping[str, str] | None = None,
        gates: Mapping[str, Any] | None = None,
    ) -> None:
        """Replace the fields that are given and rewrite the record.

        Args:
            resolved_options: every option with the value that holds, defaults included.
            data: one summary with fingerprints for each data set.
            evaluation_inputs: fingerprints of what evaluations read besides, by option.
            processes: how many train together.
            metrics: figures; those of other names stay.
            model: where the trained model was saved.
            exports: by format, where it was written; other formats stay.
            gates: what the run made of its label's gates; new figures take it away again.

        Raises:
            UserError: the disk refused; record and memory are as before.
        """
        given: dict[str, Any] = {
            "data": data,
            "metrics": metrics,
            "model": model,
            "exports": exports,
            "gates": gates,
            "evaluation_inputs": evaluation_inputs,
            "processes": processes,
        }
        changes = {name: value for name, value in given.items() if value is not None}
        if resolved_options is not None:
            changes["resolved_options"] = redacted(resolved_options)
        self._update_on_disk(without_credentials(changes))

    def take_verdict_back(self) -> None:
        """Forget what the run made of gates that its label has no more; raises as :meth:`update`."""
        self._update_on_disk({"gates": None})

    def end(self, state: Literal["finished", "failed", "interrupted"], error: str | None = None) -> None:
        """Record how and when the run, and this session of it, ended."""
        ended = now()
        *earlier, session = self.record["sessions"]
        sessions = [*earlier, {**session, "ended": ended}]
        # A library's error may quote the address that it could not reach.
        told = without_credentials(error)
        self._update_on_disk({"state": state, "ended": ended, "error": told, "sessions": sessions})

    def set_model_aside(self) -> None:
        """Keep the trained model as ``abandoned-model/``: a run that goes on has no model until its end.

        Raises:
            UserError: the disk refused.
        """
        if not self.model.is_dir():
            return
        aside = self.folder / "abandoned-model"
        with writing_told(self.folder):
            shutil.rmtree(aside, ignore_errors=True)
            self.model.rename(aside)
        self._update_on_disk({"model": None})

    def continue_(self) -> None:
        """Take over this run to resume it in this process; of two that try, one gets it.

        Raises:
            UserError: the run has finished, or runs (on another host: for all that we can know).
        """
        session = new_session(self.record["packages"])
        with sole_taker(self.folder):
            self.record = read_record(self.folder)
            self._refuse_unless_ended_early()
            sessions = [*self.record["sessions"], session]
            self._save({"state": "running", "ended": None, "error": None, "sessions": sessions})

    @property
    def id(self) -> str:
        """The run's id, which is its folder's name."""
        return str(self.record["run_id"])

    @property
    def state(self) -> str:
        """Running, finished, failed, interrupted or killed, by the record in memory and this host.

        A run that says ``running`` on this host, while the process that wrote this is gone, was killed.
        What a process on another host does can't be seen from here: such a run stays running.
        """
        recorded = str(self.record["state"])
        session = self.record["sessions"][-1]
        if recorded != "running" or session["host"] != host_name():
            return recorded
        return "running" if is_alive(session["pid"], session["process_started"]) else "killed"

    @property
    def logs(self) -> Path:
        """Folder of the TensorBoard event files; the writer makes it."""
        return self.folder / "logs"

    @property
    def model(self) -> Path:
        """Folder of the trained model."""
        return self.folder / "model"

    @property
    def exports(self) -> Path:
        """Folder with one folder for each export format."""
        return self.folder / "exports"

    @property
    def metrics_file(self) -> Path:
        """The log of figures by step, one line of JSON each."""
        return self.folder / "metrics.jsonl"

    def checkpoints(self) -> list[Path]:
        """Return the complete checkpoints, earliest step first."""
        return checkpoints.complete_checkpoints(self.folder)

    def remove_incomplete_checkpoints(self) -> list[Path]:
        """Remove checkpoints that a kill cut off; only for the owner, and before training goes on."""
        return checkpoints.remove_incomplete(self.folder)

    def append_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append ``{"step", "time", **metrics}`` to ``metrics.jsonl``; raises OSError if the disk refuses."""
        json_lines.append_line(self.metrics_file, step, metrics)

    def drop_metrics_after(self, step: int) -> None:
        """Forget what ``metrics.jsonl`` says of later steps, which a resumed run does again."""
        json_lines.drop_after(self.metrics_file, step)

    def evaluations(self) -> dict[int, Path]:
        """The folders of evaluations' tables and pictures by training step."""
        folders = {
            path.name.removeprefix("step-"): path for path in (self.folder / "evaluations").glob("step-*")
        }
        return {int(step): path for step, path in folders.items() if step.isdigit()}

    def drop_evaluations_after(self, step: int) -> None:
        """Remove what evaluations of later steps wrote, which a resumed run writes anew.

        Raises:
            UserError: the disk refused.
        """
        with writing_told(self.folder):
            for number, path in self.evaluations().items():
                if number > step:
                    shutil.rmtree(path)

    def write_table(
        self, step: int, name: str, rows: Iterable[Mapping[str, Any]], other: str | None = None
    ) -> Path:
        """Write a table of an evaluation as JSON lines and return its path; an older one is replaced.

        Args:
            step: training step.
            name: of the table.
            rows: its rows.
            other: what the data goes by, where it is not what the run is measured on: the table lies apart.
        """
        path = self.evaluation_folder(step, other) / f"{name}.jsonl"
        with writing_told(self.folder):
            json_lines.write_lines(path, rows)
        return path

    def write_picture(self, step: int, name: str, png: bytes, other: str | None = None) -> Path:
        """Write a PNG file beside the tables of an evaluation and return its path."""
        path = self.evaluation_folder(step, other) / f"{name}.png"
        with writing_told(self.folder):
            write_bytes(path, png)
        return path

    def evaluation_folder(self, step: int, other: str | None = None) -> Path:
        """Where the tables of an evaluation lie; ``other`` as in :meth:`write_table`."""
        return self.folder / "evaluations" / (f"step-{step}" if other is None else f"step-{step}-{other}")

    def _refuse_unless_ended_early(self) -> None:
        expected = f"{self.folder}: expected a run that failed, was interrupted or was killed, found one that"
        if self.state == "finished":
            raise UserError(f"{expected} has finished. Start a new run.")
        if self.state == "running":
            session = self.record["sessions"][-1]
            raise UserError(
                f"{expected} is running on host {session['host']!r} as process {session['pid']}. Wait for "
                f'its end; if that machine is gone, write "state": "killed" into '
                f"{self.folder / RECORD_NAME}."
            )

    def _update_on_disk(self, changes: Mapping[str, Any]) -> None:
        # Another process may have exported or evaluated this run since; only what changed here is replaced.
        with sole_taker(self.folder):
            self.record = read_record(self.folder)
            for name in ("exports", "metrics"):
                if name in changes:
                    changes = {**changes, name: {**self.record[name], **changes[name]}}
            if not _still_holds(self.record.get("gates"), changes):
                changes = {**changes, "gates": None}
            self._save(changes)

    def _save(self, changes: Mapping[str, Any]) -> None:
        record = plain({**self.record, **changes})
        write_record(self.folder, record)
        self.record = record


def _still_holds(verdict: Mapping[str, Any] | None, changes: Mapping[str, Any]) -> bool:
    if verdict is None or "metrics" not in changes or "gates" in changes:
        return True
    figures = changes["metrics"]
    return all(figures.get(result["metric"]) == result["found"] for result in verdict["results"])


def list_runs(output_dir: Path) -> list[Run]:
    """Return the runs of every label, newest first; folders whose record can't be read are left out."""
    return _readable(output_dir.glob(f"task-type=*/*/{RECORD_NAME}"))


def find_resumable(
    output_dir: Path, *, label: str, options: Mapping[str, Any], former: Iterable[str] = ()
) -> Run | None:
    """Return the newest run of ``label`` that ended early, had these options and has a checkpoint.

    Runs under the names that the label had before, ``former``, are its own too.
    """
    wanted = redacted(options)
    folders = [output_dir / f"task-type={name}" for name in (label, *former)]
    for run in _readable(record for folder in folders for record in folder.glob(f"*/{RECORD_NAME}")):
        ended_early = run.state in ("killed", "interrupted", "failed")
        if ended_early and run.record["options"] == wanted and run.checkpoints():
            return run
    return None


def _check_label(label: str) -> None:
    if not TASK_NAME.fullmatch(label):
        raise UserError(
            f"label: expected lower-case words joined by '-', such as 'product-classification', "
            f"found {label!r}. Choose such a name."
        )


def _readable(records: Iterable[Path]) -> list[Run]:
    runs = []
    for path in records:
        with contextlib.suppress(UserError):
            runs.append(Run.open(path.parent))
    return sorted(runs, key=lambda run: (run.record["created"], run.id), reverse=True)


def keep_evaluation(evaluation: Evaluation, run: Run, step: int, other: str | None = None) -> None:
    """Write what an evaluation found beside its figures into the run's folder."""
    for name, rows in evaluation.tables.items():
        run.write_table(step, name, rows, other)
    for name, png in evaluation.pictures.items():
        run.write_picture(step, name, png, other)
