"""Judges: which of two answers to a prompt is the better one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from swift_core.errors import SwiftError, UserError
from swift_dpo.functions import load_function, number_of_parameters

if TYPE_CHECKING:
    from swift_dpo.generation import Prompt

# Shape legend: N prompts.

Row: TypeAlias = Mapping[str, Any]
Verdict: TypeAlias = Literal["a", "b", "tie"]

WON: Mapping[Verdict, float] = {"a": 1.0, "tie": 0.5, "b": 0.0}


@dataclass(frozen=True, kw_only=True)
class Question:
    """A prompt that two models answer.

    Attributes:
        prompt: a text or messages.
        row: all columns of the row that it came from; a judge may look things up there.
    """

    prompt: Prompt
    row: Row = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What a judge says of two answers.

    Attributes:
        verdict: which is better.
        score_a: of a judge that scores single answers.
        score_b: the same of the other one.
        note: why there is no clear verdict, where that is so.
    """

    verdict: Verdict
    score_a: float | None = None
    score_b: float | None = None
    note: Literal["orders disagree", "unreadable"] | None = None


class Judge(Protocol):
    """What decides between answers.

    Attributes:
        scores: it scores single answers, so that a mean score tells something.
    """

    scores: bool

    def __call__(self, questions: Sequence[Question], a: Sequence[str], b: Sequence[str]) -> list[Judgement]:
        """One judgement for each question and its two answers."""


Scoring: TypeAlias = Callable[[Sequence[Question], Sequence[str]], Sequence[float]]
"""Scores [N] of one answer each; more is better."""
Comparing: TypeAlias = Callable[[Sequence[tuple[Question, str, str]]], Sequence[Verdict | None]]
"""Verdicts on many pairs of answers in the order given; None where there is none that can be read."""


class ScoringJudge:
    """Judges by the scores of single answers: the higher one wins, equal ones tie.

    Equal answers are scored once: a model rounds the same text otherwise in another batch, and a function may
    be random.
    """

    scores = True

    def __init__(self, score: Scoring) -> None:
        self._score = score

    def __call__(self, questions: Sequence[Question], a: Sequence[str], b: Sequence[str]) -> list[Judgement]:
        of_a = list(self._score(questions, a))
        others = [n for n in range(len(questions)) if a[n] != b[n]]
        of_b = list(of_a)
        scores = self._score([questions[n] for n in others], [b[n] for n in others])
        for n, score in zip(others, scores, strict=True):
            of_b[n] = score
        return [
            Judgement(verdict="a" if x > y else "b" if x < y else "tie", score_a=x, score_b=y)
            for x, y in zip(of_a, of_b, strict=True)
        ]


class ComparingJudge:
    """Asks in both orders, because many a judge favours a place; where its answers disagree it is a tie.

    Equal answers tie unasked.
    """

    scores = False

    def __init__(self, compare: Comparing) -> None:
        self._compare = compare

    def __call__(self, questions: Sequence[Question], a: Sequence[str], b: Sequence[str]) -> list[Judgement]:
        asked = [n for n in range(len(questions)) if a[n] != b[n]]
        verdicts = self._compare(
            [(questions[n], a[n], b[n]) for n in asked] + [(questions[n], b[n], a[n]) for n in asked]
        )
        found = [Judgement(verdict="tie")] * len(questions)
        for place, n in enumerate(asked):
            found[n] = _of_both(verdicts[place], verdicts[place + len(asked)])
        return found


def _of_both(first: Verdict | None, swapped: Verdict | None) -> Judgement:
    turned: Mapping[Verdict, Verdict] = {"a": "b", "b": "a", "tie": "tie"}
    if first is None or swapped is None:
        return Judgement(verdict="tie", note="unreadable")
    if first != turned[swapped]:
        return Judgement(verdict="tie", note="orders disagree")
    return Judgement(verdict=first)


def function_judge(name: str) -> Judge:
    """A judge made of a function of the user.

    It takes ``(prompt, answer, row)`` and returns a score, or ``(prompt, a, b, row)`` and returns a number
    above 0 where a is better, below 0 where b is, and 0 for a tie: the number of its parameters tells.

    Raises:
        UserError: there is no such function, or it takes other arguments.
    """
    function = load_function(name, "judge")
    match number_of_parameters(function):
        case 3:
            return ScoringJudge(lambda questions, answers: _scores(function, name, questions, answers))
        case 4:
            return ComparingJudge(lambda asked: [_verdict(function, name, *one) for one in asked])
    raise UserError(
        f"judge: {name} must take (prompt, answer, row) and return a score, or (prompt, a, b, row) and "
        "return a number above 0 where a is better"
    )


def _scores(
    function: Callable[..., Any], name: str, questions: Sequence[Question], answers: Sequence[str]
) -> list[float]:
    return [
        _number(function, name, question.prompt, answer, question.row)
        for question, answer in zip(questions, answers, strict=True)
    ]


def _verdict(function: Callable[..., Any], name: str, question: Question, a: str, b: str) -> Verdict:
    found = _number(function, name, question.prompt, a, b, question.row)
    return "a" if found > 0 else "b" if found < 0 else "tie"


def _number(function: Callable[..., Any], name: str, *given: Any) -> float:
    try:
        found = function(*given)
        number = float(found)
    except Exception as error:  # code of the user, which may fail in any way
        raise SwiftError(
            f"judge: {name} failed on the prompt {given[0]!r:.200} ({type(error).__name__}: {error})"
        ) from error
    if not math.isfinite(number):
        raise SwiftError(f"judge: {name} must return a finite number, found {found!r} ({given[0]!r:.200})")
    return number
