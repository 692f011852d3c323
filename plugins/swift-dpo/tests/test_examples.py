"""The judges of the examples tell good answers from bad ones, and what ships is small and consistent."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from swift_core import TrainingArguments
from swift_core.runfile import read_run_file
from swift_dpo.arena import check_arena
from swift_dpo.arena_options import ArenaOptions
from swift_dpo.functions import load_function
from swift_dpo.judge_making import make_judge
from swift_dpo.judges import Question
from swift_dpo.questions import questions_of

EXAMPLES = Path(__file__).parents[1] / "examples"
NAMES = ["banking-intent", "e2e-coverage"]


def rows_of(example: str, file: str) -> list[dict[str, Any]]:
    text = (EXAMPLES / example / file).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize(
    ("name", "good", "bad"), [("banking-intent", 0.86, 0.01), ("e2e-coverage", 0.99, 0.8)]
)
def test_a_judge_prefers_what_people_preferred(
    name: str, good: float, bad: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "banking-intent":
        pytest.importorskip("sklearn")
    monkeypatch.chdir(EXAMPLES / name)
    given = read_run_file("run.yaml").values
    args: Any = SimpleNamespace(task=ArenaOptions(judge=given["judge"]))
    judge = make_judge(args)
    rows = rows_of(name, given["eval_prompts"])
    assert judge is not None
    found = judge(
        [Question(prompt=row["prompt"], row=row) for row in rows],
        [row["chosen"] for row in rows],
        [row["rejected"] for row in rows],
    )
    assert np.mean([one.score_a for one in found]) >= good
    assert np.mean([one.score_b for one in found]) <= bad
    assert np.mean([one.verdict == "b" for one in found]) <= 0.02


@pytest.mark.parametrize(
    ("fact", "text", "told"),
    [
        ("name[The Eagle]", "The eagle is here.", True),
        ("name[The Eagle]", "The Beagle... is here", False),
        ("familyFriendly[no]", "Bring no children.", True),
        ("familyFriendly[yes]", "It is nice.", False),
        ("priceRange[£20-25]", "About £20 a head.", True),
        ("priceRange[cheap]", "Inexpensive food.", True),
        ("priceRange[high]", "Nice food.", False),
        ("customer rating[5 out of 5]", "It has five stars.", True),
        ("area[city centre]", "It is downtown.", False),
        ("area[riverside]", "By the river.", True),
        ("eatType[coffee shop]", "A Coffee Shop.", True),
    ],
)
def test_a_fact_is_told_or_not(fact: str, text: str, told: bool) -> None:
    score = load_function(f"{EXAMPLES / 'e2e-coverage' / 'judge.py'}:score", "judge")
    prompt = [{"role": "user", "content": f"Write from these facts: {fact}"}]
    assert score(prompt, text, {}) == float(told)
    both = f"Write from these facts: {fact}, food[Thai]"
    assert score(both, f"{text} It serves Thai food.", {}) == (1.0 if told else 0.5)


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_small_and_says_where_it_comes_from(name: str) -> None:
    files = [path for path in (EXAMPLES / name).iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 300_000
    readme = (EXAMPLES / name / "README.md").read_text(encoding="utf-8")
    assert "**CC BY" in readme and "Cite" in readme
    for file in ("train.jsonl", "test.jsonl"):
        assert f"| `{file}` | {len(rows_of(name, file))} |" in readme


def test_the_judge_of_intents_never_saw_the_texts_of_the_pairs() -> None:
    known = {text for row in rows_of("banking-intent", "judge.jsonl") for text in row["texts"]}
    pairs = [*rows_of("banking-intent", "train.jsonl"), *rows_of("banking-intent", "test.jsonl")]
    assert not known & {row[side] for row in pairs for side in ("chosen", "rejected")}
    assert {row["intent"] for row in pairs} <= {
        row["intent"] for row in rows_of("banking-intent", "judge.jsonl")
    }


@pytest.mark.parametrize("name", NAMES)
def test_the_options_of_an_example_are_options(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLES / name)
    args = TrainingArguments.from_file("run.yaml", ["use_cpu=true"])
    check_arena(args)
    assert len(questions_of(args, None)) == args.task.eval_samples  # all that are different
