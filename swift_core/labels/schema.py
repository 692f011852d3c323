"""The JSON Schema of a labels file, made of the dataclasses that it is read into."""

from __future__ import annotations

import dataclasses
from typing import Any

from swift_core.labels.definitions import Decision, LabelsFile, LabelTable, Policy
from swift_core.options import options_of
from swift_core.spec import TASK_NAME


def labels_schema() -> dict[str, Any]:
    """The schema, for editors and for checks that don't run Python."""
    decision = _table(Decision)
    label = _table(LabelTable)
    for name in ("proposal", "approval"):
        told = label["properties"][name]["description"]
        label["properties"][name] = {**decision, "description": told}
    file = _table(LabelsFile)
    parts = file["properties"]
    names = {"pattern": f"^{TASK_NAME.pattern}$"}
    parts["labels"] = {
        "type": "object",
        "description": parts["labels"]["description"],
        "propertyNames": names,
        "additionalProperties": label,
    }
    parts["policy"] = {**_table(Policy), "description": parts["policy"]["description"]}
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "labels of Swift"}
    return {**head, **file}


def _table(fields_of: Any) -> dict[str, Any]:
    properties = {}
    for name, option in options_of(fields_of, "table").items():
        schema = dict(option.schema)
        if not isinstance(schema["default"], str | bool) or not schema["default"]:
            del schema["default"]
        # TOML has no null: what is not given is left out.
        parts = [part for part in schema.pop("anyOf", []) if part.get("type") != "null"]
        properties[name] = {**schema, **(parts[0] if len(parts) == 1 else {"anyOf": parts} if parts else {})}
    needed = [
        field.name
        for field in dataclasses.fields(fields_of)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    required = {"required": needed} if needed else {}
    return {"type": "object", "properties": properties, **required, "additionalProperties": False}
