"""Constrained cpo: a violation costs quality, and may turn a pair round."""

from __future__ import annotations

import pickle

import pytest
import torch

from swift_core import SwiftTrainer
from swift_core.errors import UserError
from swift_core.preparation import prepare_task
from swift_dpo.pairs import pairs_of

ROWS = [
    {"prompt": "how do I", "chosen": " like this, you fool", "rejected": " like this"},
    {"prompt": "what is it", "chosen": " a very long story", "rejected": " nothing, fool"},
]


@pytest.fixture
def rude(tmp_path):
    path = tmp_path / "rude.py"
    path.write_text("def violation(prompt, answer):\n    return 2 * answer.count('fool')\n")
    return f"{path}:violation"


def test_a_function_says_which_answers_violate_the_constraint(causal, make_args, rude):
    args = make_args(causal, "cpo", constraint_weight=1.0, violation_function=rude)
    ready = prepare_task(args, ROWS)
    features = [ready.train.features[n] for n in range(2)]
    # 1 - 2 against 0: the rude answer loses, though people liked it.
    assert [row["scores"] for row in features] == [[-1.0, 0.0], [1.0, -2.0]]
    batch = pickle.loads(pickle.dumps(ready.collator))(features)
    assert batch["better"].tolist() == [1, 2] and batch["worse"].tolist() == [0, 3]
    assert batch["violations"].tolist() == [2.0, 0.0, 0.0, 2.0]


def test_a_margin_of_quality_speaks_against_an_answer_that_violations_made_the_better_one(causal, make_args):
    pairs = [
        {**ROWS[0], "margin": 2.0, "violations": [3.0, 0.0]},  # turned round: -2 + 3
        {**ROWS[1], "margin": 2.0, "violations": [0.0, 3.0]},  # 2 + 3
        {"prompt": "who", "chosen": " a", "rejected": " b", "margin": 2.0, "violations": None},
    ]
    ranked = {
        "prompt": "q",
        "answers": [" best", " good", " as good"],
        "scores": [3.0, 2.0, 2.0],
        "margin": 0.5,
        "violations": [4.0, 0.0, 1.0],
    }
    args = make_args(causal, "cpo", constraint_weight=1.0)
    expected = [
        (pairs, [(1, 0), (2, 3), (4, 5)], [1.0, 5.0, 2.0]),
        # Answers 1 and 2 are equally good: their pair is one of violations alone.
        ([ranked], [(1, 2), (1, 0), (2, 0)], [1.0, 3.5, 2.5]),
    ]
    for rows, order, margins in expected:
        ready = prepare_task(args, rows)
        batch = ready.collator([ready.train.features[n] for n in range(len(rows))])
        found = pairs_of(batch, constraint_weight=1.0)
        assert list(zip(found.better.tolist(), found.worse.tolist(), strict=True)) == order
        torch.testing.assert_close(found.margin, torch.tensor(margins))


def test_violations_of_a_column_win_over_the_function(causal, make_args, rude):
    rows = [{**ROWS[0], "violations": [0.5, 0.0]}, ROWS[1]]
    args = make_args(causal, "cpo", constraint_weight=1.0, violation_function=rude)
    assert prepare_task(args, rows).train.features[0]["scores"] == [0.5, 0.0]


def test_what_would_be_ignored_is_refused(causal, make_args, rude):
    with pytest.raises(UserError, match="violation_function: has no effect without constraint_weight"):
        prepare_task(make_args(causal, "cpo", violation_function=rude), ROWS)
    with pytest.raises(UserError, match="constraint_weight: expected a column violations"):
        prepare_task(make_args(causal, "cpo", constraint_weight=1.0), ROWS)
    with pytest.raises(UserError, match="margin: orpo does not read it"):
        prepare_task(make_args(causal, "orpo"), [{**row, "margin": 0.3} for row in ROWS])
    with pytest.raises(UserError, match="'adapter' is for LoRA"):
        prepare_task(make_args(causal, export_formats=["adapter"]), ROWS)


def test_a_function_must_give_numbers(causal, make_args, tmp_path):
    path = tmp_path / "vague.py"
    path.write_text("def violation(prompt, answer):\n    return 'rather'\n")
    args = make_args(causal, "cpo", constraint_weight=1.0, violation_function=f"{path}:violation")
    with pytest.raises(UserError, match=r"expected a number from .*, found 'rather'"):
        prepare_task(args, ROWS)


def test_rows_that_are_left_out_do_not_hide_the_columns_of_others(causal, make_args):
    same = {"prompt": "who", "chosen": " a", "rejected": " a"}
    first, last = ROWS
    rows = [{**first, "violations": [0.0, 3.0]}, same, last]
    ready = prepare_task(make_args(causal, "cpo", constraint_weight=1.0), rows)
    assert ready.train.features["violations"] == [[0.0, 3.0], None]
    with pytest.raises(UserError, match="margin: orpo does not read it"):
        prepare_task(make_args(causal, "orpo"), [{**first, "margin": 0.3}, same, last])


def test_a_row_without_violations_leaves_those_of_others(causal, make_args):
    rows = [{**ROWS[0], "violations": [0.0, 3.0]}, {**ROWS[1], "violations": None}]
    ready = prepare_task(make_args(causal, "cpo", constraint_weight=1.0), rows)
    batch = ready.collator([ready.train.features[n] for n in range(2)])
    assert batch["violations"].tolist() == [0.0, 3.0, 0.0, 0.0]


def test_rows_without_violations_that_are_evaluated_apart_leave_those_of_others(
    causal, make_args, monkeypatch
):
    monkeypatch.setattr("swift_dpo.held_out.token_budget", lambda model: 1)  # each row is a batch
    rows = [{**ROWS[0], "violations": [0.5, 3.0]}, {**ROWS[1], "violations": None}]
    trainer = SwiftTrainer(make_args(causal, "cpo", constraint_weight=1.0), rows, eval_dataset=rows)
    found = trainer.evaluate()
    assert found["eval_violations/chosen"] == 0.25 and found["eval_violations/rejected"] == 1.5


def test_a_function_that_was_changed_is_asked_again(causal, make_args, tmp_path):
    path = tmp_path / "changing.py"
    args = make_args(causal, "cpo", constraint_weight=1.0, violation_function=f"{path}:violation")
    found = []
    for value in (1.0, 5.0):
        # Of another size: within a second Python takes a module of the same size for the old one.
        path.write_text(f"def violation(prompt, answer):\n    return {value}\n" + "#" * int(value))
        found.append(prepare_task(args, ROWS).train.features[0]["violations"])
    assert found == [[1.0, 1.0], [5.0, 5.0]]


def test_a_function_is_asked_again_when_anything_in_its_file_was_changed(causal, make_args, tmp_path):
    path = tmp_path / "json.py"  # a name that another module has
    args = make_args(causal, "cpo", constraint_weight=1.0, violation_function=f"{path}:violation")
    found = []
    for value in (1.0, 25.0):
        path.write_text(f"COST = {value}\n\n\ndef violation(prompt, answer):\n    return COST\n")
        found.append(prepare_task(args, ROWS).train.features[0]["violations"])
    assert found == [[1.0, 1.0], [25.0, 25.0]]
