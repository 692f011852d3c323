"""Run files: a flat YAML mapping of options, read so that an error can name its line.

Scalars follow the core schema of YAML 1.2: ``2e-5`` is a number, ``no`` and ``on`` are texts, ``010`` is a
text and a key given twice is an error.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from swift_core.errors import UserError


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - the name is pyyaml's


_RESOLVERS = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "null": (r"~|null|Null|NULL|", "~nN\0"),
    "int": (r"[-+]?(0|[1-9][0-9]*)|0x[0-9a-fA-F]+", "-+0123456789"),
    "float": (
        r"[-+]?((\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(inf|Inf|INF))|\.(nan|NaN|NAN)",
        "-+0123456789.",
    ),
}
for _tag, (_pattern, _first) in _RESOLVERS.items():
    _characters: list[Any] = ["" if c == "\0" else c for c in _first]
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _characters)


@dataclass(frozen=True)
class RunFile:
    """The options of a run file and the place of each, such as ``run.yaml:7``."""

    values: dict[str, Any]
    places: dict[str, str]


def read_run_file(path: str | Path) -> RunFile:
    """Read a run file.

    Raises:
        UserError: it is missing, not UTF-8, not YAML, not a mapping, or gives a key twice.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such run file{_other_files(path)}") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: expected UTF-8 text, found byte {error.object[error.start]:#04x} at offset "
            f"{error.start}; save the file as UTF-8"
        ) from error
    except OSError as error:
        raise UserError(f"{path}: the run file can't be read: {error.strerror}") from error
    try:
        root = _compose(text, str(path))
    except RecursionError as error:
        raise UserError(f"{path}: lists or mappings are nested too deeply, or hold themselves") from error
    if root is None:
        raise UserError(f"{path}: the run file is empty; it needs at least task_type: ... and dataset: ...")
    if not isinstance(root, yaml.MappingNode):
        kind = "list" if isinstance(root, yaml.SequenceNode) else "single value"
        raise UserError(f"{path}: expected lines of 'option: value', found a {kind}")
    places = {key.value: f"{path}:{key.start_mark.line + 1}" for key, _ in root.value}
    return RunFile(_construct(root, str(path)), places)


def parse_value(text: str) -> Any:
    """The value of ``option=value`` on the command line; a text that is no YAML stands for itself."""
    try:
        root = _compose(text, "value")
        return None if root is None else _construct(root, "value")
    except (UserError, RecursionError):
        return text


def _compose(text: str, name: str) -> yaml.Node | None:
    try:
        root: yaml.Node | None = _Loader(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        mark, problem = error.problem_mark or error.context_mark, error.problem or error.context
        if problem == "could not find expected ':'":
            # It is noticed in the line after.
            mark, problem = error.context_mark, "expected 'option: value', with a space after the colon"
        place = f"{name}:{mark.line + 1}" if mark else name
        raise UserError(f"{place}: not valid YAML: {problem}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{name}: not valid YAML: {' '.join(str(error).split())}") from error
    faults: list[str] = []
    if root is not None:
        _find_key_faults(root, name, faults)
    if faults:
        raise UserError(*faults)
    return root


def _find_key_faults(node: yaml.Node, name: str, faults: list[str]) -> None:
    if isinstance(node, yaml.SequenceNode):
        for child in node.value:
            _find_key_faults(child, name, faults)
    if not isinstance(node, yaml.MappingNode):
        return
    seen: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
            found = repr(key.value) if isinstance(key, yaml.ScalarNode) else "a list or mapping"
            faults.append(f"{name}:{line}: expected a name before ':', found {found}")
        elif key.value in seen:
            faults.append(
                f"{name}:{line}: '{key.value}' is given twice, first in line {seen[key.value]}; keep one"
            )
        else:
            seen[key.value] = line
        _find_key_faults(value, name, faults)


def _construct(root: yaml.Node, name: str) -> Any:
    loader = _Loader("")
    try:
        return loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{name}:{line}: {error.problem}") from error


def _other_files(path: Path) -> str:
    folder = path.parent if path.parent.is_dir() else None
    names = sorted(p.name for p in folder.glob("*.y*ml"))[:5] if folder else []
    return f"; {folder} holds {', '.join(names)}" if names else "; check the path"
