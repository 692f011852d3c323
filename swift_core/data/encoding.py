"""Runs a collator's ``encode`` over all rows once, and keeps the result for the next run."""

from __future__ import annotations

import hashlib
import sys
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from swift_core.hookspecs import Collator, LeftOut

__all__ = ["LengthStats", "encode_data"]

_CHUNK_ROWS = 1000
_BAR_FROM_ROWS = 2000
_WHY = "swift: left out"
"""Column of a cached table that says why a row has no features; null where it has them."""


def encode_data(
    data: TaskData, collator: Collator, *, key: str, cache_dir: Path | None, progress: bool, owner: str = ""
) -> TaskData:
    """Return ``data`` with ``features`` and ``stats``, from the cache when these rows were encoded before.

    A feature may be a number, a string, or lists of them, ragged or empty; it reads back equal. Every row
    must have the same features (None where a row has no value). Without a writable cache the features stay
    in memory. Rows for which ``encode`` returned :class:`~swift_core.hookspecs.LeftOut` are in ``left_out``
    and nowhere else; the features of the others are then held in memory.

    Args:
        data: rows to encode.
        collator: its ``encode`` sees each row once.
        key: covers all that ``encode`` depends on beside the row: tokenizer, options, version of the task.
        cache_dir: folder of cached files; None for ``swift/tokens`` in the Hugging Face cache.
        progress: show a bar for a large data set when standard error is a terminal.
        owner: package and task type that the collator is of, for errors.

    Raises:
        UserError: ``encode`` refused rows, the first 20 refusals; or it left out all of them.
        PluginError: the features can't be stored, or lack ``length``; ``encode`` raised something else than
            a ValueError, which is the cause.
    """
    if not len(data.records):
        raise UserError(f"{data.name}: there are no rows to encode")
    name = hashlib.sha256(f"{data.fingerprint}\n{key}".encode()).hexdigest()
    folder = Path(constants.HF_HOME) / "swift" / "tokens" if cache_dir is None else cache_dir
    path = folder / f"{name}.arrow"
    table = read_cached(path, len(data.records))
    try:
        if table is None:
            table = _keep(data, collator, path, progress, owner)
    except pa.ArrowException as error:
        raise _unstorable(collator, error) from error
    return _with_features(data, table, name)


def try_to_encode(data: TaskData, collator: Collator, owner: str = "") -> None:
    """Encode ``data`` to look for faults, and keep nothing.

    Raises:
        UserError: as :func:`encode_data` does.
    """
    faults = Faults()
    for row, record in enumerate(data.records):
        _made(collator, record, data.place(row), owner, faults)
    faults.raise_if_any()


def _with_features(data: TaskData, table: Table, fingerprint: str) -> TaskData:
    """The data with the features of a table, which may say of some rows that they are left out."""
    reasons: list[str | None] = []
    if _WHY in table.column_names:  # a table of an earlier version has no such column
        reasons, table = table.column(_WHY).to_pylist(), table.drop([_WHY])
    left_out: dict[str, list[int]] = {}
    for number, why in enumerate(reasons, start=1):
        if why is not None:
            left_out.setdefault(why, []).append(number)
    if left_out:
        kept = [place for place, why in enumerate(reasons) if why is None]
        table = InMemoryTable(table.table.take(pa.array(kept)))
        told = {why: tuple(numbers) for why, numbers in left_out.items()}
        places = data.places and data.places.select(kept)
        data = replace(data, records=data.records.select(kept), left_out=told, places=places)
    features = datasets.Dataset(table, fingerprint=fingerprint)
    return replace(data, features=features, stats=measure_lengths(features))


def _keep(data: TaskData, collator: Collator, path: Path, progress: bool, owner: str) -> Table:
    """Encode into the cache, or into memory where the cache can't be written."""
    reason: object = "what was written can't be read back"
    try:
        write_cached(_encoded(data, collator, progress, owner), path)
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
    tables = list(_encoded(data, collator, progress, owner))
    schema: pa.Schema | None = None
    for table in tables:
        schema = widened(schema, table.schema)
    return InMemoryTable(pa.concat_tables([table.cast(schema) for table in tables]))


