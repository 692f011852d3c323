"""``swift compare``: two runs on the same data, with intervals of their differences."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from swift_core.cli.show import print_table
from swift_core.errors import UserError, did_you_mean, listed
from swift_core.evaluation_inputs import other_inputs
from swift_core.runs.comparing import (
    LEVEL,
    RESAMPLES,
    Difference,
    Pairs,
    Table,
    compare,
    metrics_of,
    pair_rows,
    read_tables,
)


def compare_runs(parsed: argparse.Namespace) -> int:
    """``swift compare RUN_A RUN_B``."""
    if parsed.seed < 0:
        raise UserError(f"--seed: expected 0 or a greater number, found {parsed.seed}")
    step_a, step_b = _steps(parsed.step)
    tables_a, tables_b = read_tables(Path(parsed.run_a), step_a), read_tables(Path(parsed.run_b), step_b)
    name = _table_name(tables_a, tables_b, parsed.table)
    a, b = tables_a[name], tables_b[name]
    pairs = pair_rows(a.rows, b.rows)
    _refuse_other_rows(a, b, pairs, common=parsed.common)
    found = compare(pairs, _chosen(pairs, parsed.metric), seed=parsed.seed)
    if parsed.json:
        print(json.dumps(_as_json(a, b, name, pairs, found, parsed.seed), ensure_ascii=False))
    else:
        _show(a, b, pairs, found)
    return 0


def _steps(text: str | None) -> tuple[int | None, int | None]:
    """One step for both runs, or one for each, as in ``0,500``."""
    if text is None:
        return None, None
    numbers = text.split(",")
    if not all(number.isdigit() for number in numbers) or len(numbers) > 2:
        raise UserError(
            f"--step: expected a step such as 500, or one for each run such as 0,500, found {text!r}"
        )
    return int(numbers[0]), int(numbers[-1])


def _table_name(a: Mapping[str, Table], b: Mapping[str, Table], asked: str | None) -> str:
    both = [name for name in a if name in b]
    told = f"A has {listed(list(a))} and B has {listed(list(b))}"
    if asked is not None:
        if asked not in both:
            raise UserError(f"--table: {asked!r} is not in both runs: {told}.{did_you_mean(asked, both)}")
        return asked
    if not both:
        raise UserError(f"expected a table that both runs have: {told}; choose other steps with --step")
    if len(both) > 1:
        raise UserError(f"both runs have several tables: choose one of {listed(both)} with --table")
    return both[0]


def _refuse_other_rows(a: Table, b: Table, pairs: Pairs, *, common: bool) -> None:
    different = _different_data(a, b)
    if different and not common:
        raise UserError(
            "the runs were evaluated on different data, so rows with the same id may be different ones: "
            f"{different}; --common compares them all the same"
        )
    if not (pairs.only_a or pairs.only_b) and pairs.rows:
        return
    told = (
        f"{len(pairs.rows):,} rows are in both tables (joined by {listed(pairs.joined_by)}), "
        f"{pairs.only_a:,} of {len(a.rows):,} only in {a.path}, "
        f"{pairs.only_b:,} of {len(b.rows):,} only in {b.path}"
    )
    if not pairs.rows:
        raise UserError(f"nothing to compare: {told}; evaluate both runs on the same data")
    if not common:
        raise UserError(
            f"the runs were not measured on the same rows: {told}; --common compares those that are in both"
        )
    print(told, file=sys.stderr)


def _different_data(a: Table, b: Table) -> str:
    """Fingerprints that differ, in words; empty where none do."""
    found = [("", a.data, b.data)] if a.data != b.data else []
    of_a, of_b = a.inputs or {}, b.inputs or {}
    for name in other_inputs(a.inputs, b.inputs):
        found.append((f" of {name}", of_a.get(name, "none"), of_b.get(name, "none")))
    return ", ".join(f"fingerprint{what} {one[:12]} in A, {other[:12]} in B" for what, one, other in found)


def _chosen(pairs: Pairs, asked: Sequence[str]) -> list[str]:
    whole, partly = metrics_of(pairs)
    faults = [
        f"--metric: {name!r} is not a number in every row"
        if name in partly
        else f"--metric: there is no {name!r} with a number in both tables; metrics found: {listed(whole)}."
        + did_you_mean(name, whole)
        for name in asked
        if name not in whole
    ]
    if faults:
        raise UserError(*faults)
    if not whole:
        raise UserError("nothing to compare: no column holds a number in every row of both tables")
    if partly and not asked:
        print(f"left out, without a number in some rows: {listed(partly)}", file=sys.stderr)
    return list(asked) or whole


def _show(a: Table, b: Table, pairs: Pairs, found: Mapping[str, Difference]) -> None:
    print(f"A  {a.path}\nB  {b.path}")
    print(
        f"{len(pairs.rows):,} rows in both, joined by {listed(pairs.joined_by)}; {LEVEL:.0%} interval of "
        f"B - A by a paired bootstrap of {RESAMPLES:,} resamples\n"
    )
    head = ("metric", "A", "B", "B - A", f"{LEVEL:.0%} interval", "B higher", "equal", "B lower")
    rows = [
        (
            name,
            f"{d.mean_a:.4f}",
            f"{d.mean_b:.4f}",
            f"{d.difference:+.4f}",
            f"{d.low:+.4f} to {d.high:+.4f}",
            *(f"{share:.1%}" for share in (d.higher, d.equal, d.lower)),
        )
        for name, d in found.items()
    ]
    print_table(head, rows)


def _as_json(
    a: Table, b: Table, name: str, pairs: Pairs, found: Mapping[str, Difference], seed: int
) -> dict[str, object]:
    return {
        "a": {"path": str(a.path), "step": a.step, "only": pairs.only_a},
        "b": {"path": str(b.path), "step": b.step, "only": pairs.only_b},
        "table": name,
        "joined_by": list(pairs.joined_by),
        "rows": len(pairs.rows),
        "level": LEVEL,
        "resamples": RESAMPLES,
        "seed": seed,
        "metrics": {metric: dataclasses.asdict(difference) for metric, difference in found.items()},
    }
