"""Batches up to a number of tokens: full, random, the same number everywhere."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from swift_core.sampling import PlannedBatches, _epochs

LENGTHS = np.random.default_rng(0).lognormal(4, 1, size=3000).astype(int).clip(1, 900)


def batches_of(epoch: int = 0, **options: Any) -> list[list[int]]:
    sampler = PlannedBatches(LENGTHS, **{"max_tokens": 2000, "epochs": 3, **options})
    sampler.set_epoch(epoch)
    found = list(sampler)
    assert len(found) == len(sampler)
    return found


def test_every_row_comes_once_and_no_batch_is_above_the_budget() -> None:
    found = batches_of()
    assert sorted(row for batch in found for row in batch) == list(range(len(LENGTHS)))
    tokens = [int(LENGTHS[batch].sum()) for batch in found]
    assert max(tokens) <= 2000
    assert np.mean(tokens) > 0.8 * 2000


def test_rows_of_a_batch_are_of_similar_length() -> None:
    padded = sum(len(batch) * LENGTHS[batch].max() for batch in batches_of())
    assert padded < 1.2 * LENGTHS.sum()
    unsorted = batches_of(shuffle=False)
    assert sum(len(batch) * LENGTHS[batch].max() for batch in unsorted) > 2 * LENGTHS.sum()


def test_the_order_is_that_of_the_seed_and_another_one_in_each_epoch() -> None:
    assert batches_of() == batches_of()
    assert batches_of() != batches_of(epoch=1)
    assert batches_of() != batches_of(seed=1)


def test_which_rows_meet_is_a_matter_of_chance() -> None:
    meetings: Counter[int] = Counter()
    # Stable: which of the rows of one length another sort puts there depends on the processor.
    row = int(np.argsort(LENGTHS, kind="stable")[len(LENGTHS) // 2])
    for epoch in range(3):
        (batch,) = [batch for batch in batches_of(epoch) if row in batch]
        meetings.update(set(batch) - {row})
    each_time = sum(count == 3 for count in meetings.values())
    assert each_time < 0.1 * len(meetings)


def test_the_first_batches_are_not_all_short() -> None:
    means = [LENGTHS[batch].mean() for batch in batches_of()]
    first, rest = np.mean(means[:20]), np.mean(means[20:])
    assert 0.5 < first / rest < 2


@pytest.mark.parametrize("processes", [2, 3])
def test_all_processes_and_epochs_have_the_same_number_of_batches(processes: int) -> None:
    counts = set()
    for epoch in range(3):
        shares = [batches_of(epoch, rank=rank, processes=processes) for rank in range(processes)]
        counts.update(len(share) for share in shares)
        rows = [row for share in shares for batch in share for row in batch]
        assert sorted(rows) == list(range(len(LENGTHS)))
    assert len(counts) == 1


def test_the_batches_of_a_step_are_alike_in_tokens() -> None:
    shares = [batches_of(rank=rank, processes=2) for rank in range(2)]
    tokens = np.array([[LENGTHS[batch].sum() for batch in share] for share in shares])
    assert np.mean(abs(tokens[0] - tokens[1])) < 0.05 * tokens.mean()


def test_a_row_is_not_left_alone_where_its_neighbour_can_come_along() -> None:
    (found,) = {
        tuple(map(len, PlannedBatches([10] * 7, max_tokens=30, shuffle=False, epochs=epochs)))
        for epochs in (1, 2)
    }
    assert found == (3, 2, 2)


def test_no_more_epochs_are_planned_than_steps_need() -> None:
    loop = SimpleNamespace(max_steps=100, gradient_accumulation_steps=1, world_size=1)
    features = {"length": [10] * 800}
    options = SimpleNamespace(core=SimpleNamespace(sequence_parallel_size=1))
    trainer = SimpleNamespace(args=loop, options=options)
    assert _epochs(trainer, Rows(features), 8000, 8) == 2  # type: ignore[arg-type]
    assert _epochs(trainer, Rows(features), 80, None) == 2  # type: ignore[arg-type]


class Rows(dict):  # type: ignore[type-arg]
    """As long as it has rows, like a data set."""

    def __len__(self) -> int:
        return len(self["length"])


def test_the_number_of_rows_can_be_bounded_too() -> None:
    assert max(len(batch) for batch in batches_of(max_rows=7)) == 7


def test_the_order_of_the_rows_can_be_kept() -> None:
    found = batches_of(shuffle=False)
    assert [row for batch in found for row in batch] == list(range(len(LENGTHS)))


def test_fewer_rows_than_processes_are_repeated() -> None:
    shares = [list(PlannedBatches([5, 6], max_tokens=20, rank=rank, processes=3)) for rank in range(3)]
    assert [len(share) for share in shares] == [1, 1, 1]
    assert {row for share in shares for batch in share for row in batch} == {0, 1}


@pytest.mark.parametrize("budget", [None, 2000])
@pytest.mark.parametrize("processes", [1, 2])
def test_a_batch_and_a_step_hold_rows_of_one_group(budget: int | None, processes: int) -> None:
    groups = [0] * 2000 + [3] * 900 + [7] * 100
    options: dict[str, Any] = {"max_tokens": budget, "max_rows": 16, "groups": groups, "processes": processes}
    shares = [batches_of(1, rank=rank, **options) for rank in range(processes)]
    for batches in zip(*shares, strict=True):
        assert len({groups[row] for batch in batches for row in batch}) == 1
        assert all(len(batch) <= 16 for batch in batches)
    assert sorted(row for share in shares for batch in share for row in batch) == list(range(len(LENGTHS)))
    order = [groups[batch[0]] for batch in shares[0]]
    assert order != sorted(order), "groups come mixed"


@pytest.mark.parametrize("budget", [None, 4000])
def test_rows_with_a_mate_come_two_at_a_time(budget: int | None) -> None:
    draw = np.random.default_rng(0)
    mates = [f"label {n}" for n in draw.integers(0, 300, size=len(LENGTHS))]
    lonely, odd = 0, sum(count % 2 for count in Counter(mates).values())
    batches = batches_of(max_tokens=budget, max_rows=16, mates=mates)
    for batch in batches:
        counts = Counter(mates[row] for row in batch)
        lonely += sum(count == 1 for count in counts.values())
    assert lonely <= odd
    assert sorted(row for batch in batches for row in batch) == list(range(len(LENGTHS)))
    assert batches != batches_of(1, max_tokens=budget, max_rows=16, mates=mates)


@pytest.mark.parametrize("rows", [200, 2048])
def test_every_epoch_of_mates_fits_the_plan_on_all_processes(rows: int) -> None:
    for seed in range(4):
        draw = np.random.default_rng(seed)
        mates = [f"label {n}" for n in draw.integers(0, 20, size=rows)]
        shares = [
            PlannedBatches([1] * rows, max_rows=15, mates=mates, epochs=5, seed=seed, rank=rank, processes=2)
            for rank in range(2)
        ]
        for epoch in range(5):
            for share in shares:
                share.set_epoch(epoch)
            batches = [list(share) for share in shares]
            assert [len(part) for part in batches] == [len(shares[0])] * 2
            assert sorted({row for part in batches for batch in part for row in batch}) == list(range(rows))


def test_mates_that_do_not_fit_together_keep_to_the_budget() -> None:
    sampler = PlannedBatches([60] * 6 + [40], max_tokens=64, mates=["a"] * 7)
    assert all(len(batch) == 1 for batch in sampler)
