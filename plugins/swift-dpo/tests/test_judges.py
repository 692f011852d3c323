"""Judges made of functions and of reward models, and what two orders make of a verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Qwen3ForSequenceClassification

from swift_core.errors import SwiftError, UserError
from swift_dpo.functions import is_function
from swift_dpo.judges import ComparingJudge, Judgement, Question, ScoringJudge, function_judge
from swift_dpo.reward_model import RewardModel

HERE = Path(__file__).parent
TOYS = f"{HERE / 'toy_judge.py'}"
QUESTIONS = [Question(prompt=f"q{n}", row={"word": word}) for n, word in enumerate(("cat", "moon", "red"))]


def test_a_function_of_three_scores_single_answers() -> None:
    judge = function_judge(f"{TOYS}:length")
    assert judge.scores
    assert judge(QUESTIONS, ["aa", "b", "c"], ["a", "bb", "d"]) == [
        Judgement(verdict="a", score_a=2, score_b=1),
        Judgement(verdict="b", score_a=1, score_b=2),
        Judgement(verdict="tie", score_a=1, score_b=1),
    ]


def test_a_function_of_four_compares_and_sees_the_row() -> None:
    judge = function_judge(f"{TOYS}:wanted")
    assert not judge.scores
    found = judge(QUESTIONS, ["a cat", "sun", "x"], ["a dog", "moon", "y"])
    assert [one.verdict for one in found] == ["a", "b", "tie"]
    assert {one.note for one in found} == {None}


def test_a_judge_that_favours_a_place_decides_nothing() -> None:
    found = function_judge(f"{TOYS}:first")(QUESTIONS, ["x", "y", "same"], ["u", "v", "same"])
    assert [(one.verdict, one.note) for one in found] == [
        ("tie", "orders disagree"),
        ("tie", "orders disagree"),
        ("tie", None),
    ]


def test_both_orders_are_asked_and_equal_answers_are_not() -> None:
    asked: list[tuple[str, str]] = []

    def compare(pairs: Any) -> list[Any]:
        asked.extend((a, b) for _, a, b in pairs)
        # Of the second pair only one reply can be read; of the first both say the same.
        return ["b", None, "a", "a"]

    found = ComparingJudge(compare)(QUESTIONS, ["x", "y", "same"], ["u", "v", "same"])
    assert asked == [("x", "u"), ("y", "v"), ("u", "x"), ("v", "y")]
    assert [(one.verdict, one.note) for one in found] == [("b", None), ("tie", "unreadable"), ("tie", None)]


def test_a_module_is_imported_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    assert isinstance(function_judge("toy_judge:length"), ScoringJudge)


def test_a_file_may_hold_dataclasses(tmp_path: Path) -> None:
    (tmp_path / "judge.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n\n"
        "@dataclass\nclass Verdict:\n    value: float\n\n"
        "def score(prompt, answer, row):\n    return Verdict(1.0).value\n"
    )
    assert isinstance(function_judge(f"{tmp_path / 'judge.py'}:score"), ScoringJudge)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "no_such_module_here:score",
            "can't be imported.*for a file here write no_such_module_here.py:function",
        ),
        ("no/such/file.py:score", "^judge: there is no file no/such/file.py"),
        (f"{TOYS}:lenght", "has no function 'lenght'; it has broken, first, length, nothing, two, wanted"),
        (f"{TOYS}:two", r"must take \(prompt, answer, row\) and return a score"),
    ],
)
def test_a_function_that_can_not_be_used_is_told(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        function_judge(name)


def test_a_function_that_fails_is_told_with_the_prompt() -> None:
    with pytest.raises(SwiftError, match=r"broken failed on the prompt 'q0' \(KeyError: 'missing'\)"):
        function_judge(f"{TOYS}:broken")(QUESTIONS, ["a"] * 3, ["b"] * 3)
    with pytest.raises(SwiftError, match="must return a finite number, found nan"):
        function_judge(f"{TOYS}:nothing")(QUESTIONS, ["a"] * 3, ["b"] * 3)


@pytest.mark.parametrize(
    ("value", "is_one"),
    [
        ("judge:score", True),
        ("some.module:score", True),
        ("a folder/judge.py:score", True),
        ("org/reward-model", False),
        ("./folder", False),
        ("http://localhost:8000/v1", False),
    ],
)
def test_functions_are_told_from_models_by_their_form(value: str, is_one: bool) -> None:
    assert is_function(value) == is_one


@pytest.fixture
def rewards(causal: Path, tmp_path: Path) -> Path:
    """A reward model with random weights."""
    torch.manual_seed(3)
    model = Qwen3ForSequenceClassification.from_pretrained(causal, num_labels=1)
    with torch.no_grad():
        model.score.weight.normal_()
    model.save_pretrained(tmp_path / "rewards")
    AutoTokenizer.from_pretrained(causal).save_pretrained(tmp_path / "rewards")
    return tmp_path / "rewards"


@pytest.mark.parametrize("templated", [True, False])
def test_a_reward_model_scores_the_whole_conversation(rewards: Path, templated: bool) -> None:
    if not templated:
        (rewards / "chat_template.jinja").unlink()
    questions = [
        Question(prompt="what is a cat"),
        Question(prompt=[{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]),
        *(Question(prompt=f"number {n}") for n in range(8)),  # more than a batch
    ]
    answers = ["a cat is a small animal", "no", *(" word" * n for n in range(8))]
    found = RewardModel(rewards)(questions, answers)
    model = AutoModelForSequenceClassification.from_pretrained(rewards)
    tokenizer = AutoTokenizer.from_pretrained(rewards)
    for question, answer, score in zip(questions, answers, found, strict=True):
        if templated:
            before = question.prompt
            if isinstance(before, str):
                before = [{"role": "user", "content": before}]
            text = tokenizer.apply_chat_template(
                [*before, {"role": "assistant", "content": answer}], tokenize=False
            )
            batch = tokenizer(text, return_tensors="pt")
        else:
            told = question.prompt if isinstance(question.prompt, str) else "user: x\n\nassistant: y"
            batch = tokenizer(told, answer, return_tensors="pt")
        with torch.no_grad():
            assert score == pytest.approx(float(model(**batch).logits[0, 0]), abs=1e-4)
    assert len({round(score, 3) for score in found}) > 5


@pytest.mark.parametrize("ends", ["<|im_end|>", "<|im_end|>\n"])
def test_a_reward_model_without_a_pad_token_is_read_at_the_very_last_token(
    rewards: Path, ends: str, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(rewards)
    tokenizer.pad_token = None
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message['role'] + '\n' + message['content'] + ENDS }}{% endfor %}"
    ).replace("ENDS", repr(ends))
    model = AutoModelForSequenceClassification.from_pretrained(rewards)
    model.config.pad_token_id = None
    tokenizer.save_pretrained(tmp_path / "no-pad")
    model.save_pretrained(tmp_path / "no-pad")
    questions = [Question(prompt=f"number {n}") for n in range(10)]
    answers = [" word" * n for n in range(10)]
    found = RewardModel(tmp_path / "no-pad")(questions, answers)
    for question, answer, score in zip(questions, answers, found, strict=True):
        ids = tokenizer(f"user\n{question.prompt}{ends}assistant\n{answer}{ends}", return_tensors="pt")
        with torch.no_grad():
            hidden = model.model(**ids).last_hidden_state  # [1, T, D]
            expected = float(model.score(hidden[0, -1]))
        assert score == pytest.approx(expected, abs=1e-4)
    assert len({round(score, 3) for score in found}) > 5


def test_equal_answers_tie_whatever_the_others_are(rewards: Path) -> None:
    questions = [Question(prompt=f"what is a cat {n}") for n in range(24)]
    answers = ["the red team won " * (n % 7 + 1) for n in range(24)]
    others = [*answers[:-1], "rain " * 40]  # its length shifts the batches in which the others are scored
    *same, _ = ScoringJudge(RewardModel(rewards))(questions, answers, others)
    assert {one.verdict for one in same} == {"tie"}


def test_a_conversation_that_the_reward_model_can_not_read_is_told(rewards: Path) -> None:
    refuses = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    (rewards / "chat_template.jinja").write_text(refuses)
    question = Question(prompt=[{"role": "system", "content": "be kind"}, {"role": "user", "content": "x"}])
    with pytest.raises(SwiftError, match=r"template of the reward model refuses .*\(no system\).*be kind"):
        RewardModel(rewards)([question], ["y"])


def test_what_is_no_reward_model_is_refused(causal: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected a reward model.*has 2 outputs"):
        RewardModel(causal)
    with pytest.raises(UserError, match="can't be loaded"):
        RewardModel(tmp_path)
