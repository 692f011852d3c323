"""A label as people and programs read it."""

from __future__ import annotations

import dataclasses
from typing import Any

from swift_core.labels.definitions import Label
from swift_core.runs.plain import plain


def shown(label: Label) -> list[str]:
    """The fields of a label that say something, a line each."""
    fields = {k: v for k, v in as_json(label).items() if v not in (None, "", [], {}) and k != "name"}
    lines = []
    for name, value in fields.items():
        if isinstance(value, dict):
            told = ", ".join(f"{key}={inner}" for key, inner in value.items())
        else:
            told = ", ".join(value) if isinstance(value, list) else str(value)
        lines.append(f"  {name:<12} {told}")
    return lines


def as_json(label: Label) -> dict[str, Any]:
    """A label in JSON's types."""
    fields: dict[str, Any] = plain({"name": label.name, **dataclasses.asdict(label)})
    return fields
