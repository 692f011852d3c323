"""Functions of the user, named in an option: ``module:function`` or ``path/to/file.py:function``."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from swift_core.errors import UserError, listed

_NAMED = re.compile(r"(?P<module>[A-Za-z_][\w.]*|.*\.py):(?P<name>[A-Za-z_]\w*)")


def is_function(value: str) -> bool:
    """Whether ``value`` has the form of a function's name."""
    return _NAMED.fullmatch(value) is not None


def load_function(value: str, option: str) -> Callable[..., Any]:
    """Import the function that ``value`` names on behalf of ``option``.

    Raises:
        UserError: there is none, or importing it fails.
    """
    named = _named(value, option)
    module = _module(named["module"], option)
    function = getattr(module, named["name"], None)
    if not callable(function):
        known = sorted(
            name
            for name, entry in vars(module).items()
            if inspect.isfunction(entry) and not name.startswith("_") and entry.__module__ == module.__name__
        )
        raise UserError(
            f"{option}: {named['module']} has no function {named['name']!r}; it has {listed(known)}"
        )
    return function  # type: ignore[no-any-return]


def source_of(value: str, option: str) -> str:
    """The code of the file or module that ``value`` names: what its functions do hangs on all of it.

    Raises:
        UserError: it can't be imported or read.
    """
    name = _named(value, option)["module"]
    path = name if name.endswith(".py") else getattr(_module(name, option), "__file__", None)
    if path is None or not path.endswith(".py"):
        return ""  # compiled into Python or a library, and not changed between two runs
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{option}: {path} can't be read ({error})") from None


def _named(value: str, option: str) -> re.Match[str]:
    named = _NAMED.fullmatch(value)
    if named is None:
        raise UserError(f"{option}: expected module:function or file.py:function, found {value!r}")
    return named


def _module(name: str, option: str) -> ModuleType:
    try:
        if not name.endswith(".py"):
            return importlib.import_module(name)
        path = Path(name).expanduser()
        if not path.is_file():
            raise UserError(f"{option}: there is no file {name}")
        return _module_of(path)
    except UserError:
        raise
    except Exception as error:  # code of the user, which may fail in any way
        hint = ""
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            hint = f"; for a file here write {name}.py:function"
        raise UserError(
            f"{option}: {name} can't be imported ({type(error).__name__}: {error}){hint}"
        ) from error


def _module_of(path: Path) -> ModuleType:
    # A name that no other module has: a file may be called json.py.
    name = f"swift file {path.resolve()}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError("Python knows no way to load it")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses, for one, look their module up there.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def number_of_parameters(function: Callable[..., Any]) -> int | None:
    """How many arguments without a default ``function`` takes by position; None where that is not told."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    taken = [one for one in parameters if one.default is one.empty]
    return len(taken) if all(one.kind in kinds for one in taken) else None
