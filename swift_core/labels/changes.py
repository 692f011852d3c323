"""Changes of a labels file as a reviewer wants them: the lines that must change, and no others.

Everything else, comments, order and line ends included, stays as it is. What comes out is read again and
compared with what was meant before anybody writes it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from swift_core.errors import UserError, did_you_mean, listed
from swift_core.labels.definitions import Label, Labels
from swift_core.labels.names import name_fault
from swift_core.labels.reading import label_faults, read_labels
from swift_core.labels.toml_edits import toml, with_table_renamed, with_value
from swift_core.labels.toml_lines import end_of_line, split_lines
from swift_core.registry import OUR_PACKAGES, find_claims

NEW_FILE = """\
# Labels of this project; `swift labels check` reads this file.

[policy]
mode = "warn"  # off, warn or enforce

[groups]
"""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A label that somebody proposes."""

    name: str
    extends: str
    why: str
    by: str
    when: date
    description: str = ""
    owners: Sequence[str] = ()
    gates: Sequence[str] = ()


def proposed(labels: Labels, proposal: Proposal) -> str:
    """The text of the file with the proposed label at its end.

    Raises:
        UserError: there is such a label, or this can't be one; all faults at once.
    """
    name = proposal.name
    fields: dict[str, Any] = {
        "extends": proposal.extends,
        "description": proposal.description,
        "status": "proposed",
        "owners": list(proposal.owners),
        "gates": list(proposal.gates),
    }
    faults = list(_name_faults(labels, name, "NAME"))
    # What the file would be refused for; its name is looked at above.
    found = label_faults({name: fields}, labels.groups)
    faults += [fault for path, fault in found if not faults or path != ("labels", name)]
    faults += _why_faults(proposal.why)
    told = {
        "--extends": [proposal.extends],
        "--description": [proposal.description],
        "--owner": proposal.owners,
        "--gate": proposal.gates,
    }
    faults += _text_faults({**told, "--why": [proposal.why], "your user name": [proposal.by]})
    if faults:
        raise UserError(*faults)
    fields["proposal"] = {"by": proposal.by, "when": proposal.when, "why": proposal.why}
    end = end_of_line(labels.text) or "\n"
    text = labels.text if labels.text.endswith("\n") or not labels.text else f"{labels.text}{end}"
    gap = [""] if text and split_lines(text)[-1].strip() else []
    lines = [f"[labels.{name}]", *(f"{key} = {toml(value)}" for key, value in fields.items() if value)]
    return checked(text + "".join(f"{line}{end}" for line in (*gap, *lines)), labels)


def approved(labels: Labels, name: str, *, by: str, when: date, why: str) -> str:
    """The text of the file with the label approved.

    Raises:
        UserError: there is no such label, it is approved, or ``by`` may not approve; all faults at once.
    """
    return _decided(labels, name, "approved", by=by, when=when, why=why)


def retired(labels: Labels, name: str, *, by: str, when: date, why: str) -> str:
    """The text of the file with the label retired, by one who may approve.

    Raises:
        UserError: there is no such label, it is retired, or ``by`` may not retire it; all faults at once.
    """
    return _decided(labels, name, "retired", by=by, when=when, why=why)


def _decided(labels: Labels, name: str, status: str, *, by: str, when: date, why: str) -> str:
    label = labels.labels.get(name)
    faults = [] if label is not None else [_no_label(labels, name)]
    if label is not None and label.status == status and label.approval is not None:
        told = f"by {label.approval.by} on {label.approval.when}"
        faults.append(f"{labels.at('labels', name)}: label '{name}' is {status} already, {told}")
    faults += [*_approver_faults(labels, by, status), *_why_faults(why)]
    faults += _text_faults({"--why": [why], "your user name": [by]})
    if faults:
        raise UserError(*faults)
    text = with_value(labels.text, ("labels", name), "status", status, labels.place)
    text = with_value(text, ("labels", name), "approval", {"by": by, "when": when, "why": why}, labels.place)
    return checked(text, labels)


