"""Paired rows of two runs: the joining, and intervals against scipy's bootstrap and by their coverage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats

from swift_core.errors import UserError
from swift_core.runs.comparing import Pairs, compare, metrics_of, pair_rows, paired_interval, read_tables
from swift_core.runs.record import Run

MakeRun = Callable[..., Run]


def pairs_of(a: np.ndarray, b: np.ndarray) -> Pairs:
    """Pairs with the metric ``m``."""
    sides = ([{"row_id": n, "m": float(value)} for n, value in enumerate(side)] for side in (a, b))
    return pair_rows(*sides)


def per_query(seed: int, gain: float, count: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """Figures such as nDCG of single queries: between 0 and 1, many of them exactly 0 or 1, correlated."""
    generator = np.random.default_rng(seed)
    difficulty = generator.normal(0.5, 0.5, count)
    a = np.clip(difficulty + generator.normal(0, 0.2, count), 0, 1)
    b = np.clip(difficulty + gain + generator.normal(0, 0.2, count), 0, 1)
    return a, b


def test_the_interval_is_that_of_scipy() -> None:
    a, b = per_query(seed=0, gain=0.05)
    found = compare(pairs_of(a, b), ["m"])["m"]
    expected = stats.bootstrap(
        (a, b),
        lambda x, y, axis: np.mean(y - x, axis=axis),
        paired=True,
        method="percentile",
        n_resamples=40_000,
        rng=np.random.default_rng(1),
    )
    # The bounds of 10,000 draws are known to about 2 % of the standard error.
    noise = 0.08 * expected.standard_error
    assert found.low == pytest.approx(expected.confidence_interval.low, abs=noise)
    assert found.high == pytest.approx(expected.confidence_interval.high, abs=noise)
    assert found.difference == pytest.approx(b.mean() - a.mean())
    assert (found.mean_a, found.mean_b) == (pytest.approx(a.mean()), pytest.approx(b.mean()))
    assert (found.higher, found.equal, found.lower) == ((b > a).mean(), (b == a).mean(), (b < a).mean())


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    many = [per_query(seed=n, gain=0.05, count=5_000) for n in range(40)]
    truth = float(np.mean([b.mean() - a.mean() for a, b in many]))
    hits = []
    for seed in range(300):
        a, b = per_query(seed=1000 + seed, gain=0.05, count=60)
        found = compare(pairs_of(a, b), ["m"], resamples=400)["m"]
        hits.append(found.low <= truth <= found.high)
    # 95 % less what a percentile interval of 60 rows is known to lack; three standard errors of 300 tries.
    assert 0.90 <= np.mean(hits) <= 0.985


def test_pairing_tells_more_than_two_separate_samples() -> None:
    a, b = per_query(seed=3, gain=0.05)
    paired = compare(pairs_of(a, b), ["m"])["m"]
    shuffled = compare(pairs_of(a, np.random.default_rng(0).permutation(b)), ["m"])["m"]
    assert shuffled.high - shuffled.low > 1.8 * (paired.high - paired.low)


def test_the_draws_are_those_of_the_seed() -> None:
    pairs = pairs_of(*per_query(seed=0, gain=0.05))
    assert compare(pairs, ["m"]) == compare(pairs, ["m"])
    assert compare(pairs, ["m"]) != compare(pairs, ["m"], seed=1)


def test_two_columns_are_compared_as_two_tables_are() -> None:
    a, b = per_query(seed=0, gain=0.05)
    found = compare(pairs_of(a, b), ["m"], resamples=500, seed=3, level=0.8)["m"]
    expected = (found.difference, found.low, found.high)
    assert paired_interval(a, b, resamples=500, seed=3, level=0.8) == expected
    assert paired_interval(list(a), list(b), resamples=500, seed=3, level=0.8) == expected
    found = compare(pairs_of(a, b), ["m"])["m"]
    assert paired_interval(a, b) == (found.difference, found.low, found.high)


def test_rows_are_joined_by_their_ids_in_any_order() -> None:
    a = [{"query_id": "q1", "text": "x", "m": 1.0}, {"query_id": "q2", "text": "y", "m": 2.0}]
    b = [{"query_id": "q2", "text": "other", "m": 4.0}, {"query_id": "q1", "text": "x", "m": 3.0}]
    pairs = pair_rows(a, b)
    assert pairs.joined_by == ("query_id",)
    assert pairs.rows == [(a[0], b[1]), (a[1], b[0])]
    found = compare(pairs, ["m"])["m"]
    assert (found.mean_a, found.mean_b, found.difference) == (1.5, 3.5, 2.0)


def test_without_ids_rows_are_joined_by_what_is_no_number() -> None:
    a = [{"text": "x", "tags": ["t"], "m": 1}, {"text": "x", "tags": ["t"], "m": 2}, {"text": "y", "m": 3}]
    b = [{"text": "x", "tags": ["t"], "m": 5}, {"text": "x", "tags": ["t"], "m": 6}, {"text": "z", "m": 7}]
    pairs = pair_rows(a, b)
    assert pairs.joined_by == ("text", "tags")
    assert pairs.rows == [(a[0], b[0]), (a[1], b[1])]
    assert (pairs.only_a, pairs.only_b) == (1, 1)
    with pytest.raises(UserError, match=r"found query_id in A and text, tags in B"):
        pair_rows([{"query_id": "q", "m": 1}], b)
    with pytest.raises(UserError, match=r"found none in A and none in B"):
        pair_rows([{"m": 1}], [{"m": 1}])


def test_metrics_are_numbers_in_every_row() -> None:
    rows: list[dict[str, Any]] = [
        {"id": 1, "m": 0.5, "right": True, "part": None, "text": "x"},
        {"id": 2, "m": 1, "right": False, "part": 2.0, "text": "y"},
    ]
    pairs = pair_rows(rows, rows)
    assert metrics_of(pairs) == (["m", "right"], ["part"])
    assert compare(pairs, ["right"])["right"].mean_a == 0.5


def test_the_newest_step_is_read_and_faults_name_file_and_line(make_run: MakeRun) -> None:
    run = make_run()
    with pytest.raises(UserError, match="expected tables of an evaluation, found none"):
        read_tables(run.folder, None)
    for step in (9, 10):
        run.write_table(step, "per_query", [{"query_id": "q", "m": step}])
    assert read_tables(run.folder, None)["per_query"].rows == [{"query_id": "q", "m": 10}]
    assert read_tables(run.folder, 9)["per_query"].step == 9
    with pytest.raises(UserError, match="no evaluation of step 3; steps found: 9, 10"):
        read_tables(run.folder, 3)
    path = run.write_table(10, "per_query", [{"query_id": "q"}])
    path.write_text(path.read_text() + "[1]\n")
    with pytest.raises(UserError, match=r"per_query\.jsonl:2: expected a JSON object, found list"):
        read_tables(run.folder, None)
