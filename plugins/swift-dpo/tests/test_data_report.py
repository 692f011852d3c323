"""What is told of training data before its first step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from swift_core.data.dataset import load_data
from swift_core.data.encoding import encode_data
from swift_core.spec import TaskSpec
from swift_dpo.collator import PreferenceCollator
from swift_dpo.data_report import report
from swift_dpo.layouts import COLUMNS, KTO_COLUMNS, KTO_GATHER, KTO_LAYOUTS, LAYOUTS
from swift_dpo.limits import Limits
from swift_dpo.tokens import Tokens

DPO = TaskSpec(name="dpo", summary="Pairs.", implementation="x", columns=COLUMNS, layouts=LAYOUTS)
KTO = TaskSpec(
    name="kto",
    summary="Answers.",
    implementation="x",
    columns=KTO_COLUMNS,
    layouts=KTO_LAYOUTS,
    gather=KTO_GATHER,
)


@pytest.fixture
def told(causal: Path, tmp_path: Path) -> Any:
    """The report on rows: its lines, and the sentences that refuse them."""

    def of(
        rows: list[dict[str, Any]],
        *,
        spec: TaskSpec = DPO,
        limits: Limits | None = None,
        allowed: float = 0.01,
    ) -> tuple[str, tuple[str, ...] | None]:
        collator = PreferenceCollator(
            tokens=Tokens(tokenizer=AutoTokenizer.from_pretrained(causal)),
            limits=limits or Limits(max_length=None),
            kind="pairs" if spec is DPO else "answers",
            max_bad_rows=allowed,
        )
        data = load_data(rows, name="train", spec=spec, columns={}, split="train", config=None)
        data = encode_data(data, collator, key=str(limits), cache_dir=tmp_path, progress=False)
        lines, fault = report(data, collator)
        assert all(line.startswith("data      ") for line in lines)
        return "\n".join(line.removeprefix("data      ") for line in lines), fault

    return of


def pair(prompt: str, chosen: str, rejected: str) -> dict[str, Any]:
    return {"prompt": [{"role": "user", "content": prompt}], "chosen": chosen, "rejected": rejected}


GOOD = [pair(f"q{n}", "yes", "no") for n in range(6)]


def test_good_rows_are_told_with_their_lengths(told: Any) -> None:
    lines, fault = told([pair("q", "aaaa", "a"), pair("r", "aa", "aa a"), pair("s", "a a", "a")])
    assert fault is None
    assert lines.splitlines()[0] == "3 rows, 6 answers"
    assert "3 pairs; the better answer has" in lines
    assert "longer in 66.7% of pairs and shorter in 33.3%" in lines
    assert "bad" not in lines and "cut" not in lines and "end token" not in lines


def test_bad_rows_are_told_by_number_and_refused_above_the_share(told: Any) -> None:
    rows = [
        *GOOD,
        pair("same", "a", "a"),
        pair("turned", "a", "b"),
        pair("empty", "a", " "),
        pair("turned", "b", "a"),
        {"prompt": "q", "answers": ["a", "b"], "scores": [1, 1]},
    ]
    lines, fault = told([*rows[:-1]])
    assert "bad rows, identical answers: 1 of 10 (10.0%) (row 7)" in lines
    assert "bad rows, contradictory pairs: 2 of 10 (20.0%) (rows 8, 10)" in lines
    assert "bad rows, empty answers: 1 of 10 (10.0%) (row 9)" in lines
    assert fault is not None
    assert fault[0].startswith("train data: 4 of 10 rows (40.0%) teach nothing or the opposite of another")
    assert "identical answers: row 7" in fault
    assert told([*rows[:-1]], allowed=0.4)[1] is None


def test_equal_scores_are_bad(told: Any) -> None:
    ranked = [{"prompt": f"q{n}", "answers": ["a", "b"], "scores": [1, n]} for n in range(3)]
    lines, fault = told(ranked)
    assert "bad rows, equal scores: 1 of 3 (33.3%) (row 2)" in lines
    assert fault is not None


def test_the_same_pair_twice_is_no_contradiction(told: Any) -> None:
    assert told([pair("q", "a", "b"), pair("q", "a", "b"), pair("r", "b", "a")])[1] is None


def test_rows_that_are_too_long_are_not_bad_and_keep_their_numbers(told: Any) -> None:
    rows = [pair("q", "a long text of many words", "no"), *GOOD, pair("same", "a", "a")]
    lines, fault = told(rows, limits=Limits(max_length=25, overlong="drop"), allowed=0.2)
    assert "bad rows, identical answers: 1 of 8 (12.5%) (row 8)" in lines and fault is None
    assert lines.startswith("8 rows, 12 answers")


def test_answers_without_an_end_are_counted(told: Any) -> None:
    rows = [*GOOD, pair("q", "a long text of many words", "no")]
    lines, fault = told(rows, limits=Limits(max_length=25, overlong="truncate_answer"))
    assert "without an end token: 1 of 14 (7.1%) answers" in lines and fault is None


def test_texts_without_a_template_are_told(told: Any) -> None:
    lines, _ = told([{"prompt": "q", "chosen": " a", "rejected": " b"}])
    assert lines.startswith("1 rows, 2 answers; texts are continued as they are, without a chat template")


def test_answers_by_themselves(told: Any) -> None:
    rows = [{**pair(f"q{n}", "yes it is", "no")} for n in range(3)]
    lines, fault = told(rows, spec=KTO)
    assert fault is None
    assert "3 good answers of" in lines and "3 bad ones of" in lines


def test_good_answers_alone_are_told(told: Any) -> None:
    rows = [{"prompt": f"p{n}", "completion": " a", "label": True} for n in range(3)]
    lines, fault = told(rows, spec=KTO)
    assert "3 good answers of" in lines and "and no bad one" in lines
    assert fault is None
