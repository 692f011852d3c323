"""What a labels file holds, as data: one field gives the check, the docs' table and the JSON Schema."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Literal

from swift_core.spec import option


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Who decided something, when and why."""

    by: str = option(help="Who: the name of an OS user, or the subject of a token.")
    when: str | date = option(help="The day, such as 2026-11-23.")
    why: str = option(help="The reason, in a sentence.")


@dataclass(frozen=True, kw_only=True)
class LabelTable:
    """The fields of a table ``[labels.NAME]``."""

    extends: str = option(help="The task type that does the work, such as sequence-classification.")
    description: str = option("", help="What runs of this label are for.")
    status: Literal["proposed", "approved", "retired"] = option(
        "proposed", help="Only an approved label passes the policy."
    )
    owners: list[str] = option(
        list, help="Groups whose members may train under this label; none: everybody may."
    )
    defaults: dict[str, Any] = option(
        dict, help="Defaults of options: they win over the task type's and lose to the run's own."
    )
    fixed: dict[str, Any] = option(dict, help="Options with the values that no run may change.")
    pool: str | None = option(None, help="The pool of machines that a launcher should place runs in.")
    gates: list[str] = option(list, help="What a run must reach, such as 'f1_macro >= 0.90'.")
    baseline: str | None = option(None, help="Run that gates compare with: its id, or its folder.")
    former: list[str] = option(
        list, help="Names that the label had before; runs under them are found under the new one."
    )
    proposal: Decision | None = option(None, help="Who proposed the label, when and why.")
    approval: Decision | None = option(None, help="Who approved (or retired) it, when and why.")


@dataclass(frozen=True, kw_only=True)
class Label(LabelTable):
    """A label.

    Attributes:
        name: what runs are filed under.
        members: everybody in the owner groups.
    """

    name: str
    members: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Policy:
    """The table ``[policy]``."""

    mode: Literal["off", "warn", "enforce"] = option(
        "enforce", help="Whether what breaks the rules passes in silence, with a warning, or not at all."
    )
    plain_task_types: bool = option(True, help="Whether runs may be filed under a task type itself.")
    approvers: list[str] = option(list, help="Groups whose members may approve labels; none: everybody may.")
    allowed_names: list[str] = option(
        list, help="Names that look like variants and are none, such as new-york-addresses."
    )


@dataclass(frozen=True, kw_only=True)
class LabelsFile:
    """The tables of a labels file."""

    labels: dict[str, LabelTable] = option(dict, help="The labels by name.")
    groups: dict[str, list[str]] = option(
        dict, help="Members of each group: names of OS users, or subjects of tokens."
    )
    policy: Policy = option(Policy, help="What the labels are worth.")


@dataclass(frozen=True, kw_only=True)
class Labels:
    """A labels file that was read.

    Attributes:
        place: its path or address, as people read it.
        origin: its absolute path, or its address.
        found_by: how it was found, in words.
        sha256: of its text.
        lines: line of each table and key, from 1, by its dotted path as a tuple.
    """

    place: str
    origin: str
    found_by: str
    sha256: str
    text: str
    labels: Mapping[str, Label]
    groups: Mapping[str, list[str]]
    policy: Policy
    lines: Mapping[tuple[str, ...], int] = field(default_factory=dict)

    def members_of(self, groups: list[str]) -> tuple[str, ...]:
        """Everybody in these groups, each once."""
        return tuple(dict.fromkeys(name for group in groups for name in self.groups.get(group, ())))

    def at(self, *path: str) -> str:
        """The place of a table or key, such as ``labels.toml:7``; of the next one around it when unknown."""
        for length in range(len(path), 0, -1):
            line = self.lines.get(path[:length])
            if line is not None:
                return f"{self.place}:{line}"
        return self.place

    def named(self, name: str) -> Label | None:
        """The label that has this name, or had it before."""
        by_former = (label for label in self.labels.values() if name in label.former)
        return self.labels.get(name) or next(by_former, None)
