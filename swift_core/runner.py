"""The life of a run, as the command line lives it: train, evaluate, export, check."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list

from swift_core.arguments import TrainingArguments, known_options, parse_overrides
from swift_core.errors import SwiftError, UserError
from swift_core.evaluation_inputs import evaluation_inputs, other_inputs
from swift_core.exports import export_faults
from swift_core.labels.applying import Applied, findings_of, recorded, refuse_breaches
from swift_core.labels.verdicts import gates_for, has_failed, refuse_failed, settle_gates
from swift_core.preparation import Preparation, prepare_for_evaluation, prepare_for_export, prepare_task
from swift_core.registry import find_task
from swift_core.resuming import checkpoint_to_resume
from swift_core.runfile import parse_value
from swift_core.runs.record import Run
from swift_core.runs.redact import without_hidden
from swift_core.runs.stored import writing_told
from swift_core.saving import args_for
from swift_core.trainer import SwiftTrainer


def train_run(args: TrainingArguments, *, resume: str | None = None) -> Run | None:
    """Train, then evaluate and export as the options say.

    Args:
        args: the options of the run.
        resume: a run's folder to go on with, or ``""`` for the newest unfinished one with these options.

    Returns:
        The run, on the main process; None on the others.

    Raises:
        UserError: the options, the data or the run to resume can't be used.
        SwiftError: evaluation or export failed after training; the trained model is saved.

    A run that fails the gates of its label is finished; its record says so, and it is not exported.
    """
    checkpoint = checkpoint_to_resume(args, resume or True) if resume is not None else None
    refuse_breaches(args, findings_of(args))
    if args.core.dataset is None:
        raise UserError("dataset: expected training data (a file, a folder or a hub id), found none")
    prepared = prepare_task(args)
    # The library would make it, and fail without a sentence, only after the model is built.
    with writing_told(args.output_folder):
        args.output_folder.mkdir(parents=True, exist_ok=True)
    trainer = SwiftTrainer(args, prepared=prepared)
    with trainer.recorded(checkpoint):
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        try:
            _evaluate_and_export(trainer)
        except SwiftError as error:
            model = Path(str(trainer.args.output_dir)) / "model"
            raise SwiftError(f"{error}\nThe model was trained and saved before: {model}") from error
    return trainer.run


def _evaluate_and_export(trainer: SwiftTrainer) -> None:
    if (trainer.eval_data is not None or trainer.options.evaluates) and not _is_evaluated(trainer):
        trainer.evaluate()
    failed = _failed_gates(trainer)
    for name in trainer.options.core.export_formats:
        if failed and not trainer.options.core.despite_gates:
            if trainer.run is not None:
                print(
                    f"exported  not {name}: the run failed its gates (despite_gates=true exports all "
                    "the same)"
                )
            continue
        started = time.perf_counter()
        folder = trainer.save_model(format=name)
        if trainer.run is not None:
            print(f"exported  {name} to {folder} in {time.perf_counter() - started:.1f} s")


def _failed_gates(trainer: SwiftTrainer) -> bool:
    """Judge the run; every process learns the verdict of the main one, which alone has the record."""
    run, applied = trainer.run, trainer.options.governance
    if applied is None or not applied.gates:
        return False
    if run is not None:
        for result in settle_gates(run, applied):
            print(result.line)
    failed: bool = broadcast_object_list([run is not None and has_failed(run)])[0]
    return failed


def _is_evaluated(trainer: SwiftTrainer) -> bool:
    """Whether the loop has measured the model that it ended with."""
    state = trainer.state
    measured = {entry["step"] for entry in state.log_history if any(n.startswith("eval_") for n in entry)}
    return not trainer.args.load_best_model_at_end and state.global_step in measured


_ONLY_TRAINING = frozenset(
    {"eval_strategy", "eval_on_start", "early_stopping_patience", "load_best_model_at_end", "bf16", "fp16"}
)
"""Options of a recorded run, or of its label, that say nothing of its model; they may not fit another machine
or other data."""


def open_trained(run: Run, overrides: Sequence[str]) -> TrainingArguments:
    """The arguments of a run, with its trained model as the model.

    Raises:
        UserError: its model was never saved, or ``overrides`` would make another task of it.
    """
    if "task_type" in parse_overrides(overrides):
        raise UserError(
            f"task_type: the run is one of {run.record['task_type']} and stays that; leave it out, or train "
            "a run of the other task type"
        )
    model = run.folder / "model"
    if not model.is_dir():
        remedy = f"finish it with `swift train RUN.yaml --resume {run.folder}`"
        if run.state in ("finished", "running"):
            remedy = "wait for its end" if run.state == "running" else "somebody removed it; train again"
        raise UserError(f"{run.folder}: the run is {run.state} and has no model/; {remedy}")
    # What was kept out of the record can't be given back; a token is not part of what was trained.
    options = {
        name: value
        for name, value in without_hidden(run.record["options"]).items()
        if name not in _ONLY_TRAINING
    }
    governance = recorded(run.record)
    if governance is not None:
        governance = governance.without(_ONLY_TRAINING)
    options = _measured_as_asked(options, overrides, run.record["task_type"], governance)
    options["task_type"] = run.record["task_type"]
    return args_for(model, TrainingArguments.from_record(options, overrides, governance=governance))


def _measured_as_asked(
    options: Mapping[str, Any], overrides: Sequence[str], task_type: str, governance: Applied | None
) -> dict[str, Any]:
    """The ``options`` of a record; where ``overrides`` name evaluation data, no other option does so too."""
    known = known_options(find_task(task_type))
    naming = {"eval_dataset", "eval_split", *(name for name, option in known.items() if option.evaluates)}
    asked = {
        name for name, text in parse_overrides(overrides).items() if name in naming and parse_value(text)
    }
    said = options.keys() | (governance.values.keys() if governance is not None else set())
    others = (naming - asked) & said if asked else set()
    return {**options, **{name: known[name].default_json for name in others}}


def evaluate_run(folder: Path, overrides: Sequence[str] = ()) -> dict[str, float]:
    """Measure the model of a run.

    The figures go into its record, unless ``overrides`` or changed data make them those of something else.
    """
    run = Run.open(folder)
    args = open_trained(run, overrides)
    trainer = SwiftTrainer(args, prepared=prepare_for_evaluation(args), run=run)
    known = {part["name"]: part["fingerprint"] for part in run.record["data"]}
    data = trainer.eval_data
    changed = data is not None and known.get(data.name, data.fingerprint) != data.fingerprint
    # With overrides the figures stay out anyway, and large files need not be read.
    if not changed and not overrides:
        changed = bool(other_inputs(run.record.get("evaluation_inputs"), evaluation_inputs(args)))
    if changed:
        print("the evaluation data is not what the run was measured on: the figures stay out of its record")
    if changed or overrides:
        trainer.other_data = _name_of_other(overrides)
    metrics = trainer.evaluate()
    apart = run.evaluation_folder(trainer.state.global_step, trainer.other_data)
    if trainer.other_data is not None and apart.is_dir():
        print(f"tables    {apart}")
    applied = gates_for(run)
    if trainer.other_data is None and applied is not None:
        for result in settle_gates(run, applied):
            print(result.line)
    return metrics


def _name_of_other(overrides: Sequence[str]) -> str:
    """What other evaluation data goes by in the run's folder: the name of its file, where there is one."""
    given = parse_overrides(overrides).get("eval_dataset", "")
    return re.sub(r"\W+", "-", Path(given).stem).strip("-") or "other"


def export_run(folder: Path, formats: Sequence[str], overrides: Sequence[str] = ()) -> list[Path]:
    """Export the model of a run in each of ``formats``."""
    run = Run.open(folder)
    args = open_trained(run, overrides)
    faults = [f"--format: {fault}" for format in formats if (fault := export_faults(format, args.spec))]
    if faults:
        raise UserError(*faults)
    # Before the model is loaded, which may take long.
    refuse_failed(run, despite=args.core.despite_gates)
    trainer = SwiftTrainer(args, prepared=prepare_for_export(args), run=run)
    return [trainer.save_model(format=format) for format in formats]


def check_run(args: TrainingArguments) -> Preparation:
    """Check the configuration and every row of data, and tokenise; no model is built.

    Raises:
        UserError: all that is wrong.
    """
    refuse_breaches(args, findings_of(args))
    if args.core.dataset is None:
        raise UserError("dataset: expected training data (a file, a folder or a hub id), found none")
    return prepare_task(args)


def describe_result(run: Run) -> dict[str, Any]:
    """What a program wants to know of a finished run."""
    names = ("run_id", "state", "metrics", "model", "exports", "label", "gates")
    return {"folder": str(run.folder), **{name: run.record.get(name) for name in names}}
