"""Two runs, row by row: how sure is a difference between two tables of an evaluation?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from swift_core.errors import UserError, listed
from swift_core.runs.record import Run

Rows = Sequence[Mapping[str, Any]]
_Key = tuple[str, ...]

LEVEL = 0.95
RESAMPLES = 10_000


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table that an evaluation wrote, see :meth:`swift_core.runs.record.Run.write_table`.

    Attributes:
        data: fingerprint of the run's evaluation data, ``none`` where an option of the task named it.
        inputs: fingerprints of what options of the task named, by option; None in records of before there
            were any.
    """

    path: Path
    step: int
    rows: Rows
    data: str
    inputs: Mapping[str, str] | None


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Rows of two tables that belong together.

    Attributes:
        joined_by: the columns that tell which rows belong together.
        rows: a row of A and its row of B.
        only_a, only_b: numbers of rows that the other table does not have.
    """

    joined_by: tuple[str, ...]
    rows: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]
    only_a: int
    only_b: int


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A metric in both runs.

    Attributes:
        mean_a, mean_b: over the rows.
        difference: ``mean_b - mean_a``.
        low, high: bounds of its confidence interval.
        higher, equal, lower: shares of the rows where B is above, equal to and below A.
    """

    mean_a: float
    mean_b: float
    difference: float
    low: float
    high: float
    higher: float
    equal: float
    lower: float


def read_tables(folder: Path, step: int | None) -> dict[str, Table]:
    """Read what the evaluation of ``step`` wrote in the run in ``folder``: tables by name.

    Args:
        step: training step; None for the newest that has tables.

    Raises:
        UserError: there is no run, no evaluation of that step, or a file that is no JSON lines.
    """
    run = Run.open(folder)
    evaluations = run.folder / "evaluations"
    steps = {number: path for number, path in run.evaluations().items() if any(path.glob("*.jsonl"))}
    if not steps:
        raise UserError(
            f"{evaluations}: expected tables of an evaluation, found none; give the run evaluation data, or "
            "evaluate it with `swift evaluate`"
        )
    step = max(steps) if step is None else step
    if step not in steps:
        there = listed([str(number) for number in sorted(steps)])
        raise UserError(f"{evaluations}: there is no evaluation of step {step}; steps found: {there}")
    paths = sorted(steps[step].glob("*.jsonl"))
    fingerprints = [part["fingerprint"] for part in run.record.get("data") or () if part["name"] == "eval"]
    data = fingerprints[0] if fingerprints else "none"
    inputs = run.record.get("evaluation_inputs")
    return {
        path.stem: Table(path=path, step=step, rows=_read_rows(path), data=data, inputs=inputs)
        for path in paths
    }


def pair_rows(a: Rows, b: Rows) -> Pairs:
    """Find the rows that both tables have.

    Rows are joined by the columns whose name is ``id`` or ends with ``_id``, or else by all columns that hold
    no numbers. Where several rows have the same values there, the first belongs to the first, the second to
    the second.

    Raises:
        UserError: the tables have no such columns, or not the same.
    """
    columns_a, columns_b = _joining_columns(a), _joining_columns(b)
    if not columns_a or columns_a != columns_b:
        raise UserError(
            "expected two tables with the same columns that tell rows apart (their name ends with _id, or "
            f"they hold texts), found {listed(columns_a)} in A and {listed(columns_b)} in B"
        )
    rows_a, rows_b = _by_key(a, columns_a), _by_key(b, columns_b)
    both = [(row, rows_b[key]) for key, row in rows_a.items() if key in rows_b]
    return Pairs(joined_by=tuple(columns_a), rows=both, only_a=len(a) - len(both), only_b=len(b) - len(both))


def metrics_of(pairs: Pairs) -> tuple[list[str], list[str]]:
    """The columns that hold a number in every row, and those that do in some rows only."""
    rows = [row for pair in pairs.rows for row in pair]
    names = [name for name in dict.fromkeys(n for row in rows for n in row) if name not in pairs.joined_by]
    numbers = {name: sum(_is_number(row.get(name)) for row in rows) for name in names}
    whole = [name for name in names if numbers[name] == len(rows)]
    return whole, [name for name in names if 0 < numbers[name] < len(rows)]


