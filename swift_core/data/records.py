"""Stores checked rows as an Arrow table outside of Python's memory."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa

from swift_core.errors import UserError
from swift_core.spec import Column

_CHUNK_ROWS = 1000
_CHUNK_CHARACTERS = 16_000_000


def features_of(columns: Iterable[Column]) -> datasets.Features:
    """The stored type of each column; never inferred, so rows can't disagree with it.

    A column of type ``any`` is a ``datasets.Json``: JSON text in the table, the value itself when a row is
    read (a float may differ in its last digit).
    """
    return datasets.Features({column.name: _feature(column) for column in columns})


def _feature(column: Column) -> Any:
    match column.type:
        # 64-bit offsets: the texts of a large data set exceed 2 GiB.
        case "text" | "string" | "label":
            return datasets.Value("large_string")
        case "texts" | "list[text]":
            return datasets.List(datasets.Value("large_string"))
        case "list[number]":
            return datasets.List(datasets.Value("float64"))
        case "integer" | "source":
            return datasets.Value("int64")
        case "number":
            return datasets.Value("float64")
        case "boolean":
            return datasets.Value("bool")
        case "any":
            return datasets.Json()


def write_table(rows: Iterable[Mapping[str, Any]], features: datasets.Features) -> pa.Table:
    """Write rows, chunk by chunk, to a temporary file and return it as a memory-mapped table.

    The file has no name any more when this returns: the system frees it with the table, also after a crash.

    Raises:
        UserError: the temporary folder has no room for the rows.
    """
    schema = features.arrow_schema
    with tempfile.TemporaryDirectory(prefix="swift-data-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "records.arrow"
        try:
            with path.open("wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
                for chunk in _chunks(rows):
                    columns = {name: [row[name] for row in chunk] for name in schema.names}
                    writer.write_batch(pa.record_batch(columns, schema=schema))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise UserError(
                f"the temporary folder {Path(folder).parent} is too full for the data; "
                "name another with TMPDIR"
            ) from error
        return pa.ipc.open_stream(pa.memory_map(str(path))).read_all()


def _chunks(rows: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    chunk: list[Mapping[str, Any]] = []
    characters = 0
    for row in rows:
        chunk.append(row)
        characters += sum(_characters(value) for value in row.values())
        if len(chunk) >= _CHUNK_ROWS or characters >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _characters(value: object) -> int:
    if isinstance(value, str):
        return len(value)
    return sum(map(_characters, value)) if isinstance(value, list) else 8
