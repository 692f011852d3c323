"""``swift labels``: show them, check their file, and change it so that it can be reviewed."""

from __future__ import annotations

import argparse
import codecs
import dataclasses
import json
import sys
from datetime import UTC, date, datetime
from pathlib import Path

from swift_core.cli.show import print_table
from swift_core.errors import UserError, did_you_mean, listed
from swift_core.labels import changes
from swift_core.labels.definitions import Label, Labels
from swift_core.labels.finding import FILE_NAME, find_labels
from swift_core.labels.names import name_fault
from swift_core.labels.policy import current_identity
from swift_core.labels.reading import read_labels
from swift_core.labels.telling import as_json, shown
from swift_core.runs.atomic import write_bytes


def labels(parsed: argparse.Namespace) -> int:
    """``swift labels ...``."""
    actions = {
        "list": _list,
        "show": _show,
        "check": _check,
        "propose": _propose,
        "approve": _approve,
        "retire": _retire,
        "rename": _rename,
        "schema": _schema,
    }
    if parsed.action not in actions:
        raise UserError(f"labels: expected one of {listed(list(actions))}; see swift labels --help")
    return actions[parsed.action](parsed)


def _found(parsed: argparse.Namespace) -> Labels:
    found = find_labels(parsed.labels)
    if found is None:
        raise UserError(
            f"labels: there is no {FILE_NAME} in {Path.cwd()} or above it; name one with --labels or "
            "SWIFT_LABELS, "
            "or start one with `swift labels propose`"
        )
    return found


def _list(parsed: argparse.Namespace) -> int:
    found = _found(parsed)
    if parsed.json:
        print(json.dumps([as_json(label) for label in found.labels.values()], ensure_ascii=False))
        return 0
    print(f"{found.place} ({found.found_by}), policy {found.policy.mode}")
    rows = [
        (x.name, x.extends, x.status, ", ".join(x.owners), ", ".join(x.gates), x.description)
        for x in found.labels.values()
    ]
    if rows:
        print_table(("label", "extends", "status", "owners", "gates", "description"), rows)
    return 0


def _show(parsed: argparse.Namespace) -> int:
    found = _found(parsed)
    label = found.named(parsed.name)
    if label is None:
        hint = did_you_mean(parsed.name, found.labels)
        raise UserError(
            f"{found.place}: there is no label '{parsed.name}'.{hint} Labels: {listed(list(found.labels))}"
        )
    if parsed.json:
        print(json.dumps(as_json(label), ensure_ascii=False))
        return 0
    print(f"{label.name}  {found.at('labels', label.name)}")
    for line in shown(label):
        print(line)
    return 0


def _check(parsed: argparse.Namespace) -> int:
    """The file's own faults, names, the options of installed task types, approvals."""
    found = _found(parsed)
    faults = [fault for label in found.labels.values() for fault in _label_faults(label, found)]
    if faults:
        raise UserError(*faults)
    for label in found.labels.values():
        for note in _notes(label):
            print(f"note      {found.at('labels', label.name)}: {note}")
    print(f"{found.place}: {len(found.labels)} labels, no fault found")
    return 0


def _label_faults(label: Label, found: Labels) -> list[str]:
    from swift_core.labels.applying import resolve
    from swift_core.registry import load_spec

    place = found.at("labels", label.name)
    faults = []
    if fault := name_fault(label.name, found.policy.allowed_names):
        faults.append(f"{place}: {fault}")
    approvers = found.members_of(found.policy.approvers)
    if label.status == "approved" and label.approval is None:
        faults.append(
            f"{place}: label '{label.name}' is approved by nobody; `swift labels approve` writes who did"
        )
    elif label.approval is not None and found.policy.approvers and label.approval.by not in approvers:
        who = label.approval.by
        faults.append(
            f"{found.at('labels', label.name, 'approval')}: {who!r} is in none of the approvers' groups"
        )
    try:
        claim, applied = resolve(label.name, found)
    except UserError as error:
        return [*faults, f"{place}: {error}"]
    if applied is not None:
        from swift_core.arguments import known_options
        from swift_core.option_faults import unused_faults, value_faults

        spec = load_spec(claim)
        wrong = value_faults(applied.values, known_options(claim), spec)
        wrong.update(unused_faults(applied.values, spec))
        own = applied.in_its_name(wrong)
        faults += [f"{applied.places.get(name, place)}: {fault}" for name, fault in own.items()]
    return faults


