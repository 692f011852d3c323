"""JSON lines, and files with one JSON array of objects."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from swift_core.data.faults import Faults
from swift_core.data.locations import open_bytes
from swift_core.data.rows import Row
from swift_core.data.values import described


class _DuplicateKey(ValueError):
    pass


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in made if keys.count(key) > 1)
        raise _DuplicateKey(f"the key {json.dumps(twice, ensure_ascii=False)} appears twice in one object")
    return made


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def decoded(raw: bytes, where: str, faults: Faults) -> str | None:
    """Decode UTF-8; what is not UTF-8 becomes a fault and None."""
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        faults.add(
            f"{where}: not UTF-8 at byte {error.start + 1} of the line (0x{raw[error.start]:02x}); "
            "save the file as UTF-8"
        )
        return None


def lines_of(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield line numbers from 1 and lines as bytes, with their ends, without a byte-order mark.

    Raises:
        OSError, EOFError, zlib.error: the file can't be read, or its compression is damaged.
    """
    with open_bytes(path) as stream:
        for number, raw in enumerate(stream, start=1):
            yield number, raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw


def read_json_lines(path: Path, name: str, faults: Faults) -> Iterator[Row]:
    """Yield one row a line; a line that holds no object becomes a fault."""
    for number, raw in lines_of(path):
        where = f"{name}:{number}"
        # bytes.strip() knows ASCII whitespace only, all that JSON allows around an object.
        if not raw.strip() or (text := decoded(raw, where, faults)) is None or not text.strip():
            continue
        try:
            value = _DECODER.decode(text.rstrip())
        except (ValueError, RecursionError) as error:
            faults.add(f"{where}: {_problem(error)}")
            continue
        if isinstance(value, dict):
            yield where, value
        else:
            faults.add(f"{where}: expected a JSON object, found {described(value)}")


def _problem(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not valid JSON at column {error.colno}: {error.msg}"
    if isinstance(error, RecursionError):
        return "not usable JSON: lists or objects are nested too deeply"
    if isinstance(error, _DuplicateKey):
        return str(error)
    return f"not usable JSON: {error}"


def read_json(path: Path, name: str, faults: Faults) -> Iterator[Row]:
    """Yield the objects of one JSON array, or of JSON lines, whichever the file holds."""
    first = next((raw.strip() for _, raw in lines_of(path) if raw.strip()), b"")
    if first == b"{":
        faults.add(
            f"{name}: the file starts with an object over several lines; expected one JSON array of objects, "
            "or one object a line"
        )
    elif first.startswith(b"["):
        yield from _read_array(path, name, faults)
    else:
        yield from read_json_lines(path, name, faults)


def _whole_text(path: Path, name: str, faults: Faults) -> str | None:
    texts = []
    clean = True
    for number, raw in lines_of(path):
        text = decoded(raw, f"{name}:{number}", faults)
        clean = clean and text is not None
        texts.append(text or "")
    return "".join(texts) if clean else None


def _read_array(path: Path, name: str, faults: Faults) -> Iterator[Row]:
    text = _whole_text(path, name, faults)
    if text is None:
        return
    place = _after_space(text, text.index("[") + 1)
    line, counted, item = 1, 0, 0
    separator = "]" if text[place : place + 1] == "]" else ","
    while separator == ",":
        item += 1
        line += text.count("\n", counted, place)
        counted = place
        where = f"{name}:{line} (item {item})"
        try:
            value, place = _DECODER.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            at = f"{name}:{error.lineno}" if isinstance(error, json.JSONDecodeError) else where
            faults.add(f"{at}: {_problem(error)}")
            return
        if isinstance(value, dict):
            yield where, value
        else:
            faults.add(f"{where}: expected a JSON object, found {described(value)}")
        place = _after_space(text, place)
        separator = text[place : place + 1]
        if separator == ",":
            place = _after_space(text, place + 1)
    if separator != "]":
        faults.add(f"{name}: not valid JSON after item {item}: expected ',' or ']'")
    elif _after_space(text, place + 1) != len(text):
        faults.add(f"{name}: not valid JSON: there is text after the closing ']'")


def _after_space(text: str, place: int) -> int:
    while text[place : place + 1] in (" ", "\t", "\r", "\n"):
        place += 1
    return place