def _encoded(data: TaskData, collator: Collator, progress: bool, owner: str) -> Iterator[pa.Table]:
    """Yield the features of a thousand rows at a time; after a refused row only look for more of them."""
    faults = Faults()
    chunk: list[Mapping[str, Any] | LeftOut] = []
    names: list[str] = []
    for row, record in enumerate(_with_bar(data, progress)):
        made = _made(collator, record, data.place(row), owner, faults)
        if made is None:
            continue
        if not isinstance(made, LeftOut):
            names = names or list(made)
            _check_names(collator, names, made, row + 1)
        chunk.append(made)
        if faults.total:
            chunk.clear()
        # Columns have no names before the first row that is kept.
        elif len(chunk) >= _CHUNK_ROWS and names:
            yield _table(collator, names, chunk)
            chunk.clear()
    faults.raise_if_any()
    if chunk and not names:
        raise _nothing_left(data, chunk)
    if chunk:
        yield _table(collator, names, chunk)


def _made(
    collator: Collator, record: Mapping[str, Any], place: str, owner: str, faults: Faults
) -> Mapping[str, Any] | LeftOut | None:
    """What ``encode`` makes of a row; None for a row that it refuses, which is a fault."""
    encode = f"{type(collator).__qualname__}.encode"
    who = f"{owner}: " if owner else ""
    try:
        made = collator.encode(record)
    except (PluginError, MemoryError):
        raise
    except (UserError, ValueError) as error:
        faults.add(f"{place}: {error}")
        return None
    except Exception as error:  # a mistake of the package, of which one is enough
        raised = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        faults.add(f"{place}: {who}{encode} raised {raised} ({_line_of(error, collator)})", first=True)
        raise faults.error(PluginError) from error
    if not isinstance(made, Mapping | LeftOut):
        raise PluginError(
            f"{place}: {who}{encode} returned a {type(made).__name__}, expected a mapping of features to "
            "values"
        )
    return made


def _line_of(error: Exception, collator: Collator) -> str:
    """The innermost line of the collator's own file that was running when ``error`` was raised."""
    own = getattr(sys.modules.get(type(collator).__module__), "__file__", None)
    frames = traceback.extract_tb(error.__traceback__)
    frame = next((frame for frame in reversed(frames) if frame.filename == own), frames[-1])
    return f"{Path(frame.filename).name}:{frame.lineno}"


def _nothing_left(data: TaskData, rows: Iterable[Mapping[str, Any] | LeftOut]) -> UserError:
    counts = Counter(row.why for row in rows if isinstance(row, LeftOut))
    reasons = listed([f"{count:,} ({why})" for why, count in counts.most_common()])
    return UserError(f"{data.name}: no row is left to use; left out: {reasons}")


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


def _table(collator: Collator, names: list[str], chunk: Sequence[Mapping[str, Any] | LeftOut]) -> pa.Table:
    out = [row.why if isinstance(row, LeftOut) else None for row in chunk]
    columns = {name: [None if isinstance(row, LeftOut) else row[name] for row in chunk] for name in names}
    try:
        table = pa.table(columns)
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        raise _unstorable(collator, error) from error
    nulls = len(out) - out.count(None)
    length = table.column("length")
    if nulls == len(chunk):  # nothing in it says what the type is
        return table.append_column(_WHY, pa.array(out, pa.string()))
    if not pa.types.is_integer(length.type) or length.null_count > nulls:
        raise PluginError(
            f"{type(collator).__qualname__}.encode: feature 'length' must be an integer in every row, "
            f"found {length.type}" + (" with None" if length.null_count > nulls else "")
        )
    return table.append_column(_WHY, pa.array(out, pa.string()))


def _unstorable(collator: Collator, error: Exception) -> PluginError:
    return PluginError(
        f"{type(collator).__qualname__}.encode: features must be numbers, strings, or lists of them, "
        f"of one kind in all rows ({error})"
    )
