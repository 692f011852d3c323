"""Runs a collator's ``encode`` over all rows once, and keeps the result for the next run."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets.table import InMemoryTable, Table
from huggingface_hub import constants
from rich.console import Console
from rich.progress import track

from swift_core.data.dataset import TaskData
from swift_core.data.faults import Faults
from swift_core.data.lengths import LengthStats, measure_lengths
from swift_core.data.token_cache import read_cached, widened, write_cached
from swift_core.errors import PluginError, UserError, listed
from swift_core.hookspecs import Collator

__all__ = ["LengthStats", "encode_data"]

_CHUNK_ROWS = 1000
_BAR_FROM_ROWS = 2000


def encode_data(
    data: TaskData, collator: Collator, *, key: str, cache_dir: Path | None, progress: bool
) -> TaskData:
    """Return ``data`` with ``features`` and ``stats``, from the cache when these rows were encoded before.

    A feature may be a number, a string, or lists of them, ragged or empty; it reads back equal. Every row
    must have the same features (None where a row has no value). Without a writable cache the features stay
    in memory.

    Args:
        data: rows to encode.
        collator: its ``encode`` sees each row once.
        key: covers all that ``encode`` depends on beside the row: tokenizer, options, version of the task.
        cache_dir: folder of cached files; None for ``swift/tokens`` in the Hugging Face cache.
        progress: show a bar for a large data set when standard error is a terminal.

    Raises:
        UserError: ``encode`` refused rows; the first 20 refusals.
        PluginError: the features can't be stored, or lack ``length``.
    """
    if not len(data.records):
        raise UserError(f"{data.name}: there are no rows to encode")
    name = hashlib.sha256(f"{data.fingerprint}\n{key}".encode()).hexdigest()
    folder = Path(constants.HF_HOME) / "swift" / "tokens" if cache_dir is None else cache_dir
    path = folder / f"{name}.arrow"
    table = read_cached(path, len(data.records))
    try:
        if table is None:
            table = _keep(data, collator, path, progress)
    except pa.ArrowException as error:
        raise _unstorable(collator, error) from error
    features = datasets.Dataset(table, fingerprint=name)
    return replace(data, features=features, stats=measure_lengths(features))


def _keep(data: TaskData, collator: Collator, path: Path, progress: bool) -> Table:
    """Encode into the cache, or into memory where the cache can't be written."""
    reason: object = "what was written can't be read back"
    try:
        write_cached(_encoded(data, collator, progress), path)
        table = read_cached(path, len(data.records))
        if table is not None:
            return table
    except OSError as error:
        reason = error.strerror or error
    print(
        f"warning: the token cache {path.parent} can't be used ({reason}); tokens stay in memory, "
        "and the next run makes them again",
        file=sys.stderr,
    )
    tables = list(_encoded(data, collator, progress))
    schema: pa.Schema | None = None
    for table in tables:
        schema = widened(schema, table.schema)
    return InMemoryTable(pa.concat_tables([table.cast(schema) for table in tables]))


def _encoded(data: TaskData, collator: Collator, progress: bool) -> Iterator[pa.Table]:
    """Yield the features of a thousand rows at a time; after a refused row only look for more of them."""
    faults = Faults()
    chunk: list[dict[str, Any]] = []
    names: list[str] = []
    what = "row" if data.gathered is None else "gathered row"
    for number, record in enumerate(_with_bar(data, progress), start=1):
        try:
            features = dict(collator.encode(record))
        except PluginError:
            raise
        except (UserError, ValueError) as error:
            faults.add(f"{data.name} {what} {number}: {error}")
            continue
        names = names or list(features)
        _check_names(collator, names, features, number)
        chunk.append(features)
        if faults.total:
            chunk.clear()
        elif len(chunk) == _CHUNK_ROWS:
            yield _table(collator, names, chunk)
            chunk.clear()
    faults.raise_if_any()
    if chunk:
        yield _table(collator, names, chunk)


def _with_bar(data: TaskData, progress: bool) -> Iterable[Mapping[str, Any]]:
    wanted = progress and sys.stderr.isatty() and len(data.records) >= _BAR_FROM_ROWS
    return track(
        data.records,
        description=f"encoding {data.name} rows",
        console=Console(stderr=True),
        transient=True,
        disable=not wanted,
    )


def _check_names(collator: Collator, names: list[str], features: Mapping[str, Any], number: int) -> None:
    encode = f"{type(collator).__qualname__}.encode"
    if "length" not in features:
        raise PluginError(f"{encode}: expected a feature 'length' (tokens), found {listed(list(features))}")
    if features.keys() != set(names):
        raise PluginError(
            f"{encode}: every row must have the same features, None where it has no value; "
            f"the first has {listed(names)}, row {number} has {listed(list(features))}"
        )


def _table(collator: Collator, names: list[str], chunk: list[dict[str, Any]]) -> pa.Table:
    try:
        table = pa.table({name: [features[name] for features in chunk] for name in names})
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        raise _unstorable(collator, error) from error
    length = table.column("length")
    if not pa.types.is_integer(length.type) or length.null_count:
        raise PluginError(
            f"{type(collator).__qualname__}.encode: feature 'length' must be an integer in every row, "
            f"found {length.type}" + (" with None" if length.null_count else "")
        )
    return table


def _unstorable(collator: Collator, error: Exception) -> PluginError:
    return PluginError(
        f"{type(collator).__qualname__}.encode: features must be numbers, strings, or lists of them, "
        f"of one kind in all rows ({error})"
    )
