"""Which options and columns a loss reads: others are refused, not ignored. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING

from swift_core.errors import listed
from swift_dpo.options import CpoOptions, DpoOptions, KtoOptions, OrpoOptions, SimpoOptions

if TYPE_CHECKING:
    from swift_core.arguments import TrainingArguments

_OF_DIFFERENCES = frozenset({"beta", "f_divergence", "f_alpha", "ld_alpha", "wpo", "dynamic_beta"})
_OF_ANSWERS = frozenset({"beta", "ld_alpha", "wpo", "dynamic_beta"})
_SORTED = frozenset({"beta", "ld_alpha", "dynamic_beta", "label_smoothing"})

USES: Mapping[str, frozenset[str]] = {
    "sigmoid": _OF_DIFFERENCES | {"label_smoothing", "target_margin"},
    "sigmoid_norm": _OF_DIFFERENCES | {"label_smoothing", "target_margin"},
    "ipo": _OF_DIFFERENCES,
    "hinge": _OF_DIFFERENCES | {"target_margin"},
    "robust": _OF_DIFFERENCES | {"label_smoothing", "target_margin"},
    "exo_pair": _OF_DIFFERENCES | {"label_smoothing", "target_margin"},
    "nca_pair": _OF_ANSWERS,
    "bco_pair": _OF_ANSWERS,
    "sppo_hard": _OF_ANSWERS,
    "aot": _SORTED,
    "aot_unpaired": _SORTED,
    "apo_zero": _OF_ANSWERS,
    "apo_down": _OF_ANSWERS,
    "discopop": _OF_DIFFERENCES | {"discopop_tau", "target_margin"},
    "sft": frozenset(),
}
"""Options of ``dpo`` that each loss reads."""

_CONSTRAINED = frozenset({"beta", "bc_weight", "target_margin", "constraint_weight", "violation_function"})

CPO_USES: Mapping[str, frozenset[str]] = {
    "sigmoid": _CONSTRAINED | {"label_smoothing"},
    "hinge": _CONSTRAINED,
    "ipo": frozenset({"beta", "bc_weight"}),
}
"""Options of ``cpo`` that each loss reads."""

KTO_USES: Mapping[str, frozenset[str]] = {
    "kto": frozenset({"beta", "desirable_weight", "undesirable_weight"}),
    "apo_zero_unpaired": frozenset({"beta", "desirable_weight", "undesirable_weight"}),
}
"""Options of ``kto`` that each loss reads: all read all."""

CHANGES_ALL = frozenset({"f_divergence", "f_alpha", "ld_alpha", "wpo", "target_margin"})
"""Options that change what a pair is judged by; all losses of a mixture, but for sft, are to read them.

