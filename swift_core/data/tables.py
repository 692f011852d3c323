"""Rows of csv, tsv and parquet files, and of Arrow tables."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from swift_core.data.class_names import names_in, with_class_ids
from swift_core.data.faults import Faults
from swift_core.data.jsonlines import decoded, lines_of
from swift_core.data.rows import Row
from swift_core.errors import listed

ROWS_AT_ONCE = 1000


class _Lines:
    """Decoded lines of a file for ``csv.reader``; remembers the last one."""

    def __init__(self, path: Path, name: str, faults: Faults) -> None:
        self._raw = lines_of(path)
        self._name = name
        self._faults = faults
        self.last = ""

    def __iter__(self) -> Iterator[str]:
        for number, raw in self._raw:
            text = decoded(raw, f"{self._name}:{number}", self._faults)
            # The fault is told; a damaged letter must not shift the fields of all rows that follow.
            self.last = raw.decode(errors="replace") if text is None else text
            yield self.last


def read_delimited(path: Path, name: str, faults: Faults, *, delimiter: str) -> Iterator[Row]:
    """Yield one row a record, with strings as values and None for empty cells.

    Cells that hold the delimiter, a quote or a line break are quoted with ``"``, doubled inside.
    """
    records = _records(path, name, faults, delimiter)
    where, header = next(records, (f"{name}:1", None))
    if header is None:
        return
    problems = [f"column {place} has no name" for place, key in enumerate(header, 1) if not key.strip()]
    problems += [f"two columns are named '{key}'" for key in dict.fromkeys(header) if header.count(key) > 1]
    for problem in problems:
        hint = "" if "two" in problem else " (pandas writes such a column without index=False)"
        faults.add(f"{where}: {problem}; every column needs a name of its own{hint}")
    if problems:
        return
    for where, cells in records:
        if len(cells) == len(header):
            yield where, {key: cell or None for key, cell in zip(header, cells, strict=True)}
        else:
            faults.add(f"{where}: expected {len(header)} cells, as in the header, found {len(cells)}")


def _records(path: Path, name: str, faults: Faults, delimiter: str) -> Iterator[tuple[str, list[str]]]:
    lines = _Lines(path, name, faults)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        first_line = reader.line_num + 1
        where = f"{name}:{first_line}"
        try:
            cells = _next_record(reader)
        except csv.Error as error:
            unclosed = "unexpected end" in str(error)
            faults.add(f"{where}: {'a quoted cell is never closed' if unclosed else error}")
            continue
        if cells is None:
            return
        blank = len(cells) <= 1 and reader.line_num == first_line and not lines.last.strip()
        if not blank:
            yield where, cells


def _next_record(reader: Iterator[list[str]]) -> list[str] | None:
    # The limit on the length of a cell is one for the whole process, so it is lifted only for this call.
    limit = csv.field_size_limit(sys.maxsize)
    try:
        return next(reader, None)
    finally:
        csv.field_size_limit(limit)


def read_parquet(path: Path, name: str, faults: Faults) -> Iterator[Row]:
    """Yield the rows of a parquet file, a thousand in memory at once."""
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            twice = [key for key in dict.fromkeys(names) if names.count(key) > 1]
            if twice:
                faults.add(f"{name}: these columns appear twice: {listed(twice)}")
                return
            rows, classes = rows_of(file.iter_batches(ROWS_AT_ONCE)), _classes_of(file)
            for number, values in enumerate(with_class_ids(rows, classes), start=1):
                yield f"{name} row {number}", values
    except (pa.ArrowException, OSError) as error:
        faults.add(f"{name}: not a readable parquet file ({str(error).splitlines()[0]})")


def _classes_of(file: pq.ParquetFile) -> dict[str, tuple[str, ...]]:
    """The classes that the file names, where the library datasets wrote it."""
    if b"huggingface" not in (file.schema_arrow.metadata or {}):
        return {}
    return names_in(datasets.Features.from_arrow_schema(file.schema_arrow))


def rows_of(batches: Iterable[pa.RecordBatch | pa.Table]) -> Iterator[dict[str, Any]]:
    """Yield the rows of Arrow batches as Python values."""
    for batch in batches:
        yield from batch.to_pylist()
