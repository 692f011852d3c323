"""Which loss a run has, and which options it reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from swift_cls import losses
from swift_core.errors import UserError, did_you_mean, listed

if TYPE_CHECKING:
    from swift_cls.labels import Labels
    from swift_cls.options import ClassificationOptions, LossName, Problem
    from swift_core.spec import TaskSpec

DEFAULT_LOSS: Mapping[Problem, LossName] = {
    "single_label": "cross_entropy",
    "multi_label": "binary_cross_entropy",
    "regression": "mse",
}

SUITED: Mapping[LossName, Problem] = {
    "cross_entropy": "single_label",
    "focal": "single_label",
    "logit_adjusted": "single_label",
    "binary_cross_entropy": "multi_label",
    "binary_focal": "multi_label",
    "mse": "regression",
}
"""What each loss can learn."""

USES: Mapping[LossName, frozenset[str]] = {
    "cross_entropy": frozenset({"label_smoothing_factor", "class_weights"}),
    "focal": frozenset({"focal_gamma", "class_weights"}),
    "logit_adjusted": frozenset({"logit_adjustment", "label_smoothing_factor", "class_weights"}),
    "binary_cross_entropy": frozenset({"label_smoothing_factor", "class_weights"}),
    "binary_focal": frozenset({"focal_gamma", "class_weights"}),
    "mse": frozenset(),
}
"""Options that a loss reads; one that the loss of a run does not read is refused."""

READS: Mapping[Problem, frozenset[str]] = {
    "single_label": frozenset({"sampling", "calibrate"}),
    "multi_label": frozenset({"threshold", "calibrate"}),
    "regression": frozenset(),
}
"""The same for options that a problem reads."""

_GAMMA = 2.0


def loss_name(task: ClassificationOptions, problem: Problem) -> LossName:
    """The loss of a run."""
    return task.loss or DEFAULT_LOSS[problem]


def check_options(task: ClassificationOptions, labels: Labels) -> None:
    """Refuse a loss that does not fit the labels, and options that nothing would read.

    Raises:
        UserError: all of them.
    """
    name, problem = loss_name(task, labels.problem), labels.problem
    faults = []
    if SUITED[name] != problem:
        suited = [loss for loss, kind in SUITED.items() if kind == problem]
        faults.append(f"loss: {name} learns {SUITED[name]}, found {problem} data; use {listed(suited)}")
    defaults = {field.name: field.default for field in fields(task)}
    for table, chosen, what in ((USES, name, f"loss {name}"), (READS, problem, f"{problem} data")):
        read = table[chosen]  # type: ignore[index]
        others = frozenset().union(*table.values()) - read
        faults += [
            f"{option}: has no effect with {what}; leave it out"
            for option in sorted(others)
            if getattr(task, option) != defaults[option]
        ]
    if name == "logit_adjusted" and task.sampling is not None:
        # Menon et al. 2021, eq. 10: the priors are those of the rows that are learned from.
        faults.append(
            "sampling: expected nothing with loss logit_adjusted, which corrects for the shares of labels in "
            f"the data, found {task.sampling}, which draws other shares; leave one of the two out"
        )
    if task.class_weights == "balanced" and task.sampling is not None:
        faults.append(
            f"sampling: {task.sampling} and class_weights=balanced both make up for rare labels, together "
            "twice; leave one of the two out, or give weights by name"
        )
    faults += _label_faults(task, labels)
    if faults:
        raise UserError(*dict.fromkeys(faults))


_GROUPS: Mapping[Problem, frozenset[str]] = {
    "single_label": frozenset({"labels", "one label"}),
    "multi_label": frozenset({"labels", "several labels"}),
    "regression": frozenset({"scores", "grades"}),
}
"""Groups of metrics that an evaluation gives."""


def check_chosen_metric(name: str | None, spec: TaskSpec, problem: Problem, *, has_direction: bool) -> None:
    """Refuse a ``metric_for_best_model`` that no evaluation gives, or of which nobody says what is better.

    Args:
        name: as the run says it; None where it says none.
        has_direction: the run says ``greater_is_better``; then it may be a figure of an extension.

    Raises:
        UserError: it is such a one.
    """
    bare = (name or "").removeprefix("eval_")
    given = [metric.name for metric in spec.metrics if metric.group in _GROUPS[problem]]
    others = [metric.name for metric in spec.metrics if metric.name not in given]
    if not bare or bare.removesuffix("_calibrated") in given or (has_direction and bare not in others):
        return
    raise UserError(
        f"metric_for_best_model: expected a figure of {problem} data ({listed(given)}), found {bare}."
        f"{did_you_mean(bare, given)} For one of an extension set greater_is_better too"
    )


def _label_faults(task: ClassificationOptions, labels: Labels) -> list[str]:
    """What options say of labels, and the labels do not bear out."""
    faults = []
    empty = [label for label, count in zip(labels.names, labels.counts, strict=True) if count == 0]
    counted = [
        option
        for option, asked in (
            ("class_weights=balanced", task.class_weights == "balanced"),
            ("loss=logit_adjusted", task.loss == "logit_adjusted"),
        )
        if asked
    ]
    if empty and counted:
        faults.append(f"{listed(counted)}: needs training rows of every label, found none of {listed(empty)}")
    if isinstance(task.class_weights, dict):
        if set(map(str, task.class_weights)) >= set(labels.names) and not any(task.class_weights.values()):
            faults.append("class_weights: expected a weight above 0 for some label, found 0 for all")
        unknown = [label for label in map(str, task.class_weights) if label not in labels.names]
        if unknown:
            faults.append(
                f"class_weights: there are no labels {listed(unknown)}; labels: {listed(labels.names)}"
            )
    return faults


def row_losses(logits: Tensor, targets: Tensor, task: ClassificationOptions, labels: Labels) -> Tensor:
    """The loss of each row.

    Args:
        logits: [S, C]; [S, 1] for scores.
        targets: as the collator makes them.

    Returns:
        [S] in float32.
    """
    name = loss_name(task, labels.problem)
    if name == "mse":
        return losses.squared_error(logits.squeeze(1), targets)
    weights = _weights(task, labels, logits)
    gamma = _GAMMA if task.focal_gamma is None else task.focal_gamma
    smoothing = task.label_smoothing_factor
    match name:
        case "focal":
            return losses.focal(logits, targets, gamma=gamma, class_weights=weights)
        case "binary_focal":
            return losses.binary_focal(logits, targets, gamma=gamma, positive_weights=weights)
        case "binary_cross_entropy":
            return losses.binary_cross_entropy(
                logits, targets, positive_weights=weights, label_smoothing=smoothing
            )
        case "logit_adjusted":
            return losses.logit_adjusted(
                logits,
                targets,
                priors=torch.tensor(labels.counts, device=logits.device) / sum(labels.counts),
                tau=task.logit_adjustment or 1.0,
                class_weights=weights,
                label_smoothing=smoothing,
            )
    return losses.cross_entropy(logits, targets, class_weights=weights, label_smoothing=smoothing)


def _weights(task: ClassificationOptions, labels: Labels, logits: Tensor) -> Tensor | None:
    """[C], or None where all count alike."""
    if task.class_weights is None:
        return None
    if isinstance(task.class_weights, dict):
        given = {str(label): weight for label, weight in task.class_weights.items()}
        values = [given.get(name, 1.0) for name in labels.names]
    elif labels.problem == "multi_label":
        values = losses.positive_weights(labels.counts, labels.rows)
    else:
        values = losses.balanced_weights(labels.counts)
    return torch.tensor(values, dtype=torch.float32, device=logits.device)