``ld_alpha`` weighs tokens, for sft too: that does not go together.
"""


def option_faults(
    losses: Collection[str], uses: Mapping[str, frozenset[str]], given: Collection[str]
) -> Iterator[str]:
    """Tell of options that the losses do not read.

    Args:
        losses: those of a run, names in ``uses``.
        uses: options that each loss reads.
        given: names of the options that a run was given.
    """
    every = frozenset().union(*uses.values())
    read = frozenset().union(*(uses[name] for name in losses))
    for option in sorted(every.intersection(given)):
        users = listed([name for name, options in uses.items() if option in options])
        if option not in read:
            yield (
                f"{option}: has no effect with loss {listed(sorted(losses))}; leave it out, or choose a loss "
                f"that reads it: {users}"
            )
            continue
        blind = [name for name in losses if option not in uses[name] and name != "sft"]
        if option in CHANGES_ALL and blind:
            yield (
                f"{option}: expected losses that all read it, found {listed(blind)}, which "
                f"{'does' if len(blind) == 1 else 'do'} not; leave one out, or choose of {users}"
            )


def dpo_faults(options: DpoOptions, given: Collection[str]) -> list[str]:
    """All that is wrong with options of ``dpo``, of which ``given`` were given."""
    losses = options.losses
    faults = list(option_faults(losses, USES, given))
    twice = sorted({name for name in losses if losses.count(name) > 1})
    if twice:
        faults.append(f"loss: expected each loss once, found {listed(twice)} again; give it a larger weight")
    weights = options.loss_weights
    if weights is not None and len(weights) != len(losses):
        faults.append(
            f"loss_weights: expected {len(losses)}, one for each loss, found {len(weights)}; "
            "give as many as there are losses"
        )
    if options.f_alpha is not None and options.f_divergence != "alpha_divergence":
        faults.append(
            f"f_alpha: has no effect with f_divergence {options.f_divergence}; leave it out, or set "
            "f_divergence to alpha_divergence"
        )
    if options.label_smoothing == 0 and "exo_pair" in losses:
        faults.append(
            "label_smoothing: exo_pair expects it above 0, found 0; leave it out (0.001 then), or raise it"
        )
    if "sft" in losses and options.ld_alpha is not None:
        faults.append("ld_alpha: would weigh tokens of sft too; leave it out, or sft")
    return faults


def cpo_faults(options: CpoOptions, given: Collection[str]) -> list[str]:
    """The same for ``cpo``."""
    faults = list(option_faults((options.loss,), CPO_USES, given))
    if options.violation_function is not None and options.constraint_weight is None:
        faults.append(
            "violation_function: has no effect without constraint_weight; set it (1: a unit of violation "
            "costs a unit of score), or leave it out"
        )
    return faults


def kto_faults(options: KtoOptions, given: Collection[str]) -> list[str]:
    """The same for ``kto``."""
    faults = list(option_faults((options.loss,), KTO_USES, given))
    if "pairs" in given:
        faults.append("pairs: has no effect in kto, which takes each answer by itself; leave it out")
    return faults


def sync_faults(args: TrainingArguments) -> list[str]:
    """Why the reference can't be moved by ``reference_sync_steps``, of any task type."""
    if getattr(args.task, "reference_sync_steps", None) is None:
        alone = args.says("reference_mixup_alpha")
        return (
            ["reference_mixup_alpha: has no effect without reference_sync_steps; set it, or leave this out"]
            if alone
            else []
        )
    faults = []
    if args.core.use_lora:
        faults.append(
            "reference_sync_steps: moves a second model in memory, and with use_lora the reference is the "
            "model under the adapter; set use_lora to false, or leave reference_sync_steps out"
        )
    if args.says("reference_cache") and args.task.reference_cache != "off":
        faults.append(
            f"reference_cache: {args.task.reference_cache} keeps what a reference says that never changes, "
            "and reference_sync_steps changes it; set reference_cache to off or leave it out, or leave "
            "reference_sync_steps out"
        )
    faults += [
        f"reference_sync_steps: {option} spreads the weights of the policy over processes, and those of the "
        "reference are whole; leave one of the two out"
        for option in ("fsdp", "deepspeed")
        if getattr(args.trainer, option)
    ]
    return faults


def dpo_column_faults(options: DpoOptions, columns: Collection[str]) -> list[str]:
    """Tell of optional columns that a loss of a run would not read.

    Args:
        options: of the task.
        columns: names of the optional columns (see the layouts) in which some row has a value.
    """
    faults = list(_unread("dpo", columns, {"violations": "cpo"}))
    readers = [name for name, options_ in USES.items() if "target_margin" in options_]
    for loss in options.losses:
        if "margin" in columns and loss not in (*readers, "sft"):
            faults.append(
                f"margin: loss {loss} does not read a row's margin; drop the column, or choose of "
                f"{listed(readers)}"
            )
        if "weight" in columns and loss in ("aot", "aot_unpaired"):
            faults.append(
                f"weight: loss {loss} compares sorted answers, of whatever rows; drop the column, or choose "
                "another loss"
            )
    return faults


def cpo_column_faults(options: CpoOptions, columns: Collection[str]) -> list[str]:
    """The same for ``cpo``; also that ``constraint_weight`` was set and there are no violations."""
    faults = []
    if "margin" in columns and options.loss == "ipo":
        faults.append("margin: loss ipo does not read it; drop the column, or choose sigmoid or hinge")
    if "violations" in columns and options.constraint_weight is None:
        faults.append(
            "violations: have no effect without constraint_weight; set it (1: a unit of violation costs a "
            "unit of score), or drop the column"
        )
    if "violations" not in columns and options.constraint_weight is not None:
        faults.append(
            "constraint_weight: expected a column violations, how much each answer violates the "
            "constraint, found none; add it, or leave constraint_weight out"
        )
    return faults


def simpo_column_faults(_: SimpoOptions, columns: Collection[str]) -> list[str]:
    """The same for ``simpo``."""
    return list(_unread("simpo", columns, {"violations": "cpo"}))


def orpo_column_faults(_: OrpoOptions, columns: Collection[str]) -> list[str]:
    """The same for ``orpo``."""
    return list(_unread("orpo", columns, {"margin": "dpo, cpo or simpo", "violations": "cpo"}))


def kto_column_faults(_: KtoOptions, columns: Collection[str]) -> list[str]:
    """The same for ``kto``."""
    return list(_unread("kto", columns, {"margin": "dpo, cpo or simpo", "violations": "cpo"}))


def _unread(task: str, columns: Collection[str], readers: Mapping[str, str]) -> Iterator[str]:
    for name, others in readers.items():
        if name in columns:
            yield f"{name}: {task} does not read it; drop the column, or train with {others}"
