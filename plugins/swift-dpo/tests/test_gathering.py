"""Pairs taken apart for kto, each answer beside one to another prompt."""

from __future__ import annotations

from typing import Any

import pytest

from swift_core.data.dataset import TaskData, load_data
from swift_core.errors import UserError
from swift_core.spec import TaskSpec
from swift_dpo.layouts import KTO_COLUMNS, KTO_GATHER, KTO_LAYOUTS

KTO = TaskSpec(
    name="kto",
    summary="Answers.",
    implementation="swift_dpo.kto",
    columns=KTO_COLUMNS,
    layouts=KTO_LAYOUTS,
    gather=KTO_GATHER,
)


def load(*rows: dict[str, Any]) -> TaskData:
    return load_data(list(rows), name="train", spec=KTO, columns={}, split="train", config=None)


def seen(data: TaskData) -> list[tuple[Any, ...]]:
    return [
        (row["prompt"], *row["answers"], *row["scores"], row["unrelated"], row["violations"])
        for row in data.records
    ]


def test_pairs_become_two_rows_and_ranked_answers_those_off_the_mean() -> None:
    data = load(
        {"prompt": "p", "answers": ["a", "b", "c", "d"], "scores": [4, 2, 2, 0], "violations": [1, 2, 3, 4]},
        {"prompt": "q", "answers": ["e", "f"], "scores": [0, 1]},
    )
    assert seen(data) == [
        ("p", "a", 1.0, "e", [1.0]),
        ("p", "d", 0.0, "f", [4.0]),
        ("q", "e", 0.0, "a", None),
        ("q", "f", 1.0, "d", None),
    ]
    assert data.gathered == "4 answers of 2 rows: 2 good, 2 bad"


@pytest.mark.parametrize(
    ("scores", "labels"),
    [
        ([0.1, 0.1, 0.1, 0.4, 0.4, 0.4], [0, 0, 0, 1, 1, 1]),
        ([0.1, 0.2, 0.3], [0, 1]),
        ([1e-7, 2e-7, 3e-7], [0, 1]),
        ([1e308, 1e308, 7], [1, 1, 0]),
        ([3, 1, 2], [1, 0]),
    ],
)
def test_the_mean_of_scores_is_not_rounded(scores: list[float], labels: list[float]) -> None:
    data = load({"prompt": "p", "answers": [str(n) for n in range(len(scores))], "scores": scores})
    assert [row["scores"] for row in data.records] == [[label] for label in labels]


@pytest.mark.parametrize("score", [0.1, 0.7])
def test_equal_scores_with_a_fraction_are_left_out(score: float) -> None:
    with pytest.raises(UserError, match="found equal scores only"):
        load({"prompt": "p", "answers": ["a", "b", "c"], "scores": [score] * 3})


def test_an_unrelated_answer_belongs_to_the_next_other_prompt() -> None:
    rows = [
        {"prompt": prompt, "completion": answer, "label": True}
        for prompt, answer in zip("ppqrp", "abcde", strict=True)
    ]
    assert [row["unrelated"] for row in load(*rows).records] == ["c", "c", "d", "e", "c"]


def test_of_pairs_half_of_the_unrelated_answers_are_bad() -> None:
    pairs = [{"prompt": p, "chosen": f"good {p}", "rejected": f"bad {p}"} for p in "abc"]
    three = {"prompt": "d", "answers": ["x", "y", "z"], "scores": [5, 4, 0]}
    two = {"prompt": "a", "answers": ["good a", "bad a"], "scores": [1, 0]}
    assert [row["unrelated"] for row in load(*pairs).records] == [
        "good b",
        "bad b",
        "good c",
        "bad c",
        "good a",
        "bad a",
    ]
    # Where there are fewer, they come again.
    assert [row["unrelated"] for row in load(three, two).records] == [
        "good a",
        "bad a",
        "good a",
        "x",
        "y",
    ]


def test_weights_and_margins_stay_with_each_answer() -> None:
    rows = [{"prompt": p, "chosen": "c", "rejected": "r", "weight": w} for p, w in (("p", 2), ("q", 3))]
    assert load(*rows).records["weight"] == [2.0, 2.0, 3.0, 3.0]


def test_of_one_prompt_in_all_rows_there_is_no_unrelated_answer() -> None:
    row = {"prompt": "p", "completion": "a", "label": True}
    assert load(row, row).records["unrelated"] == [None, None]


def test_equal_scores_only_are_refused() -> None:
    with pytest.raises(UserError, match="found equal scores only"):
        load({"prompt": "p", "answers": ["a", "b"], "scores": [1, 1]})