def compare(
    pairs: Pairs, metrics: Sequence[str], *, resamples: int = RESAMPLES, seed: int = 0, level: float = LEVEL
) -> dict[str, Difference]:
    """Compare the means of ``metrics`` over the paired rows.

    The interval of a difference is the percentile interval of a paired bootstrap (Efron and Tibshirani
    1993, chapter 13; for retrieval Sakai 2006): the pairs are drawn with replacement, as many as there are,
    ``resamples`` times, and the interval holds the middle ``level`` of the mean differences found. All
    metrics are measured on the same draws.

    Args:
        pairs: at least one pair of rows.
        metrics: columns that hold a number in every row.
    """
    a, b = (
        np.array([[pair[side][name] for name in metrics] for pair in pairs.rows], dtype=np.float64)
        for side in (0, 1)
    )  # both [N, M]
    change = b - a  # [N, M]
    low, high = _interval(change, resamples, seed, level)  # [M] each
    return {
        name: Difference(
            mean_a=float(a[:, m].mean()),
            mean_b=float(b[:, m].mean()),
            difference=float(change[:, m].mean()),
            low=float(low[m]),
            high=float(high[m]),
            higher=float((change[:, m] > 0).mean()),
            equal=float((change[:, m] == 0).mean()),
            lower=float((change[:, m] < 0).mean()),
        )
        for m, name in enumerate(metrics)
    }


def paired_interval(
    a: Sequence[float] | np.ndarray,
    b: Sequence[float] | np.ndarray,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> tuple[float, float, float]:
    """``mean(b) - mean(a)`` and the bounds of its interval, as :func:`compare` finds them.

    Args:
        a: [N] a metric, at least of one row.
        b: [N] the same metric of the same rows.
        resamples: how many times rows are drawn.
        seed: of the draws.
        level: share of the mean differences that the interval holds.

    Returns:
        The difference, and the low and the high bound.
    """
    change = np.asarray(b, dtype=np.float64) - np.asarray(a, dtype=np.float64)  # [N]
    low, high = _interval(change[:, None], resamples, seed, level)[:, 0]
    return float(change.mean()), float(low), float(high)


def _interval(change: np.ndarray, resamples: int, seed: int, level: float) -> np.ndarray:
    """Bounds [2, M] of the mean of ``change`` [N, M]."""
    generator = np.random.default_rng(seed)
    count = len(change)
    means = np.empty((resamples, change.shape[1]))  # [R, M]
    for n in range(resamples):
        # How often each row is drawn says all that the mean needs.
        drawn = np.bincount(generator.integers(count, size=count), minlength=count)  # [N]
        means[n] = drawn @ change / count
    bounds: np.ndarray = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return bounds


def _read_rows(path: Path) -> Rows:
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(
                f"{path}:{number}: expected a JSON object, found something else ({error})"
            ) from None
        if not isinstance(row, dict):
            raise UserError(f"{path}:{number}: expected a JSON object, found {type(row).__name__}")
        rows.append(row)
    return rows


def _joining_columns(rows: Rows) -> list[str]:
    names = list(dict.fromkeys(name for row in rows for name in row))
    ids = [name for name in names if name == "id" or name.endswith("_id")]
    return ids or [name for name in names if not any(_is_number(row.get(name)) for row in rows)]


def _by_key(rows: Rows, columns: Sequence[str]) -> dict[tuple[_Key, int], Mapping[str, Any]]:
    seen: dict[_Key, int] = {}
    found = {}
    for row in rows:
        # As JSON, because a column may hold lists.
        key = tuple(json.dumps(row.get(name), sort_keys=True) for name in columns)
        seen[key] = seen.get(key, 0) + 1
        found[key, seen[key]] = row
    return found


def _is_number(value: object) -> bool:
    # True and False are numbers too: whether a row was right is 1 or 0.
    return isinstance(value, int | float)
