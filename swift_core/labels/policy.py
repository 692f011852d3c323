"""Whether somebody may train under a label with these options: one pure function, for all who ask.

On a user's own machine it is advice: whoever owns the process can change the file, the code or the answer.
What can't be evaded is the same function where somebody else runs it: in the store of runs, the launcher, the
server.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from swift_core.errors import listed
from swift_core.labels.definitions import Label, Policy
from swift_core.labels.names import name_fault


@dataclass(frozen=True)
class Identity:
    """Who asks.

    Attributes:
        subject: a user's name, or the subject of a token.
        source: how it is known. ``os-user`` is what the operating system says of this process; ``token`` is a
            token that the one who calls has verified.
    """

    subject: str
    source: Literal["os-user", "token"] = "os-user"


@dataclass(frozen=True)
class Finding:
    """One thing that breaks the rules.

    Attributes:
        rule: which one.
        message: what was expected, what was found, what to do.
        option: the option that it is about, for the rule ``fixed``.
    """

    rule: Literal["name", "unlabelled", "status", "owner", "fixed", "gates"]
    message: str
    option: str | None = None


def current_identity() -> Identity:
    """The user that this process runs as; environment variables, which anybody may set, are not asked."""
    import psutil

    return Identity(psutil.Process().username(), "os-user")


def check_label(
    label: Label | str, identity: Identity, options: Mapping[str, Any], policy: Policy
) -> tuple[Finding, ...]:
    """What breaks the rules when ``identity`` trains under ``label`` with ``options``; it reads nothing else.

    Args:
        label: the label, or the name of a task type that is used without one.
        identity: who trains.
        options: the options of the run that were given, by name.
        policy: the rules. With mode ``off`` nothing is found; the caller decides what ``warn`` and
            ``enforce`` make of findings.
    """
    if policy.mode == "off":
        return ()
    name = label if isinstance(label, str) else label.name
    found = []
    if fault := name_fault(name, policy.allowed_names):
        found.append(Finding("name", fault))
    if isinstance(label, str):
        if not policy.plain_task_types:
            told = f"'{name}' is no label, and runs may not be filed under a task type; use or propose one"
            found.append(Finding("unlabelled", told))
        return tuple(found)
    if fault := _status_fault(label):
        found.append(Finding("status", fault))
    if label.owners and identity.subject not in label.members:
        found.append(
            Finding(
                "owner",
                f"label '{name}' belongs to {listed(label.owners)}, and {identity.subject!r} "
                f"({identity.source}) is "
                f"in none of them; ask one of {listed(label.members)}",
            )
        )
    found += [Finding("fixed", fault, option) for option, fault in _fixed_faults(label, options)]
    return tuple(found)


def _status_fault(label: Label) -> str | None:
    if label.status == "retired":
        why = f" ({label.approval.why})" if label.approval else ""
        return f"label '{label.name}' is retired{why}; use another one"
    if label.status == "proposed":
        return f"label '{label.name}' is proposed, not approved; ask for `swift labels approve {label.name}`"
    if label.approval is None:
        return f"label '{label.name}' is approved by nobody; `swift labels approve` writes who did, and why"
    return None


def _fixed_faults(label: Label, options: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (
            name,
            f"{name}: label '{label.name}' fixes it to {_shown(value)}, found "
            f"{_shown(options[name])}; leave it out",
        )
        for name, value in label.fixed.items()
        if name in options and _plain(options[name]) != _plain(value)
    ]


def _plain(value: Any) -> Any:
    """What TOML and JSON make of a value: a tuple of Python's is their list."""
    return list(value) if isinstance(value, tuple) else value


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
