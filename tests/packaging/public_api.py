"""What is public, as text: names, signatures, fields of dataclasses, hooks.

    python tests/packaging/public_api.py --write    write public_api.txt, to be read in review as a difference

Anybody's package may use what stands there: docs/compatibility.md says how it may change.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import inspect
import sys
import typing
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

SNAPSHOT = Path(__file__).with_suffix(".txt")
MODULES = ("swift_core", "swift_core.spec", "swift_core.hookspecs", "swift_core.testing", "swift_core.flat")


def public_api() -> str:
    """The whole text: a paragraph for each module."""
    return "\n".join("\n".join([f"[{name}]", *module_lines(name), ""]) for name in MODULES)


def module_lines(name: str) -> Iterator[str]:
    """The public names of a module, in the order of the alphabet, with what belongs to each."""
    module = importlib.import_module(name)
    own = [key for key, value in vars(module).items() if not key.startswith("_") and _is_own(value, name)]
    for key in sorted(getattr(module, "__all__", own)):
        yield from _lines(key, getattr(module, key))


def _is_own(value: Any, module: str) -> bool:
    home = getattr(value, "__module__", None)
    if inspect.ismodule(value) or any(value is imported for imported in vars(typing).values()):
        return False
    # Plain values (a tuple of names, a type alias) have no home of their own.
    return home in (module, None, "typing", "pluggy._hooks")


def _lines(name: str, value: Any) -> Iterator[str]:
    if inspect.isclass(value):
        bases = [base.__name__ for base in value.__bases__ if base is not object]
        yield f"class {name}({', '.join(bases)})"
        if dataclasses.is_dataclass(value):
            yield from (f"    {_field(field)}" for field in dataclasses.fields(value))
        elif "__init__" in vars(value):
            yield f"    __init__{_signature(value.__init__)}"
        yield from (f"    {line}" for line in _members(value))
    elif inspect.isroutine(value):
        yield f"def {name}{_signature(value)}"
    elif isinstance(value, tuple) and all(isinstance(entry, str) for entry in value):
        yield f"{name} = {', '.join(value)}"
    else:
        yield f"{name}: {type(value).__name__}"


def _signature(function: Any) -> inspect.Signature:
    """The signature, with ``...`` for defaults that say nothing when they are printed."""
    found = inspect.signature(function)
    short = [
        parameter.replace(default=...) if len(repr(parameter.default)) > 40 else parameter
        for parameter in found.parameters.values()
    ]
    return found.replace(parameters=short)


def _members(value: type) -> Iterator[str]:
    fields = {field.name for field in dataclasses.fields(value)} if dataclasses.is_dataclass(value) else set()
    for key, member in sorted(vars(value).items()):
        if key in fields or (key.startswith("_") and key != "__call__"):
            continue
        if isinstance(member, property | cached_property):
            yield f"{key}: property"
        elif isinstance(member, classmethod | staticmethod) or inspect.isroutine(member):
            yield f"{key}{_signature(getattr(value, key))}"
        elif not callable(member):
            yield f"{key}: attribute"


def _field(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return f"{field.name}: {field.type} = {field.default!r}"
    made = field.default_factory
    return f"{field.name}: {field.type}" + ("" if made is dataclasses.MISSING else f" = {made.__name__}()")


def main() -> int:
    """Write the snapshot."""
    parser = argparse.ArgumentParser(description="What is public.")
    parser.add_argument("--write", action="store_true", required=True, help="write public_api.txt")
    parser.parse_args()
    SNAPSHOT.write_text(public_api(), encoding="utf-8")
    print(f"written: {SNAPSHOT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
