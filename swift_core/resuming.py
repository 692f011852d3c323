"""Beginning a run, and going on with one: from which checkpoint, and only as the run that it was."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from swift_core.errors import UserError, listed
from swift_core.evaluation_inputs import evaluation_inputs
from swift_core.extensions import extension_packages
from swift_core.labels.applying import former_names, other_label_faults
from swift_core.runs.record import Run, find_resumable
from swift_core.runs.redact import redacted
from swift_core.runs.stored import writing_told

if TYPE_CHECKING:
    from swift_core.arguments import TrainingArguments
    from swift_core.data.dataset import TaskData

_MAY_CHANGE = frozenset(
    {
        "output_dir",
        "run_name",
        "cache_dir",
        "logging_steps",
        "logging_strategy",
        "logging_first_step",
        "save_steps",
        "save_strategy",
        "save_total_limit",
        "eval_steps",
        "eval_strategy",
        "export_formats",
        "disable_tqdm",
        "report_to",
        "dataloader_num_workers",
        "verify_saves",
        "labels",
        "despite_gates",
        "max_steps",
        "num_train_epochs",
    }
)
"""Options that change nothing in what the run has done so far."""


def checkpoint_to_resume(args: TrainingArguments, wanted: str | Path | bool | None) -> Path | None:
    """The checkpoint folder that ``wanted`` stands for; None to start a new run.

    Args:
        args: the options of the run.
        wanted: a ``checkpoint-N`` folder, a run's folder, True for the newest unfinished run with these
            options, None or False for none.

    Raises:
        UserError: there is no such run, or it has no complete checkpoint.
    """
    if wanted is None or wanted is False:
        return None
    if wanted is True:
        return _newest(args)
    folder = Path(wanted)
    if not folder.name.startswith("checkpoint-"):
        return _last(Run.open(folder))
    complete = Run.open(folder.parent).checkpoints()
    if folder.absolute() not in complete:
        names = listed([path.name for path in complete])
        raise UserError(f"resume: {folder} is no complete checkpoint; the run has {names}")
    return folder.absolute()


def _newest(args: TrainingArguments) -> Path:
    run = find_resumable(
        args.output_folder, label=args.label, options=args.given, former=former_names(args.governance)
    )
    if run is None:
        raise UserError(
            f"--resume: {args.output_folder} holds no unfinished run of '{args.label}' with these "
            "options and a checkpoint; name the run's folder after --resume, or leave --resume out to start "
            "a new run"
        )
    return _last(run)


def _last(run: Run) -> Path:
    checkpoints = run.checkpoints()
    if not checkpoints:
        raise UserError(f"--resume: {run.folder} has no complete checkpoint; start a new run")
    return checkpoints[-1]


def begin_run(args: TrainingArguments, data: Sequence[TaskData], checkpoint: Path | None) -> Run:
    """Make a new run that reads ``data``, or take over that of ``checkpoint``.

    Raises:
        UserError: the run of the checkpoint was another one, has finished or runs, or the disk refused.
    """
    inputs = evaluation_inputs(args)
    if checkpoint is None:
        run = new_run(args)
    else:
        run = Run.open(checkpoint.parent)
        refuse_other_run(run, args, data, inputs)
        take_over(run, checkpoint)
    record_inputs(run, args, data, inputs)
    return run


def refuse_other_run(
    run: Run, args: TrainingArguments, data: Sequence[TaskData], inputs: Mapping[str, str]
) -> None:
    """Refuse to go on with ``run`` as something else than it was; nothing of it is touched.

    Args:
        run: as it was.
        args: of the run that is to go on.
        data: what it reads.
        inputs: its ``evaluation_inputs``.

    Raises:
        UserError: its task type, options, data or number of processes differ; all differences at once.
    """
    if run.record["task_type"] != args.claim.qualified_name:
        raise UserError(
            f"--resume: {run.folder} is a run of {run.record['task_type']}, found {args.claim.qualified_name}"
        )
    faults = [f"--resume: {fault}" for fault in other_label_faults(run.record, args)]
    before, after = run.record["options"], redacted(args.given)
    changed = [
        name for name in sorted({*before, *after} - _MAY_CHANGE) if before.get(name) != after.get(name)
    ]
    faults += [
        f"--resume: option {name} was {before.get(name)!r} in that run, found {after.get(name)!r}; "
        "change it back, or start a new run"
        for name in changed
    ]
    processes, world = run.record.get("processes"), args.trainer.world_size
    if processes not in (None, world):
        # Steps would be of another size, and rows of this epoch come twice or not at all.
        faults.append(
            f"--resume: that run was one of {processes} processes, found {world}; start as many, or a new run"
        )
    known = {part["name"]: part["fingerprint"] for part in run.record["data"]}
    faults += [
        f"--resume: the {part.name} data is not what the run began with; restore it, or start a new run"
        for part in data
        if known.get(part.name, part.fingerprint) != part.fingerprint
    ]
    read = run.record.get("evaluation_inputs") or {}
    faults += [
        f"--resume: what {name} names is not what the run began with; restore it, or start a new run"
        for name, fingerprint in inputs.items()
        if name not in changed and read.get(name, fingerprint) != fingerprint
    ]
    if faults:
        raise UserError(*faults)


def take_over(run: Run, checkpoint: Path) -> None:
    """Make ``run`` that of this process, with ``checkpoint`` as its last one.

    Checkpoints that a kill cut off are removed. Later ones are of a course that is left, with which the next
    ``--resume`` must not go on: they are set aside as ``abandoned-checkpoint-N``. So is a model that was
    saved before an evaluation or export failed: figures of what follows are none of its own. Tables of later
    evaluations are removed, as their lines in ``metrics.jsonl`` are.

    Raises:
        UserError: the run has finished or runs, or the disk refused.
    """
    run.continue_()
    run.remove_incomplete_checkpoints()
    complete = run.checkpoints()
    for later in complete[complete.index(checkpoint.absolute()) + 1 :]:
        aside = later.with_name(f"abandoned-{later.name}")
        with writing_told(run.folder):
            shutil.rmtree(aside, ignore_errors=True)
            later.rename(aside)
    run.drop_evaluations_after(int(checkpoint.name.removeprefix("checkpoint-")))
    run.set_model_aside()


def record_inputs(
    run: Run, args: TrainingArguments, data: Sequence[TaskData], inputs: Mapping[str, str]
) -> None:
    """Write into the record what the run reads, and every option with the value that holds.

    Raises:
        UserError: the disk refused.
    """
    run.update(
        data=[part.summary for part in data],
        evaluation_inputs=inputs,
        processes=args.trainer.world_size,
        resolved_options=args.resolved(),
    )


def new_run(args: TrainingArguments) -> Run:
    """Make the folder and the record of a new run.

    Raises:
        UserError: the folder can't be made.
    """
    packages = ["swift-core", args.claim.package, "torch", "transformers", "accelerate", "peft", "datasets"]
    packages += [name for name in extension_packages(args) if name not in packages]
    return Run.create(
        args.output_folder,
        label=args.label,
        task_type=args.claim.qualified_name,
        run_name=args.trainer.run_name,
        options=args.given,
        packages=packages,
        labels=args.governance.to_record() if args.governance is not None else None,
    )