def _notes(label: Label) -> list[str]:
    from swift_core.labels.gates import parse_gate
    from swift_core.registry import find_task, load_spec

    names = [metric.name for metric in load_spec(find_task(label.extends)).metrics]
    unknown = [gate for gate in map(parse_gate, label.gates) if gate.metric not in names]
    return [
        f"gate '{gate.text}': {label.extends} does not declare the metric '{gate.metric}'."
        f"{did_you_mean(gate.metric, names)} It declares {listed(names)}"
        for gate in unknown
        if not gate.metric.startswith("train_")
    ]


def _propose(parsed: argparse.Namespace) -> int:
    found = find_labels(parsed.labels) if not _is_new(parsed.labels) else None
    if found is None:
        # The shell leaves the ~ of --labels=~/labels.toml as it is.
        place = str(Path(parsed.labels or FILE_NAME).expanduser())
        found = read_labels("", place=place, origin=str(Path(place).absolute()))
        start = dataclasses.replace(read_labels(changes.NEW_FILE, place=place), text=changes.NEW_FILE)
    else:
        start = found
    proposal = changes.Proposal(
        name=parsed.name,
        extends=parsed.extends,
        why=parsed.why,
        by=current_identity().subject,
        when=_today(),
        description=parsed.description,
        owners=parsed.owner,
        gates=parsed.gate,
    )
    return _write(parsed, found, changes.proposed(start, proposal))


def _is_new(named: str | None) -> bool:
    return named is not None and "://" not in named and not Path(named).expanduser().exists()


def _approve(parsed: argparse.Namespace) -> int:
    found = _found(parsed)
    by = current_identity().subject
    return _write(parsed, found, changes.approved(found, parsed.name, by=by, when=_today(), why=parsed.why))


def _retire(parsed: argparse.Namespace) -> int:
    found = _found(parsed)
    by = current_identity().subject
    return _write(parsed, found, changes.retired(found, parsed.name, by=by, when=_today(), why=parsed.why))


def _rename(parsed: argparse.Namespace) -> int:
    found = _found(parsed)
    by, old, new = current_identity().subject, parsed.name, parsed.new
    code = _write(parsed, found, changes.renamed(found, old, new, by=by, when=_today(), why=parsed.why))
    if not parsed.dry_run:
        told = f"runs of {old} stay where they are and are found under {new}; run files say task_type: {new}"
        print(f"renamed   {told}", file=sys.stderr)
    return code


def _today() -> date:
    return datetime.now(UTC).date()


def _write(parsed: argparse.Namespace, found: Labels, after: str) -> int:
    """Show the change, and make it where the file is one of this machine."""
    print(changes.diff(found.text, after, found.place), end="")
    if parsed.dry_run:
        return 0
    if "://" in found.origin:
        raise UserError(
            f"{found.place}: an address can't be written to; make this change where the file is kept"
        )
    # What a link leads to is the file, not the link.
    path = Path(found.origin).resolve()
    try:
        before = path.read_bytes() if path.exists() else b""
        mark = codecs.BOM_UTF8 if before.startswith(codecs.BOM_UTF8) else b""
        if before != mark + found.text.encode():
            raise UserError(f"{found.place}: the file has been changed meanwhile; give the command again")
        write_bytes(path, mark + after.encode())
    except OSError as error:
        raise UserError(f"{found.place}: the file can't be written: {error.strerror}") from error
    print(f"written   {found.place}; review and commit the change", file=sys.stderr)
    return 0


def _schema(parsed: argparse.Namespace) -> int:
    from swift_core.labels.schema import labels_schema

    print(json.dumps(labels_schema(), indent=2, ensure_ascii=False))
    return 0
