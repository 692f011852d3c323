"""Both models answer the same prompts, a judge decides, and the figures are those of its verdicts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from swift_core.errors import SwiftError, UserError
from swift_core.spec import Column, TaskSpec
from swift_dpo.arena import Arena, check_arena, make_arena
from swift_dpo.arena_options import ArenaOptions
from swift_dpo.elo import elo_gain
from swift_dpo.endpoint import TEMPLATE
from swift_dpo.generation import Sampling, answers_of, rendered
from swift_dpo.judge_making import check_judge, make_judge
from swift_dpo.judges import ComparingJudge, Judge, Question, function_judge
from swift_dpo.questions import is_prompt, questions_of

TOYS = str(Path(__file__).parent / "toy_judge.py")
QUESTIONS = [
    Question(prompt=f"what is {word}", row={"word": word}) for word in ("a cat", "rain", "the moon", "x")
]
SPEC = TaskSpec(
    name="toy",
    summary="",
    columns=(Column(name="prompt", type="any", meaning=""),),
    implementation="swift_dpo.hooks",
)
HOW = Sampling(max_new_tokens=10)


def options(**given: Any) -> Any:
    """What the arena reads of a run's options."""
    trainer = SimpleNamespace(device=torch.device("cpu"))
    return SimpleNamespace(task=ArenaOptions(**given), spec=SPEC, trainer=trainer)


@pytest.fixture
def tokenizer(causal: Path) -> Any:
    return AutoTokenizer.from_pretrained(causal)


@pytest.fixture
def models(causal: Path) -> tuple[Any, Any]:
    """A model, and one that answers otherwise."""
    model, other = (AutoModelForCausalLM.from_pretrained(causal) for _ in range(2))
    torch.manual_seed(2)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.2)
    return model, other


