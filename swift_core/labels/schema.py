"""The JSON Schema of a labels file, made of the dataclasses that it is read into."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from swift_core.labels.definitions import Decision, LabelsFile, LabelTable, Policy
from swift_core.options import Option, options_of
from swift_core.spec import TASK_NAME


def labels_schema() -> dict[str, Any]:
    """The schema, for editors and for checks that don't run Python."""
    decision = _table(Decision, {})
    labels = {
        "type": "object",
        "propertyNames": {"pattern": f"^{TASK_NAME.pattern}$"},
        "additionalProperties": _table(LabelTable, {"proposal": decision, "approval": decision}),
    }
    file = _table(LabelsFile, {"labels": labels, "policy": _table(Policy, {})})
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "labels of Swift"}
    return {**head, **file}


def _table(fields_of: Any, inner: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The schema of a table; ``inner`` has those of the fields that are tables with fields of their own."""
    properties = {
        name: {**(inner[name] if name in inner else _value(option)), "description": option.help}
        for name, option in options_of(fields_of, "table").items()
    }
    needed = [
        field.name
        for field in dataclasses.fields(fields_of)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    required = {"required": needed} if needed else {}
    return {"type": "object", "properties": properties, **required, "additionalProperties": False}


def _value(option: Option) -> dict[str, Any]:
    schema = dict(option.schema)
    if not schema["default"] and schema["default"] is not False:
        del schema["default"]
    # TOML has no null: what is not given is left out.
    parts = [part for part in schema.pop("anyOf", []) if part.get("type") != "null"]
    return {**schema, **(parts[0] if len(parts) == 1 else {"anyOf": parts} if parts else {})}
