"""Which of the forms that a task reads the rows of an input have, and what turns them into the task's own."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from swift_core.errors import PluginError
from swift_core.spec import Column, Layout, TaskSpec


@dataclass
class Bound:
    """A column of a layout, and where it is in the data.

    ``absent`` counts the rows of the input being read that lack it, ``lacking_inputs`` the inputs without it.
    """

    column: Column
    key: str
    mapped: bool
    absent: int = 0
    lacking_inputs: int = 0

    @property
    def label(self) -> str:
        """What an error calls it."""
        alias = "" if self.key == self.column.name else f" (as '{self.column.name}')"
        return f"column '{self.key}'{alias}"

    def is_in(self, keys: Iterable[str]) -> bool:
        """Whether a row with these keys has it."""
        return bool(self.matching(keys)) if self.key.endswith("*") else self.key in keys

    def matching(self, keys: Iterable[str]) -> list[str]:
        """The keys that a name with ``*`` stands for, a number in its place, in the order of the numbers."""
        stem = self.key.removesuffix("*")
        return sorted(
            (key for key in keys if key.startswith(stem) and key.removeprefix(stem).isdecimal()),
            key=lambda key: int(key.removeprefix(stem)),
        )


@dataclass
class Form:
    """A layout, bound to the names that the data has.

    Attributes:
        inputs: how many inputs were read in this form.
    """

    spec: TaskSpec
    layout: Layout
    bound: list[Bound]
    inputs: int = field(default=0)

    @property
    def required(self) -> list[Bound]:
        """The columns that recognise it."""
        return [bound for bound in self.bound if bound.column.required]

    @cached_property
    def _convert(self) -> Callable[[dict[str, Any]], Mapping[str, Any]] | None:
        return None if self.layout.convert is None else load_function(self.layout.convert, self.spec)

    def row(self, values: dict[str, Any]) -> dict[str, Any]:
        """The task's columns of a checked row; None for what the row does not have.

        Raises:
            ValueError: the row can't be turned into the task's columns.
        """
        made = values if self._convert is None else self._convert(values)
        return {column.name: made.get(column.name) for column in self.spec.columns}


def forms_of(spec: TaskSpec, columns: Mapping[str, str]) -> list[Form]:
    """Every form that rows of a task may have; ``columns`` maps names of columns to names in the data."""
    own = tuple(column for column in spec.columns if column.type != "source")
    layouts = spec.layouts or (Layout(name="", columns=own),)
    return [Form(spec, layout, _bound(layout, columns)) for layout in layouts]


def _bound(layout: Layout, columns: Mapping[str, str]) -> list[Bound]:
    return [Bound(c, columns.get(c.name, c.name), c.name in columns) for c in layout.columns]


def recognised(forms: list[Form], keys: Iterable[str]) -> Form:
    """The first form whose required columns are all among ``keys``; without one, that which lacks least."""
    known = set(map(str, keys))
    fitting = [form for form in forms if all(bound.is_in(known) for bound in form.required)]
    if fitting:
        return fitting[0]
    return max(forms, key=lambda form: sum(bound.is_in(known) for bound in form.bound))


def load_function(path: str, spec: TaskSpec) -> Callable[..., Any]:
    """Import ``module:function`` on behalf of a task.

    Raises:
        PluginError: it can't be imported.
    """
    module, _, name = path.partition(":")
    try:
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except Exception as error:  # code of the package, which may fail in any way
        raise PluginError(f"task type '{spec.name}': {path} can't be loaded ({error})") from error
    return function
