"""Checks of what a run leaves: a model that measures as before, declared figures, exports that hold it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from swift_core.errors import SwiftError, UserError
from swift_core.exports import export_faults
from swift_core.modes import evaluating
from swift_core.runs.atomic import sha256_of
from swift_core.saving import check_reload
from swift_core.testing.comparing import different_figures, different_outputs, shown, unusable_outputs
from swift_core.testing.outcomes import ConformanceError, NotApplicable
from swift_core.testing.processes import fresh_results
from swift_core.testing.subject import Subject, run_of

_MANIFEST = "manifest.json"
_OUTPUTS = 1e-3


def reload_evaluates_the_same(subject: Subject) -> None:
    """What was saved holds the weights in memory, and a new process measures the same figures with it."""
    trainer = subject.trained.trainer
    _has_evaluation(subject)
    figures = subject.figures
    try:
        with trainer.measuring() as model:
            folder, data = run_of(trainer).model, trainer.train_data
            check_reload(folder, model, trainer.runtime, trainer.collator, data, trainer.options)
    except SwiftError as error:
        raise ConformanceError(
            expected="a saved folder that holds the model in memory",
            found=str(error).split("\n")[0],
            remedy="keep what the model needs in parameters or persistent buffers",
        ) from error
    again = fresh_results(subject)["reloaded"]
    if isinstance(again, str):
        raise ConformanceError(
            expected="`swift evaluate` to measure the saved run in a new process",
            found=again,
            remedy="save beside the weights (`save_pretrained` of the collator) what a reload needs",
        )
    # A task may fit something while it trains, and tell that only then; what it declares it always tells.
    kept = {name for name in figures if name in again or name.removeprefix("eval_") in _declared(subject)}
    wrong = different_figures({n: figures[n] for n in kept}, {n: v for n, v in again.items() if n in kept})
    if wrong:
        raise ConformanceError(
            expected="the saved run to measure in a new process as the model in memory did",
            found=f"differences: {shown(wrong)}",
            remedy="save all that the outputs depend on, that of the collator too; measure without chance",
        )


def _declared(subject: Subject) -> set[str]:
    return {metric.name for metric in subject.spec.metrics}


def _has_evaluation(subject: Subject) -> None:
    trainer = subject.trained.trainer
    if trainer.eval_data is None and not trainer.options.evaluates:
        raise NotApplicable("there is nothing to evaluate on: neither eval_rows nor an option that names it")


def metrics_exist(subject: Subject) -> None:
    """Evaluation gives every declared metric (of one group at least), and its primary one is a number."""
    spec = subject.spec
    if not spec.metrics:
        raise NotApplicable("the task declares no metrics")
    _has_evaluation(subject)
    try:
        figures = subject.figures
    except UserError as error:
        raise ConformanceError(
            expected="an evaluation with every declared metric",
            found="; ".join(error.faults),
            remedy="return them all, or declare them in groups of which one is measured whole",
        ) from error
    measured = [m.name for m in spec.metrics if m.primary and f"eval_{m.name}" in figures]
    broken = [name for name in measured if not math.isfinite(figures[f"eval_{name}"])]
    if broken:
        raise ConformanceError(
            expected="primary metrics that are numbers",
            found=f"{shown(broken)} not finite on the example rows",
            remedy="give rows to evaluate on that define it, or mend how it is computed",
        )


def exports_exist(subject: Subject) -> None:
    """Every declared format is written, and its files follow the weights of the model."""
    formats = _formats(subject)
    for name in formats:
        folder = _written(subject, name)
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        files = manifest["files"]
        lost = [path for path, digest in files.items() if sha256_of(folder / path) != digest]
        if not files or lost or manifest["format"] != name:
            raise ConformanceError(
                expected=f"files of the format '{name}', beside a manifest that lists them",
                found="no files" if not files else f"other files than listed: {shown(lost)}",
                remedy="write into the folder that `export` gets",
            )
        with _other_weights(subject.trained.trainer.network):
            other = _written(subject, name, "exports-of-other-weights", checked=False)
        if other is not None and _digests(other) == files:
            raise ConformanceError(
                expected=f"another model to give other files of the format '{name}'",
                found="the same files for other weights",
                remedy="export the `model` that the hook gets, not the one that it was built from",
            )


def exports_give_the_same_outputs(subject: Subject) -> None:
    """Where the author says how to reload a format: what it gives is what the model gives."""
    if subject.reload_export is None or subject.outputs is None:
        _one_of_two(subject)
        raise NotApplicable("the test says not how to reload: methods `reload_export` and `outputs`")
    trainer = subject.trained.trainer
    for name in _formats(subject):
        folder = _written(subject, name)
        with evaluating(trainer.network), torch.random.fork_rng():
            expected = subject.outputs(trainer.network, trainer.collator)
        reloaded = subject.reload_export(name, folder)
        _say_something(expected, "outputs")
        _say_something(reloaded, f"reload_export('{name}', ...)")
        gap = different_outputs(expected, reloaded, _OUTPUTS)
        if gap is not None:
            raise ConformanceError(
                expected=f"the reloaded format '{name}' to give the model's outputs",
                found=gap,
                remedy="let `export` reload what it wrote, and raise a SwiftError where it differs",
            )


def _one_of_two(subject: Subject) -> None:
    given = [name for name in ("reload_export", "outputs") if getattr(subject, name) is not None]
    if given:
        raise ConformanceError(
            expected="both of `reload_export` and `outputs`, whose results are compared",
            found=f"{given[0]} alone",
            remedy="write the other one too, or neither",
        )


def _say_something(outputs: Any, what: str) -> None:
    fault = unusable_outputs(outputs)
    if fault is not None:
        raise ConformanceError(
            expected=f"outputs that can be compared (tensors, numbers, texts, or lists of them) from {what}",
            found=fault,
            remedy="return what the model gives for some rows, and rows for which that is defined",
        )


def _formats(subject: Subject) -> list[str]:
    declared = [entry.name for entry in subject.spec.exports]
    if not declared:
        raise NotApplicable("the task declares no export formats")
    wanted = declared if subject.export_formats is None else list(subject.export_formats)
    usable = [name for name in wanted if export_faults(name, subject.spec) is None]
    if not usable:
        raise NotApplicable("; ".join(str(export_faults(name, subject.spec)) for name in wanted))
    return usable


def _written(subject: Subject, name: str, parent: str = "exports", *, checked: bool = True) -> Any:
    """The folder of an export, written once. Unless ``checked``, None where the task refuses to write it."""
    folder = subject.folder / parent / name
    if folder.is_dir():
        return folder
    try:
        subject.trained.trainer.save_model(str(folder), format=name)
    except Exception as error:  # a hook may raise anything
        if not checked:
            return None
        raise ConformanceError(
            expected=f"the declared format '{name}' to be written",
            found=f"{type(error).__name__}: {error}",
            remedy="mend `export`, or take the format out of the spec",
        ) from error
    return folder


def _digests(folder: Path) -> dict[str, str]:
    files = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))["files"]
    return {str(path): str(digest) for path, digest in files.items()}


@contextmanager
def _other_weights(model: torch.nn.Module) -> Iterator[None]:
    kept = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    try:
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(0.5).add_(0.01)
        yield
    finally:
        model.load_state_dict(kept)