def renamed(labels: Labels, name: str, new: str, *, by: str, when: date, why: str) -> str:
    """The text of the file with the label under another name, and the old one among its former names.

    The record of its approval, or of its proposal while it is not approved, is then that of the new name.

    Raises:
        UserError: there is no such label, it is retired, ``new`` can't be its name, or ``by`` may not approve
            the name of an approved label; all faults at once.
    """
    label = labels.labels.get(name)
    faults = [] if label is not None else [_no_label(labels, name)]
    if label is not None and label.status == "retired":
        faults.append(
            f"{labels.at('labels', name)}: label '{name}' is retired and trains nothing; it keeps its name"
        )
    if new == name:
        faults.append(f"NEW: expected another name than '{name}'")
    faults += _name_faults(labels, new, "NEW", label)
    if label is not None and label.status == "approved":
        faults += _approver_faults(labels, by, "renamed")
    faults += [*_why_faults(why), *_text_faults({"--why": [why], "your user name": [by]})]
    if faults or label is None:
        raise UserError(*faults)
    table = ("labels", new)
    text = with_table_renamed(labels.text, ("labels", name), new, labels.place)
    # A label that gets an older name back has it no more as a former one.
    former = [*(other for other in label.former if other != new), name]
    text = with_value(text, table, "former", former, labels.place)
    record = "proposal" if label.status == "proposed" else "approval"
    text = with_value(text, table, record, {"by": by, "when": when, "why": why}, labels.place)
    return checked(text, labels)


def _no_label(labels: Labels, name: str) -> str:
    now = labels.named(name)
    if now is not None:
        return f"{labels.at('labels', now.name)}: label '{name}' is called '{now.name}' now"
    hint = did_you_mean(name, labels.labels)
    return f"{labels.place}: there is no label '{name}'.{hint} Labels: {listed(list(labels.labels))}"


def _name_faults(labels: Labels, name: str, where: str, own: Label | None = None) -> Iterator[str]:
    """Why ``name`` can't be that of a new label, or of ``own``."""
    taken = labels.named(name)
    if taken is not None and taken is not own:
        former = "" if taken.name == name else f", which is called '{taken.name}' now"
        yield (
            f"{labels.at('labels', taken.name)}: there is a label '{name}'{former}; "
            "change it there, or choose another name"
        )
    if fault := name_fault(name, labels.policy.allowed_names):
        yield f"{where}: {fault}"
    elif name in OUR_PACKAGES or any(claim.name == name for claim in find_claims()):
        yield f"{where}: label '{name}' has the name of a task type; choose another one"


def _approver_faults(labels: Labels, by: str, what: str) -> Iterator[str]:
    approvers = labels.members_of(labels.policy.approvers)
    if labels.policy.approvers and by not in approvers:
        who = ", ".join(approvers) or "nobody"
        yield f"{labels.at('policy', 'approvers')}: labels are {what} by {who}, and you are {by!r}"


def _why_faults(why: str) -> Iterator[str]:
    if not why.strip():
        yield f"--why: expected the reason, in a sentence, found {why!r}"


def _text_faults(told: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """What the file can't hold: Python stands for a byte that is no UTF-8 with half a surrogate pair."""
    for where, texts in told.items():
        for text in texts:
            try:
                text.encode()
            except UnicodeEncodeError:
                yield f"{where}: expected UTF-8 text, found {text!r}; check the encoding of the terminal"


def checked(text: str, labels: Labels) -> str:
    """``text``, if it is a labels file without a fault.

    Raises:
        UserError: it is none.
    """
    read_labels(text, place=labels.place)
    return text


def diff(before: str, after: str, place: str) -> str:
    """What changed, as a unified diff."""
    lines = difflib.unified_diff(split_lines(before), split_lines(after), f"a/{place}", f"b/{place}")
    return "".join(
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines
    )