class Opened:
    """A reference that counts how often it is asked for."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.count = model, 0

    @contextmanager
    def __call__(self) -> Iterator[nn.Module]:
        self.count += 1
        yield self.model


def arena_of(tokenizer: Any, judge: Judge | None) -> Arena:
    return Arena(questions=QUESTIONS, tokenizer=tokenizer, sampling=HOW, judge=judge)


def test_a_scoring_judge_gives_scores_a_win_rate_and_elo(tokenizer: Any, models: tuple[Any, Any]) -> None:
    model, other = models
    arena, reference = arena_of(tokenizer, function_judge(f"{TOYS}:length")), Opened(other)
    found = arena.evaluate(model, reference)
    ids = [rendered(tokenizer, question.prompt) for question in QUESTIONS]
    mine, theirs = (answers_of(one, tokenizer, ids, HOW) for one in models)
    lengths = [(len(a.text), len(b.text)) for a, b in zip(mine, theirs, strict=True)]
    outcomes = [1.0 if a > b else 0.0 if a < b else 0.5 for a, b in lengths]
    assert len(set(outcomes)) > 1
    gain = elo_gain(outcomes)
    assert found.metrics == pytest.approx(
        {
            "answer_tokens": sum(one.tokens for one in mine) / 4,
            "answer_complete": sum(one.complete for one in mine) / 4,
            "answer_tokens_reference": sum(one.tokens for one in theirs) / 4,
            "answer_complete_reference": sum(one.complete for one in theirs) / 4,
            "win_rate": gain.win_rate,
            "tie_rate": gain.ties / 4,
            "elo": gain.elo,
            "elo_gain": gain.gain,
            "elo_gain_low": gain.low,
            "elo_gain_high": gain.high,
            "judge_score": sum(a for a, _ in lengths) / 4,
            "judge_score_reference": sum(b for _, b in lengths) / 4,
        }
    )
    rows = found.tables["samples"]
    assert [row["prompt"] for row in rows] == [question.prompt for question in QUESTIONS]
    assert [(row["answer"], row["reference_answer"]) for row in rows] == [
        (a.text, b.text) for a, b in zip(mine, theirs, strict=True)
    ]
    assert [(row["score"], row["reference_score"]) for row in rows] == lengths
    named = {1.0: "win", 0.5: "tie", 0.0: "loss"}
    assert [row["verdict"] for row in rows] == [named[outcome] for outcome in outcomes]
    json.dumps(rows)
    # The reference has answered once and for all.
    again = arena.evaluate(other, reference)
    assert reference.count == 1 and again.metrics["win_rate"] == 0.5
    assert again.metrics["judge_score"] == again.metrics["judge_score_reference"]


def test_the_answers_of_the_model_at_the_start_can_be_the_reference(
    tokenizer: Any, models: tuple[Any, Any]
) -> None:
    model, other = models
    arena, before = arena_of(tokenizer, function_judge(f"{TOYS}:length")), Opened(model)
    arena.keep_reference(before)
    arena.keep_reference(before)
    assert before.count == 1
    swapped = arena_of(tokenizer, function_judge(f"{TOYS}:length")).evaluate(model, Opened(other))
    found = arena.evaluate(other)
    assert found.metrics["win_rate"] == 1 - swapped.metrics["win_rate"]


def test_without_a_judge_there_are_samples(tokenizer: Any, models: tuple[Any, Any]) -> None:
    found = arena_of(tokenizer, None).evaluate(models[0])
    assert set(found.metrics) == {"answer_tokens", "answer_complete"}
    assert set(found.tables["samples"][0]) == {"prompt", "answer", "tokens", "complete"}
    nothing = Arena(questions=[], tokenizer=tokenizer, sampling=HOW).evaluate(models[0])
    assert not nothing.metrics and not nothing.tables


def test_verdicts_that_hang_on_the_order_or_can_not_be_read_are_ties_that_are_counted(
    tokenizer: Any, models: tuple[Any, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    arena = arena_of(tokenizer, ComparingJudge(lambda asked: ["a", None, "a", "tie", "a", "a", "b", "tie"]))
    found = arena.evaluate(models[0], Opened(models[1]))
    assert (found.metrics["judge_disagreements"], found.metrics["judge_unreadable"]) == (0.25, 0.25)
    assert (found.metrics["win_rate"], found.metrics["tie_rate"]) == (0.5 + 0.5 / 4, 0.75)
    assert "1 of 4 pairs got no verdict that can be read; they count as ties" in capsys.readouterr().out
    notes = [row["note"] for row in found.tables["samples"]]
    assert notes == ["orders disagree", "unreadable", None, None]
    broken = arena_of(tokenizer, ComparingJudge(lambda asked: [None] * len(asked)))
    with pytest.raises(SwiftError, match="4 of 4 pairs got no verdict that can be read"):
        broken.evaluate(models[0], Opened(models[1]))


def test_prompts_come_from_a_file_each_once_with_their_rows(tmp_path: Path, tokenizer: Any) -> None:
    rows = [{"prompt": f"number {n % 10}", "word": f"w{n}"} for n in range(20)]
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    args = options(eval_prompts=str(path), judge=f"{TOYS}:wanted", eval_max_new_tokens=3)
    found = questions_of(args, None)
    assert [asdict(one) for one in found] == [{"prompt": row["prompt"], "row": row} for row in rows[:10]]
    some = options(eval_prompts=str(path), eval_samples=6, eval_seed=3)
    drawn = questions_of(some, None)
    assert drawn == questions_of(some, None)
    assert len(drawn) == 6 and drawn == [one for one in found if one in drawn] and drawn != found[:6]
    assert drawn != questions_of(options(eval_prompts=str(path), eval_samples=6, eval_seed=2), None)
    assert len(questions_of(options(eval_prompts=str(path)), None)) == 4  # nobody judges them
    assert questions_of(options(eval_prompts=str(path), eval_samples=0), None) == []
    arena = make_arena(args, tokenizer, None)
    assert len(arena.questions) == 10
    assert arena._sampling == Sampling(max_new_tokens=3)


def test_the_tools_of_a_prompt_may_be_a_text_of_json(tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": str(t), "tools": t}) for t in (tools, json.dumps(tools))))
    assert [one.row["tools"] for one in questions_of(options(eval_prompts=str(path)), None)] == [tools, tools]


def test_prompts_come_from_the_evaluation_rows_otherwise() -> None:
    data: Any = SimpleNamespace(
        records=[{"prompt": "a", "answers": ["x", "y"]}, {"prompt": "b"}, {"prompt": "a"}]
    )
    found = questions_of(options(), data)
    assert [one.prompt for one in found] == ["a", "b"]
    assert found[0].row["answers"] == ["x", "y"]
    assert questions_of(options(), None) == []


def test_faults_of_a_file_of_prompts_are_told_with_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a"}\n{"text": "b"}\n{"prompt": []}\n{"prompt": "c", "tools": "{"}\n')
    with pytest.raises(UserError) as caught:
        questions_of(options(eval_prompts=str(path)), None)
    assert [fault.split(": expected")[0] for fault in caught.value.faults] == [
        f"{path}:2: prompt",
        f"{path}:3: prompt",
        f"{path}:4: tools",
    ]
    broken = options(eval_prompts=str(path), judge_model="j")
    with pytest.raises(UserError) as caught:
        check_arena(broken)
    assert len(caught.value.faults) == 4 and "judge_model: has no effect" in caught.value.faults[0]
    path.write_text("")
    with pytest.raises(UserError, match="holds no rows"):
        questions_of(options(eval_prompts=str(path)), None)


@pytest.mark.parametrize(
    ("value", "is_one"),
    [
        ("a", True),
        (" ", False),
        ([{"role": "user", "content": "a"}], True),
        ([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], False),
        ([{"role": "user"}], False),
        (["a"], False),
        (None, False),
    ],
)
def test_a_prompt_is_a_text_or_messages(value: Any, is_one: bool) -> None:
    assert is_prompt(value) == is_one


def test_a_prompt_that_can_not_be_written_is_told(tokenizer: Any) -> None:
    tokenizer.chat_template = None
    with pytest.raises(UserError, match=r"^eval_prompts: prompt: expected a text.*\(\[\{'role'"):
        Arena(
            questions=[Question(prompt=[{"role": "user", "content": "a"}])], tokenizer=tokenizer, sampling=HOW
        )


def test_the_judge_is_the_one_that_the_options_describe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert make_judge(options()) is None
    assert isinstance(make_judge(options(judge=f"{TOYS}:wanted")), ComparingJudge)
    monkeypatch.setenv("JUDGE_KEY", "sk-secret\n")
    (tmp_path / "key").write_text("sk-other\n")
    (tmp_path / "ask.txt").write_text("{prompt} {a} {b}")
    url = {"judge": "https://judge.example/v1", "judge_model": "j"}
    plain: Any = make_judge(options(**url))
    assert (plain._compare.api_key, plain._compare.template) == (None, TEMPLATE)
    full: Any = make_judge(
        options(
            **url,
            judge_api_key_variable="JUDGE_KEY",
            judge_template=str(tmp_path / "ask.txt"),
            judge_timeout_seconds=3,
            judge_concurrency=2,
        )
    )
    asked = full._compare
    assert (asked.api_key, asked.template) == ("sk-secret", "{prompt} {a} {b}")
    assert (asked.timeout_seconds, asked.concurrency) == (3, 2)
    other: Any = make_judge(options(**url, judge_api_key_file=str(tmp_path / "key")))
    assert other._compare.api_key == "sk-other"


@pytest.mark.parametrize(
    ("given", "messages"),
    [
        ({"judge_model": "j"}, ["judge_model: has no effect with no judge"]),
        (
            {"judge": f"{TOYS}:length", "judge_template": "x", "judge_concurrency": 4},
            ["judge_template: has no effect with judge=", "judge_concurrency: has no effect"],
        ),
        (
            {"judge": "http://j/v1", "judge_template": "nowhere.txt", "judge_api_key_variable": "sk-secret"},
            [
                "judge_model: an endpoint must be told",
                "judge_template: nowhere.txt",
                "expected the name of an",
            ],
        ),
        (
            {"judge": "http://j/v1", "judge_model": "j", "judge_template": TOYS},
            ["judge_template: .* lacks {prompt}, {a}, {b}"],
        ),
        *(
            ({"judge": f"https://{who}@judge.example/v1", "judge_model": "j"}, ["without user and password"])
            for who in ("team:sk-secret", "sk-secret", "team:sk-secret/1")
        ),
        ({"judge": "/nowhere/rewards"}, ["^judge: there is no folder /nowhere/rewards"]),
    ],
)
def test_options_that_do_not_go_together_are_told_at_once(given: dict[str, Any], messages: list[str]) -> None:
    args = options(**given)
    args.core = SimpleNamespace(model_name_or_path=given.get("judge"), model_revision=None)
    args.with_model = lambda name: args
    for check in (make_judge, check_judge):
        with pytest.raises(UserError) as caught:
            check(args)
        assert len(caught.value.faults) == len(messages)
        for fault, message in zip(caught.value.faults, messages, strict=True):
            assert re.search(message, fault), fault
        assert "sk-secret" not in str(caught.value)
