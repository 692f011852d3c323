"""Rows of one query become one list of candidates."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import datasets
import numpy as np

from swift_core.data.faults import Faults
from swift_core.data.records import write_table
from swift_reranker.conversions import merged

_ROWS_AT_ONCE = 1000


def gather(records: datasets.Dataset) -> tuple[datasets.Dataset, str | None]:
    """Make one list of the rows of each query, in the order of their first rows.

    Rows are of one query if they have the same ``query_id``, or the same text where one of them has no id; it
    does not matter in which file they are. Only an id that two data sets give to different texts names two
    queries: each data set counts its own. See :func:`swift_reranker.conversions.merged` for what a list
    keeps. Beside the numbers of rows, memory is needed for the different queries and one list.

    Returns:
        The lists and what was done; the very same records and None if there is nothing to be done.

    Raises:
        UserError: some rows of a query have labels (or scores) and others do not, or an id has two queries
            in one data set.
    """
    numbers = _list_numbers(records)
    lists = int(numbers.max()) + 1
    if lists == len(records):
        return records, None
    faults, documents = Faults(), [0, 0]
    table = write_table(_lists(records, numbers, faults, documents), records.features)
    faults.raise_if_any()
    # Without a fingerprint the library makes one of a copy of all rows.
    fingerprint = hashlib.sha256(f"{records._fingerprint} lists".encode()).hexdigest()
    made = datasets.Dataset(table, datasets.DatasetInfo(features=records.features), fingerprint=fingerprint)
    told = f"{len(records):,} rows are {lists:,} lists: one for each query"
    if documents[0] > documents[1]:
        told += f"; {documents[0] - documents[1]:,} documents that a query had twice are there once"
    return made, told


def _list_numbers(records: datasets.Dataset) -> np.ndarray:
    """The number of the list that each row belongs to, [rows] int64, in the order of first rows."""
    texts = _codes(records, "query")
    ids = _codes(records, "query_id")
    sources = np.asarray(records.with_format("numpy")["source"][:])
    by_id: dict[tuple[int, int], int] = {}
    by_both: dict[tuple[int | None, int], int] = {}
    by_text: dict[int | None, int] = {}
    unnamed: set[int] = set()
    numbers: list[int] = []
    count = 0
    for source, text, name in zip(sources.tolist(), texts, ids, strict=True):
        first = by_text.get(text)
        if name is None:
            found = first
        else:
            # In its own data set an id means one query, so that another text is found to be a fault.
            found = by_id.get((source, name), by_both.get((text, name)))
            # A list that has no id so far takes that of the first row with its text that has one.
            if found is None and first in unnamed:
                found = first
        if found is None:
            found, count = count, count + 1
            if name is None:
                unnamed.add(found)
        if name is not None:
            unnamed.discard(found)
            by_id[source, name] = by_both[text, name] = found
        by_text.setdefault(text, found)
        numbers.append(found)
    return np.asarray(numbers, dtype=np.int64)


def _codes(records: datasets.Dataset, column: str) -> list[int | None]:
    """A number for each value, the same for equal ones; None where there is none."""
    found: dict[str | None, int | None] = {None: None}
    codes: list[int | None] = []
    for batch in records.select_columns([column]).with_format("arrow").iter(batch_size=_ROWS_AT_ONCE):
        codes += [found.setdefault(value, len(found)) for value in batch[column].to_pylist()]
    return codes


def _lists(
    records: datasets.Dataset, numbers: np.ndarray, faults: Faults, documents: list[int]
) -> Iterator[dict[str, Any]]:
    """The rows of each list as one, until a fault is found; ``documents`` counts them before and after."""
    order = np.argsort(numbers, kind="stable")
    # In their order already, as most files are, rows are read without a look at each place.
    rows = records if (np.diff(order) == 1).all() else records.select(order)
    pairs = zip(numbers[order].tolist(), _plain(rows), strict=True)
    for _, group in groupby(pairs, key=lambda pair: pair[0]):
        together = [row for _, row in group]
        for fault in _faults(together):
            faults.add(fault)
        if not faults.total:
            made = merged(together) if len(together) > 1 else together[0]
            made["query_id"] = _id(together)
            documents[0] += sum(len(row["documents"]) for row in together)
            documents[1] += len(made["documents"])
            yield made


def _plain(rows: datasets.Dataset) -> Iterator[dict[str, Any]]:
    for batch in rows.with_format("arrow").iter(batch_size=_ROWS_AT_ONCE):
        yield from batch.to_pylist()


def _faults(together: Sequence[dict[str, Any]]) -> Iterator[str]:
    query = _shortly(together[0]["query"])
    for name in ("labels", "scores"):
        have = sum(row[name] is not None for row in together)
        if 0 < have < len(together):
            yield (
                f"query {query!r}: {have} of its {len(together)} rows have {name}, the others none; give "
                "them to all rows of a query, or to none"
            )
    other = next((row["query"] for row in together if row["query"] != together[0]["query"]), None)
    if other is not None:
        yield (
            f"query_id {_id(together)!r}: expected one query, found {query!r} and "
            f"{_shortly(other)!r}; give each query an id of its own"
        )


def _id(together: Sequence[dict[str, Any]]) -> str | None:
    return next((row["query_id"] for row in together if row["query_id"] is not None), None)


def _shortly(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:59]}…"
