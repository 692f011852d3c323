"""What is wrong with the values that are given to options: in a run, or in a label for all of its runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from swift_core.extensions import extension_faults
from swift_core.options import Option, find_faults
from swift_core.spec import TaskSpec

WITHOUT_EFFECT = {
    "remove_unused_columns": "the task's collator decides which columns are used",
    "resume_from_checkpoint": "write `swift train --resume`, or trainer.train(resume_from_checkpoint=...)",
    "label_names": "the task's compute_loss reads the batch itself",
    "label_smoothing_factor": "the task's own loss is used; look for an option of the task",
    **dict.fromkeys(
        (
            "prediction_loss_only",
            "eval_accumulation_steps",
            "eval_do_concat_batches",
            "eval_use_gather_object",
            "batch_eval_metrics",
            "include_for_metrics",
            "bf16_full_eval",
            "fp16_full_eval",
        ),
        "the task's evaluate hook decides what is computed, and how",
    ),
    "include_num_input_tokens_seen": "useful tokens are always counted, see tokens_per_second",
    **dict.fromkeys(
        ("do_train", "do_eval", "do_predict"), "the command, or the method that is called, says what to do"
    ),
}
"""Options of the library that would be accepted and do nothing here, with what to do instead."""


def value_faults(values: Mapping[str, Any], known: Mapping[str, Option], spec: TaskSpec) -> dict[str, str]:
    """What is wrong with values that a run, or a label, gives to options, by the option's name.

    Args:
        values: the values by option.
        known: the options that a run of this task type takes, see :func:`known_options`.
        spec: the task type.
    """
    faults = find_faults(values, known)
    for name in values:
        if name in WITHOUT_EFFECT and name in known and known[name].group == "trainer":
            faults[name] = f"{name}: has no effect here: {WITHOUT_EFFECT[name]}"
    faults.update(package_faults({n: v for n, v in values.items() if n not in faults}, spec))
    return {name: faults[name] for name in values if name in faults}


def unused_faults(values: Mapping[str, Any], spec: TaskSpec) -> dict[str, str]:
    """A fault for each option that the task says it has no use for."""
    return {
        name: f"{name}: has no effect here: task type '{spec.name}' does not use it; leave it out"
        for name in values
        if name in spec.unused_options
    }


def package_faults(values: Mapping[str, Any], spec: TaskSpec) -> dict[str, str]:
    """Which values of the core's options no installed package knows: formats of exports, extensions."""
    from swift_core.exports import export_faults

    faults = {}
    for name in values.get("export_formats", ()):
        if fault := export_faults(name, spec):
            faults["export_formats"] = f"export_formats: {fault}"
    if of_extensions := extension_faults(values.get("extensions", {})):
        faults["extensions"] = "\n".join(of_extensions)
    return faults
