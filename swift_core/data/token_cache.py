"""Encoded rows as Arrow files: written so that a reader sees a whole file or none."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
from datasets.table import MemoryMappedTable


def read_cached(path: Path, rows: int) -> MemoryMappedTable | None:
    """Map a cached table into memory; None when there is none of that many rows that can be read."""
    try:
        table = MemoryMappedTable.from_file(str(path))
        # A file cut between two chunks reads well but is short; a damaged one may hold wild offsets.
        table.validate(full=True)
    except (pa.ArrowException, OSError):
        return None
    return table if table.num_rows == rows else None


def write_cached(tables: Iterable[pa.Table], path: Path) -> None:
    """Write tables as one file at ``path``; processes that write the same file don't disturb each other.

    Raises:
        OSError: the folder can't be written, or the disk is full.
        pyarrow.ArrowInvalid: a column has values of different kinds, such as numbers and lists.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=path.parent, prefix=".partial-", ignore_cleanup_errors=True
    ) as folder:
        segments, schema = _write_segments(tables, Path(folder))
        if len(segments) > 1:
            segments = [_joined(segments, schema, Path(folder) / "joined.arrow")]
        segments[0].replace(path)


def widened(known: pa.Schema | None, new: pa.Schema) -> pa.Schema:
    """The schema that holds the values of both: what was empty so far takes the type that came later.

    Raises:
        pyarrow.ArrowInvalid: there is no such schema.
    """
    return new if known is None else pa.unify_schemas([known, new], promote_options="permissive")


def _write_segments(tables: Iterable[pa.Table], folder: Path) -> tuple[list[Path], pa.Schema]:
    """Write tables one after another; a new file starts where the schema has to be widened."""
    segments: list[Path] = []
    schema: pa.Schema | None = None
    writer: pa.ipc.RecordBatchStreamWriter | None = None
    try:
        for table in tables:
            wider = widened(schema, table.schema)
            if writer is None or wider != schema:
                if writer is not None:
                    writer.close()
                schema = wider
                segments.append(folder / f"{len(segments)}.arrow")
                writer = pa.ipc.new_stream(str(segments[-1]), schema)
            writer.write_table(table.cast(schema))
    finally:
        if writer is not None:
            writer.close()
    return segments, schema


def _joined(segments: list[Path], schema: pa.Schema, target: Path) -> Path:
    with pa.ipc.new_stream(str(target), schema) as writer:
        for segment in segments:
            with pa.memory_map(str(segment)) as stream:
                for batch in pa.ipc.open_stream(stream):
                    writer.write_table(pa.Table.from_batches([batch]).cast(schema))
    return target
