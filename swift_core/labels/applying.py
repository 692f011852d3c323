"""A label applied to a run: which task type does the work, which values hold, what is recorded."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from swift_core.errors import UserError, did_you_mean, listed
from swift_core.labels.definitions import Label, Labels, Policy
from swift_core.labels.names import name_fault
from swift_core.labels.policy import Finding, check_label, current_identity
from swift_core.labels.reading import label_of
from swift_core.registry import OUR_PACKAGES, Claim, find_claims, find_task
from swift_core.runs.redact import redacted, without_credentials

if TYPE_CHECKING:
    from swift_core.arguments import TrainingArguments


@dataclass(frozen=True, kw_only=True)
class Applied:
    """What a labels file says of one run.

    Attributes:
        name: what the run is filed under.
        label: its definition; None for a task type without one.
        policy: the rules.
        origin: the file's absolute path, or its address.
        place: the same as people read it.
        found_by: how it was found, in words.
        sha256: of the file's text.
        places: where each option that the label sets stands in the file.
    """

    name: str
    label: Label | None
    policy: Policy
    origin: str
    place: str
    found_by: str
    sha256: str
    places: Mapping[str, str] = field(default_factory=dict)

    @property
    def values(self) -> Mapping[str, Any]:
        """Options with the values that the label gives; a run's own win, if the policy lets them."""
        return {} if self.label is None else {**self.label.defaults, **self.label.fixed}

    @property
    def gates(self) -> Sequence[str]:
        """The label's gates."""
        return () if self.label is None else self.label.gates

    def without(self, names: Collection[str]) -> Applied:
        """The same, but that the label says nothing of the options ``names``."""
        if self.label is None:
            return self
        defaults, fixed = (
            {name: value for name, value in said.items() if name not in names}
            for said in (self.label.defaults, self.label.fixed)
        )
        said = dataclasses.replace(self.label, defaults=defaults, fixed=fixed)
        return dataclasses.replace(self, label=said)

    def own_values(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The label's values of the options that the run does not give itself."""
        return {name: value for name, value in self.values.items() if name not in given}

    def in_its_name(self, faults: Mapping[str, str]) -> dict[str, str]:
        """Faults of the label's values, by option, as those of the label."""
        return {name: f"label '{self.name}': {fault}" for name, fault in faults.items()}

    def fixed_faults(self, given: Mapping[str, Any]) -> dict[str, str]:
        """The options that the run may not change and did, where the policy is enforced."""
        if self.policy.mode != "enforce" or self.label is None:
            return {}
        findings = check_label(self.label, current_identity(), given, self.policy)
        return {found.option: found.message for found in findings if found.option is not None}

    def to_record(self) -> dict[str, Any]:
        """What ``run.json`` keeps, so that a run can be reloaded and judged without the file."""
        label = None
        if self.label is not None:
            label = dataclasses.asdict(self.label)
            # Who else is in the groups is nothing that every copy of a record should tell.
            del label["members"]
            for values in ("defaults", "fixed"):
                label[values] = redacted(label[values])
        source = {"file": without_credentials(self.origin), "sha256": self.sha256}
        return {**source, "policy": dataclasses.asdict(self.policy), "label": label}


class Resolved(NamedTuple):
    """A task type's claim, and the label through which it was asked for."""

    claim: Claim
    governance: Applied | None

    @classmethod
    def again(cls, task_type: str, governance: Applied | None) -> Resolved:
        """The same for a task type that was found before, without looking at a labels file."""
        return cls(find_task(task_type), governance)


def recorded(record: Mapping[str, Any]) -> Applied | None:
    """What :meth:`Applied.to_record` put into the record of a run; None where there was no labels file."""
    kept = record.get("labels")
    if kept is None:
        return None
    label = kept["label"]
    return Applied(
        name=record["label"],
        label=None if label is None else label_of(label["name"], label),
        policy=Policy(**kept["policy"]),
        origin=kept["file"],
        place=kept["file"],
        found_by="recorded",
        sha256=kept["sha256"],
    )


def resolve(task_type: str, labels: Labels | None) -> Resolved:
    """Find the task type that ``task_type``, a label or a task type, stands for.

    Raises:
        UserError: it stands for nothing, or for a label and a task type.
    """
    if labels is None:
        return Resolved(_task(task_type, None), None)
    label = labels.labels.get(task_type)
    if label is None:
        renamed = labels.named(task_type)
        if renamed is not None:
            raise UserError(
                f"task_type: label '{task_type}' is called '{renamed.name}' now "
                f"({labels.at('labels', renamed.name)}); "
                f"write task_type: {renamed.name}"
            )
        claim = _task(task_type, labels)
        return Resolved(claim, _applied(claim.name, None, labels))
    place = labels.at("labels", label.name)
    twins = [claim for claim in find_claims() if claim.name == label.name]
    if twins:
        raise UserError(
            f"task_type: '{label.name}' is a label ({place}) and a task type of "
            f"{listed([c.package for c in twins])}; "
            f"rename the label, or write task_type: {twins[0].qualified_name} for the task type"
        )
    try:
        claim = find_task(label.extends)
    except UserError as error:
        told = str(error).removeprefix("task_type: ")
        raise type(error)(
            f"task_type: label '{label.name}' extends '{label.extends}' ({place}): {told}"
        ) from error
    return Resolved(claim, _applied(label.name, label, labels))


def _applied(name: str, label: Label | None, labels: Labels) -> Applied:
    places = {}
    for table in ("defaults", "fixed") if label is not None else ():
        places.update({n: labels.at("labels", name, table, n) for n in getattr(label, table)})
    return Applied(
        name=name,
        label=label,
        policy=labels.policy,
        origin=labels.origin,
        place=labels.place,
        found_by=labels.found_by,
        sha256=labels.sha256,
        places=places,
    )


def _task(task_type: str, labels: Labels | None) -> Claim:
    try:
        return find_task(task_type)
    except UserError as error:
        told = [str(error) if str(error).endswith((".", "?")) else f"{error}."]
        known = [*labels.labels] if labels is not None else []
        if labels is None and ":" not in task_type and task_type not in OUR_PACKAGES:
            told.append("There is no labels file here that could name it.")
        if labels is not None:
            told.append(f"Labels of {labels.place}: {listed(known)}.{did_you_mean(task_type, known)}")
        fault = None if ":" in task_type else name_fault(task_type)
        if fault:
            told.append(f"{fault[0].upper()}{fault[1:]}.")
        raise type(error)(" ".join(told)) from error


def findings_of(args: TrainingArguments, *, measured: bool = False) -> tuple[Finding, ...]:
    """What breaks the rules when the user of this process trains with ``args``.

    Args:
        measured: whether the run has evaluation data that ``args`` does not name.
    """
    applied = args.governance
    if applied is None:
        return ()
    found = check_label(applied.label or applied.name, current_identity(), args.given, applied.policy)
    return (*found, *(() if measured else _gate_findings(args, applied)))


def _gate_findings(args: TrainingArguments, applied: Applied) -> tuple[Finding, ...]:
    """Gates that can't be passed: the run has nothing to be measured on."""
    measured = args.core.eval_dataset is not None or args.core.eval_split is not None or args.evaluates
    if not applied.gates or measured or applied.policy.mode == "off":
        return ()
    told = (
        f"label '{applied.name}' has gates ({listed(list(applied.gates))}) and the run nothing to be "
        "measured on; set eval_dataset or eval_split"
    )
    return (Finding("gates", told),)


def refuse_breaches(args: TrainingArguments, findings: Sequence[Finding]) -> None:
    """End here when the policy is enforced.

    Raises:
        UserError: something breaks the rules; all of it.
    """
    if findings and args.governance is not None and args.governance.policy.mode == "enforce":
        place = args.sources.get("task_type")
        lead = f"{place}: " if place else ""
        raise UserError(*(f"{lead}{found.message}" for found in findings))


def former_names(applied: Applied | None) -> Sequence[str]:
    """The names that a run's label had before."""
    return () if applied is None or applied.label is None else applied.label.former


def other_label_faults(record: Mapping[str, Any], args: TrainingArguments) -> list[str]:
    """Why a recorded run can't be gone on with under the label of ``args``: another, or changed."""
    if record["label"] not in (args.label, *former_names(args.governance)):
        return [f"that run is filed under '{record['label']}', found '{args.label}'; write it as it was"]
    kept = recorded(record)
    before = redacted(kept.values) if kept is not None else {}
    after = redacted(args.governance.values) if args.governance is not None else {}
    return [
        f"option {name} was {before.get(name)!r} by the label of that run, found {after.get(name)!r}; "
        "give the "
        "option in the run file, or start a new run"
        for name in sorted({*before, *after} - {*args.given})
        if before.get(name) != after.get(name)
    ]


def label_lines(args: TrainingArguments, *, measured: bool = False) -> list[str]:
    """What to say of the label at the head of a run, warnings included; ``measured`` as in `findings_of`."""
    applied = args.governance
    if applied is None:
        return []
    what = "none"
    if applied.label is not None:
        what = f"{applied.name} ({applied.label.status}, extends {applied.label.extends})"
    lines = [f"label     {what}, policy {applied.policy.mode}: {applied.place}, {applied.found_by}"]
    return lines + [f"warning   {found.message}" for found in findings_of(args, measured=measured)]
