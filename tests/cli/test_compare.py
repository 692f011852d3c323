"""``swift compare``: what it prints, and which runs it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from swift_core.runs.record import Run

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Make a run with a table ``per_query``: figures by query."""

    def run(
        figures: dict[str, float], *, step: int = 5, table: str = "per_query", data: str = "same"
    ) -> Path:
        made = Run.create(
            tmp_path, label="toy", task_type="toy", run_name=None, options={}, packages=["pytest"]
        )
        made.update(data=[{"name": "eval", "fingerprint": data}])
        made.write_table(step, table, [{"query_id": q, "ndcg@10": v, "k": 1} for q, v in figures.items()])
        return made.folder

    return run


def figures(shift: float, count: int = 40, start: int = 0) -> dict[str, float]:
    return {f"q{n}": n % 5 / 10 + shift * (n % 2) for n in range(start, start + count)}


def test_the_table_and_the_json_say_the_same(cli: Any, make: Make) -> None:
    a, b = make(figures(0)), make(figures(0.2), step=7)
    text = cli(f"compare '{a}' '{b}'")
    assert text.code == 0, text.err
    assert f"A  {a / 'evaluations' / 'step-5' / 'per_query.jsonl'}" in text.out
    assert "40 rows in both, joined by query_id" in text.out
    line = next(line for line in text.out.splitlines() if "ndcg@10" in line)
    told = json.loads(cli(f"compare '{a}' '{b}' --json").out)
    found = told["metrics"]["ndcg@10"]
    assert (told["rows"], told["joined_by"], told["b"]["step"]) == (40, ["query_id"], 7)
    assert found["difference"] == pytest.approx(0.1)
    assert 0.05 < found["low"] < 0.1 < found["high"] < 0.15
    assert line.split() == [
        "ndcg@10", "0.2000", "0.3000", "+0.1000", f"{found['low']:+.4f}", "to", f"{found['high']:+.4f}",
        "50.0%", "50.0%", "0.0%",
    ]  # fmt: skip
    assert list(told["metrics"]) == ["ndcg@10", "k"]
    assert list(json.loads(cli(f"compare '{a}' '{b}' --json --metric k").out)["metrics"]) == ["k"]


def test_steps_of_one_run_can_be_compared(cli: Any, make: Make) -> None:
    a = make(figures(0), step=0)
    Run.open(a).write_table(8, "per_query", [{"query_id": q, "ndcg@10": v} for q, v in figures(0.5).items()])
    told = json.loads(cli(f"compare '{a}' '{a}' --step 0,8 --json").out)
    assert (told["a"]["step"], told["b"]["step"]) == (0, 8)
    assert told["metrics"]["ndcg@10"]["difference"] == pytest.approx(0.25)
    assert "no evaluation of step 3" in cli(f"compare '{a}' '{a}' --step 3").err
    assert "expected a step such as 500" in cli(f"compare '{a}' '{a}' --step 1,2,3").err


def test_other_rows_are_refused_unless_the_common_ones_are_asked_for(cli: Any, make: Make) -> None:
    a, b, c = make(figures(0)), make(figures(0.2, start=10)), make(figures(0, start=100))
    refused = cli(f"compare '{a}' '{b}'")
    assert refused.code == 2
    assert "30 rows are in both tables (joined by query_id), 10 of 40 only in" in refused.err
    found = cli(f"compare '{a}' '{b}' --common")
    assert found.code == 0 and "30 rows in both" in found.out and "10 of 40 only in" in found.err
    nothing = cli(f"compare '{a}' '{c}' --common")
    assert nothing.code == 2 and "nothing to compare: 0 rows are in both tables" in nothing.err


def test_the_same_ids_in_other_data_are_refused(cli: Any, make: Make) -> None:
    a, b = make(figures(0)), make(figures(0.2), data="another")
    refused = cli(f"compare '{a}' '{b}'")
    assert refused.code == 2 and "evaluated on different data" in refused.err
    assert cli(f"compare '{a}' '{b}' --common").code == 0


@pytest.mark.parametrize(
    ("inputs_a", "inputs_b", "told"),
    [
        ({"eval_retrieval": "aa"}, {"eval_retrieval": "aa"}, None),
        ({"eval_retrieval": "aa"}, {"eval_retrieval": "bb"}, "of eval_retrieval aa in A, bb in B"),
        ({"eval_retrieval": "aa"}, {}, "of eval_retrieval aa in A, none in B"),
        # A run from before there were fingerprints of options.
        ({"eval_retrieval": "aa"}, None, None),
    ],
)
def test_other_data_that_options_named_is_refused(
    cli: Any, make: Make, inputs_a: Any, inputs_b: Any, told: str | None
) -> None:
    a, b = make(figures(0)), make(figures(0.2))
    Run.open(a).update(evaluation_inputs=inputs_a)
    Run.open(b).update(evaluation_inputs=inputs_b)
    found = cli(f"compare '{a}' '{b}'")
    assert (found.code, told or "") == (2 if told else 0, told or ""), found.err
    assert told is None or f"fingerprint {told}; --common" in found.err
    assert cli(f"compare '{a}' '{b}' --common").code == 0


def test_mistakes_are_told(cli: Any, make: Make, tmp_path: Path) -> None:
    a, other = make(figures(0)), make(figures(0), table="pairs")
    assert "no such folder" in cli(f"compare '{a}' '{tmp_path / 'nowhere'}'").err
    assert "A has per_query and B has pairs" in cli(f"compare '{a}' '{other}'").err
    assert "'pears' is not in both runs" in cli(f"compare '{a}' '{a}' --table pears").err
    negative = cli(f"compare '{a}' '{a}' --seed -1")
    assert negative.code == 2 and "--seed: expected 0 or a greater number, found -1" in negative.err
    unknown = cli(f"compare '{a}' '{a}' --metric ndcg@1 --metric x")
    assert unknown.code == 2 and "Did you mean 'ndcg@10'" in unknown.err and "there is no 'x'" in unknown.err
    Run.open(a).write_table(5, "pairs", [{"query_id": "q", "m": 1}])
    assert "choose one of pairs, per_query with --table" in cli(f"compare '{a}' '{a}'").err
    assert cli(f"compare '{a}' '{a}' --table pairs").code == 0
