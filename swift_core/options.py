"""Options as data: one dataclass field gives validation, help, the docs' table and the JSON Schema."""

from __future__ import annotations

import dataclasses
import enum
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from swift_core.errors import did_you_mean

if TYPE_CHECKING:
    from pydantic import TypeAdapter


@dataclass(frozen=True)
class Option:
    """One option: where it comes from, its type, default and help."""

    name: str
    group: str
    annotation: Any
    default: Any
    help: str
    evaluates: bool

    @cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        from pydantic import ConfigDict, TypeAdapter

        # Strict: a "true" or a "3" in quotes is a string, and saying so beats guessing.
        config = ConfigDict(strict=True, arbitrary_types_allowed=True, allow_inf_nan=False)
        return TypeAdapter(self.annotation, config=config)

    def fault(self, value: Any) -> str | None:
        """Why ``value`` does not fit, as 'expected ..., found ...'; None when it does."""
        from pydantic import ValidationError

        names = _enumerated(self.annotation)
        if names and isinstance(value, str) and value not in names:
            return f"{self.name}: expected one of {', '.join(names)}, found {_shown(value)}"
        try:
            self._adapter.validate_python(value)
        except ValidationError:
            return f"{self.name}: expected {self.type_text}, found {_shown(value)}"
        return None

    @property
    def schema(self) -> dict[str, Any]:
        """JSON Schema of the value, with help and default."""
        from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError

        try:
            schema = self._adapter.json_schema(mode="validation")
        except (PydanticInvalidForJsonSchema, PydanticSchemaGenerationError):
            schema = {}  # an object of a library, which only Python code can give
        schema.pop("$defs", None)
        return {**schema, "description": self.help, "default": self.default_json}

    @property
    def default_json(self) -> Any:
        """The default in JSON's types."""
        value = self.default
        return value.value if hasattr(value, "value") else value

    @property
    def type_text(self) -> str:
        """The type in words, such as ``an integer > 0 or null``."""
        try:
            return _words(self._adapter.json_schema(mode="validation"))
        except Exception:  # no schema for a library's own classes: their name is what can be said
            return str(getattr(self.annotation, "__name__", self.annotation))


def options_of(options_class: type, group: str) -> dict[str, Option]:
    """The options that a dataclass defines, by name."""
    hints = typing.get_type_hints(options_class, include_extras=True)
    found = {}
    for field in dataclasses.fields(options_class):
        if not field.init:
            continue
        default = field.default
        if default is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        found[field.name] = Option(
            name=field.name,
            group=group,
            annotation=hints[field.name],
            default=None if default is dataclasses.MISSING else default,
            help=" ".join(str(field.metadata.get("help", "")).split()),
            evaluates=bool(field.metadata.get("evaluates", False)),
        )
    return found


def find_faults(values: Mapping[str, Any], known: Mapping[str, Option]) -> dict[str, str]:
    """Check ``values`` against the ``known`` options; return a fault by the name of each wrong one."""
    faults = {}
    for name, value in values.items():
        option = known.get(name)
        if option is None:
            faults[name] = f"there is no option '{name}'.{did_you_mean(name, known)}"
        elif fault := option.fault(value):
            faults[name] = fault
    return faults


def _enumerated(annotation: Any) -> list[str]:
    """The values of an enumeration in ``annotation``; such options take the value's text too."""
    parts = (annotation, *typing.get_args(annotation))
    classes = [part for part in parts if isinstance(part, type) and issubclass(part, enum.Enum)]
    return [str(member.value) for part in classes for member in part]


_TYPE_WORDS = {
    "integer": "an integer",
    "number": "a number",
    "string": "a text",
    "boolean": "true or false",
    "null": "null",
    "array": "a list",
    "object": "a mapping",
}
_BOUNDS = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}


def _words(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        # A text stands for the names of an enumeration too, which the library checks itself.
        parts = [_words(part) for part in schema["anyOf"] if "$ref" not in part]
        return " or ".join(dict.fromkeys(parts))
    if "const" in schema:
        return repr(schema["const"])
    if "enum" in schema:
        return "one of " + ", ".join(map(str, schema["enum"]))
    words = _TYPE_WORDS.get(str(schema.get("type")), "a value")
    bounds = [f"{sign} {_bound(schema[key])}" for key, sign in _BOUNDS.items() if key in schema]
    if schema.get("type") == "array" and schema.get("items"):
        words += f" (each {_words(schema['items'])})"
    return f"{words} {' and '.join(bounds)}".strip()


def _bound(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"


def _shown(value: Any) -> str:
    """A value as a person wrote it, with its kind, and cut when long."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    text = text if len(text) <= 60 else text[:57] + "..."
    kinds = {str: "text", int: "integer", float: "number", list: "list", dict: "mapping"}
    return f"{text} ({kinds.get(type(value), type(value).__name__)})"
