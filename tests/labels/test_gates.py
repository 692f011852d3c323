"""Gates: how they are written, what they compare, and what is said when they can't."""

from __future__ import annotations

import math
from typing import Any

import pytest

from swift_core.labels.gates import GateResult, judge, parse_gate

METRICS = {"eval_f1_macro": 0.9, "eval_ndcg@10": 0.5, "train_loss": 0.25, "eval_elo": 52.0, "eval_logp": -2.0}


def result(text: str, baseline: Any = None, **metrics: Any) -> GateResult:
    return judge(parse_gate(text), metrics or METRICS, baseline)


@pytest.mark.parametrize(
    ("text", "passed"),
    [
        ("f1_macro >= 0.90", True),
        ("f1_macro > 0.90", False),
        ("f1_macro>=.9", True),
        ("f1_macro <= 9e-1", True),
        ("f1_macro < 0.9", False),
        ("  ndcg@10 >= 50 %  ", True),
        ("ndcg@10 >= 50.1%", False),
        ("eval_f1_macro >= 0.9", True),
        ("train_loss <= 0.25", True),
        ("logp >= -2", True),
        ("logp > -2.", False),
    ],
)
def test_a_figure_is_compared_with_a_number(text: str, passed: bool):
    assert result(text).passed is passed


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("f1_macro >= baseline", 0.8),
        ("f1_macro >= baseline - 0.01", 0.79),
        ("f1_macro >= baseline+0.01", 0.81),
        ("f1_macro >= baseline - 5 %", 0.76),
        ("f1_macro >= baseline + 5%", 0.84),
        # Of a negative figure too, so many percent more is more.
        ("logp >= baseline + 10 %", -0.9),
    ],
)
def test_a_figure_is_compared_with_the_baselines(text: str, wanted: float):
    found = result(text, {"eval_f1_macro": 0.8, "eval_logp": -1.0})
    assert found.wanted == f">= {wanted:.6g}"
    assert found.passed is (text != "logp >= baseline + 10 %")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "f1_macro",
        "f1_macro == 0.9",
        "f1_macro = 0.9",
        "f1_macro != 0.9",
        ">= 0.9",
        "f1_macro >= ",
        "f1_macro >= high",
        "f1_macro >= 0,9",
        "f1_macro >= 0.9 or more",
        "f1_macro >= baseline * 2",
        "f1_macro >= 0.9 >= 0.8",
        "f1_macro >= nan",
        "f1 macro >= 0.9",
    ],
)
def test_what_is_no_gate_is_refused_with_examples(text: str):
    with pytest.raises(ValueError, match=r"expected such as 'f1_macro >= 0\.90'"):
        parse_gate(text)


def test_equality_is_refused_with_what_to_use():
    with pytest.raises(ValueError, match="use >= or <="):
        parse_gate("f1_macro == 0.9")


@pytest.mark.parametrize("value", [math.nan, math.inf, None, "0.95", True])
def test_a_figure_that_is_no_number_has_failed(value: Any):
    found = result("f1_macro >= 0.9", eval_f1_macro=value)
    assert not found.passed and found.found is None and "which is no number" in (found.note or "")


def test_a_missing_figure_has_failed_and_says_so_with_a_near_one():
    found = result("f1_makro <= 0.9")
    assert not found.passed
    assert found.note == "the run has no figure 'f1_makro'. Did you mean 'f1_macro'? Was it evaluated?"


def test_without_a_comparable_baseline_a_gate_has_failed_and_says_why():
    assert result("f1_macro >= baseline", "it is not there").note == "it is not there"
    assert result("f1_macro >= baseline").note == "there is no baseline"
    found = result("f1_macro >= baseline - 1", {"eval_f1": 0.1})
    assert (found.passed, found.note) == (False, "the baseline has no figure 'f1_macro'")


def test_a_percentage_is_told_in_both_ways():
    found = result("f1_macro >= 85 %")
    assert found.told == "f1_macro >= 85 % (>= 0.85): found 0.9; 85 % is 0.85, found 90.0000%"


def test_a_figure_above_1_under_a_percentage_is_told_to_be_another_scale():
    found = result("elo >= 5 %")
    assert found.passed and "if this figure is recorded in percent, write 'elo >= 5'" in (found.note or "")


def test_a_fraction_under_a_number_above_1_is_told_to_be_another_scale():
    found = result("f1_macro >= 85")
    assert not found.passed and "write 'f1_macro >= 85 %'" in (found.note or "")
