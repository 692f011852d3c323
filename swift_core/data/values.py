"""One value of one column: what the types mean, and how a value is shown in an error."""

from __future__ import annotations

import contextlib
import json
import math
import re
import unicodedata
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

import numpy as np

from swift_core.spec import ColumnType

EXPECTED: Mapping[ColumnType, str] = {
    "text": "a text",
    "string": "a string",
    "texts": "a text or a list of texts",
    "list[text]": "a list of texts",
    "integer": "an integer",
    "number": "a number",
    "list[number]": "a list of numbers",
    "boolean": "a boolean",
    "label": "a label (a string or an integer)",
    "any": "a value that JSON can hold",
    "source": "nothing (it is filled by the core)",
}
_SHOWN_CHARACTERS = 60
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Zs", "Zl", "Zp"})
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def described(value: object) -> str:
    """Say what a value is, and show it in at most 60 characters."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None:
        return "null"
    if isinstance(value, str) and not value:
        return "an empty string"
    kinds: list[tuple[type | tuple[type, ...], str]] = [
        (bool, "a boolean"),
        ((int, float, Decimal), "a number"),
        (str, "a string"),
        ((list, tuple), "a list"),
        (Mapping, "an object"),
    ]
    for kind, noun in kinds:
        if isinstance(value, kind):
            return f"{noun} ({_short(value)})"
    return f"a value of type {type(value).__name__}"


def _short(value: Any) -> str:
    if isinstance(value, str):
        # Cut before quoting: a value may be megabytes long.
        value = value[: _SHOWN_CHARACTERS + 1]
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (TypeError, ValueError, RecursionError):
        text = type(value).__name__
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"


def checked(value: Any, type_: ColumnType) -> Any:
    """Return a value that is not None as its column stores it: ``any`` as JSON, whole floats as integers.

    Raises:
        ValueError: it is not of that type; the message says what was expected and found.
    """
    if isinstance(value, np.generic):
        value = value.item()
    match type_:
        case "text" | "string":
            return _string(value, type_)
        case "boolean" if isinstance(value, bool):
            return value
    if type_ not in _CHECKS:
        raise _unlike(type_, value)
    return _CHECKS[type_](value)


def parsed(cell: str, type_: ColumnType) -> Any:
    """Turn a csv cell that is not empty into a value of the column's type, for :func:`checked` to check.

    Raises:
        ValueError: the cell does not spell such a value.
    """
    text = cell.strip()
    match type_:
        # int() and float() also take "1_000" and other alphabets' digits, which no data file means.
        case "integer" if _NUMBER.fullmatch(text):
            return int(text) if re.fullmatch(r"[+-]?\d+", text) and len(text) < 20 else float(text)
        case "number" if _NUMBER.fullmatch(text):
            return float(text)
        case "boolean" if text.lower() in ("true", "false", "1", "0"):
            return text.lower() in ("true", "1")
        case "list[text]" | "list[number]":
            try:
                return json.loads(cell)
            except (ValueError, RecursionError):
                raise ValueError(
                    f"expected {EXPECTED[type_]}, written as JSON in the cell, found {described(cell)}"
                ) from None
        case "texts" if text.startswith("["):
            # A text may begin with a bracket too.
            with contextlib.suppress(ValueError, RecursionError):
                texts = json.loads(cell)
                return texts if all(isinstance(text, str) for text in texts) else cell
        case "integer" | "number" | "boolean":
            raise _unlike(type_, cell)
    return cell


def _unlike(type_: ColumnType, value: object) -> ValueError:
    return ValueError(f"expected {EXPECTED[type_]}, found {described(value)}")


def _string(value: Any, type_: ColumnType) -> str:
    if not isinstance(value, str):
        raise _unlike(type_, value)
    if type_ == "text" and not any(unicodedata.category(letter) not in _INVISIBLE for letter in value):
        found = f"a string without a visible character ({_short(value)})" if value else "an empty string"
        raise ValueError(f"expected a text, found {found}")
    # str.encode is the cheapest way to find half a surrogate pair, which JSON can spell and UTF-8 can't.
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"expected {EXPECTED[type_]}, found half a character at position {error.start + 1} "
            f"(\\u{ord(value[error.start]):04x} without its other half)"
        ) from None
    return value


def _texts(value: Any) -> list[str]:
    if not isinstance(value, list | tuple):
        raise _unlike("list[text]", value)
    texts = []
    for position, item in enumerate(value, start=1):
        try:
            texts.append(_string(item, "text"))
        except ValueError as error:
            raise ValueError(f"item {position}: {error}") from None
    return texts


def _some_texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [_string(value, "text")]
    if not isinstance(value, list | tuple):
        raise _unlike("texts", value)
    if not value:
        raise ValueError("expected a text or a list of texts, found a list without any")
    return _texts(value)


def _numbers(value: Any) -> list[float]:
    if not isinstance(value, list | tuple):
        raise _unlike("list[number]", value)
    numbers = []
    for position, item in enumerate(value, start=1):
        try:
            numbers.append(_number(item))
        except ValueError as error:
            raise ValueError(f"item {position}: {error}") from None
    return numbers


def _label(value: Any) -> str:
    if isinstance(value, str):
        return _string(value, "text")
    if isinstance(value, bool | float) or not isinstance(value, int):
        raise _unlike("label", value)
    return str(value)


def _integer(value: Any) -> int:
    if isinstance(value, float | Decimal) and math.isfinite(value) and value == int(value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise _unlike("integer", value)
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"expected an integer of at most 64 bits, found {described(value)}")
    return value


def _number(value: Any) -> float:
    if not isinstance(value, int | float | Decimal) or isinstance(value, bool):
        raise _unlike("number", value)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"expected a finite number, found {described(value)}")
    return number


def _json(value: Any) -> str:
    try:
        text = json.dumps(value, allow_nan=False, default=_plain_number)
        _check_any(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"expected {EXPECTED['any']}, found {described(value)}: {error}") from None
    return text


def _plain_number(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Decimal):
        return float(value)
    raise TypeError(f"a {type(value).__name__} is not JSON")


def _check_any(value: Any) -> None:
    """Refuse what the parser behind ``datasets.Json`` can't give back."""
    if isinstance(value, str):
        _string(value, "string")
    elif isinstance(value, int) and not -(2**63) <= value < 2**64:
        raise ValueError("an integer has more than 64 bits")
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            if not isinstance(key, str):
                raise ValueError(f"the key {key!r} is not a string")
            _string(key, "string")
            _check_any(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            _check_any(entry)


_CHECKS: Mapping[ColumnType, Callable[[Any], Any]] = {
    "texts": _some_texts,
    "list[text]": _texts,
    "integer": _integer,
    "number": _number,
    "list[number]": _numbers,
    "label": _label,
    "any": _json,
}
