"""The model against its reference: both answer the same prompts, and a judge decides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from torch import distributed, nn

from swift_core.data.all_faults import all_of
from swift_core.errors import SwiftError, UserError
from swift_core.flat.processes import is_sharded, rank_and_world
from swift_core.hookspecs import Evaluation
from swift_dpo.elo import elo_gain
from swift_dpo.generation import Answer, Sampling, answers_of, rendered
from swift_dpo.judge_making import check_judge, make_judge
from swift_dpo.judges import WON, Judge, Judgement, Question
from swift_dpo.questions import Render, questions_of, read_prompts, written

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from swift_core.arguments import TrainingArguments
    from swift_core.data.dataset import TaskData

# Shape legend: N prompts.

Reference: TypeAlias = Callable[[], AbstractContextManager[nn.Module]]
"""Opens the reference: a model that answers as it, while the context lasts, such as the policy without its
adapter."""
Precision: TypeAlias = Callable[[nn.Module], AbstractContextManager[Any]]

_RESULTS: Mapping[float, str] = {1.0: "win", 0.5: "tie", 0.0: "loss"}
_UNREADABLE = 0.5
"""Share of pairs without a readable verdict above which an evaluation is no evaluation."""


class Arena:
    """Prompts, and a judge of their answers. Kept over a run: the reference answers once only."""

    def __init__(
        self,
        *,
        questions: Sequence[Question],
        tokenizer: PreTrainedTokenizerBase,
        sampling: Sampling,
        judge: Judge | None = None,
        render: Render = rendered,
        precision: Precision = nullcontext,
    ) -> None:
        """Write the prompts.

        Args:
            render: writes prompts as training does.
            precision: opens what a model answers in. It must be the same for both: where one of two equal
                models rounds and the other does not, they answer differently, and a judge finds a winner.

        Raises:
            UserError: a prompt can't be written.
        """
        self.questions = questions
        self._tokenizer, self._sampling, self._judge = tokenizer, sampling, judge
        self._precision = precision
        self._prompts = written(questions, tokenizer, render)
        self._reference: list[Answer] | None = None

    def keep_reference(self, reference: Reference) -> None:
        """Let the reference answer, now or never: later calls do nothing."""
        if self._reference is None:
            with reference() as model:
                self._reference = self._answers(model)

    def evaluate(self, model: nn.Module, reference: Reference | None = None) -> Evaluation:
        """Let ``model`` answer, and judge its answers against those of the reference.

        Args:
            reference: None: there is none, unless :meth:`keep_reference` was called.

        Returns:
            ``answer_tokens`` and ``answer_complete`` always, with a judge what :func:`figures_of` lists, and
            the table ``samples``.

        Raises:
            SwiftError: the judge fails, or cannot be understood.
        """
        if not self.questions:
            return Evaluation({})
        if reference is not None:
            self.keep_reference(reference)
        answers, others = self._answers(model), self._reference
        judgements = None
        if self._judge is not None and others is not None:
            judgements = _on_first_process(lambda: self._judged(answers, others))
        metrics = _lengths(answers, "")
        if others is not None:
            metrics |= _lengths(others, "_reference")
        if judgements is not None:
            metrics |= figures_of(judgements, scores=self._scores, seed=self._sampling.seed)
        return Evaluation(metrics, {"samples": self._samples(answers, others, judgements)})

    @property
    def _scores(self) -> bool:
        return self._judge is not None and self._judge.scores

    def _answers(self, model: nn.Module) -> list[Answer]:
        """Answers [N]; each process answers a part where it can."""
        rank, world = rank_and_world()
        # Of a sharded model all processes must take the same steps.
        alone = world == 1 or is_sharded(model)
        prompts = self._prompts if alone else self._prompts[rank::world]
        with self._precision(model):
            own = answers_of(model, self._tokenizer, prompts, self._sampling)
        if alone:
            return own
        parts: list[Any] = [None] * world
        distributed.all_gather_object(parts, own)
        return [parts[n % world][n // world] for n in range(len(self._prompts))]

    def _judged(self, answers: Sequence[Answer], others: Sequence[Answer]) -> list[Judgement]:
        assert self._judge is not None
        judgements = self._judge(self.questions, [one.text for one in answers], [one.text for one in others])
        notes = Counter(judgement.note for judgement in judgements)
        unreadable = notes["unreadable"]
        if unreadable:
            told = f"judge: {unreadable:,} of {len(judgements):,} pairs got no verdict that can be read"
            if unreadable > _UNREADABLE * len(judgements):
                raise SwiftError(
                    f"{told} (expected A, B or tie as the last line of a reply); ask for that in "
                    "judge_template, or take another judge"
                )
            print(f"warning: {told}; they count as ties", flush=True)
        return judgements

    def _samples(
        self,
        answers: Sequence[Answer],
        others: Sequence[Answer] | None,
        judgements: Sequence[Judgement] | None,
    ) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for n, (question, answer) in enumerate(zip(self.questions, answers, strict=True)):
            row = {"prompt": question.prompt, "answer": answer.text, **_told(answer, "")}
            if others is not None:
                row |= {"reference_answer": others[n].text, **_told(others[n], "reference_")}
            if judgements is not None:
                row |= _verdict(judgements[n], self._scores)
            rows.append(row)
        return rows


def make_arena(
    args: TrainingArguments,
    tokenizer: PreTrainedTokenizerBase,
    data: TaskData | None,
    render: Render = rendered,
    precision: Precision = nullcontext,
) -> Arena:
    """The arena that the options describe.

    Args:
        data: evaluation rows, whose prompts are taken where ``eval_prompts`` names none.
        render: see :class:`Arena`.
        precision: see :class:`Arena`.

    Raises:
        UserError: options contradict each other; judge or prompts can't be used.
    """
    task = args.task
    sampling = Sampling(
        max_new_tokens=task.eval_max_new_tokens,
        temperature=task.eval_temperature,
        seed=task.eval_seed,
        batch_size=task.eval_prompts_at_once,
    )
    return Arena(
        questions=questions_of(args, data),
        tokenizer=tokenizer,
        sampling=sampling,
        judge=make_judge(args),
        render=render,
        precision=precision,
    )


def check_arena(args: TrainingArguments, write: Callable[[list[Question]], Any] = list) -> None:
    """Refuse a judge and a file of prompts that can't or won't be used, before a model is built and trained.

    Args:
        args: of the run.
        write: writes the prompts of the file as evaluations will (:func:`~swift_dpo.questions.written`).

    Raises:
        UserError: see :func:`make_arena`; all faults at once.
    """
    all_of([partial(_check_asks, args), partial(check_judge, args), partial(_check_prompts, args, write)])


def _check_asks(args: TrainingArguments) -> None:
    task = args.task
    useless = [name for name in ("judge", "eval_prompts") if getattr(task, name) is not None]
    if task.eval_samples == 0 and useless:
        raise UserError(
            *(
                f"{name}: has no effect with eval_samples 0, which asks nothing; leave it out, or raise "
                "eval_samples"
                for name in useless
            )
        )


def _check_prompts(args: TrainingArguments, write: Callable[[list[Question]], Any]) -> None:
    if args.task.eval_prompts is not None and args.task.eval_samples != 0:
        # All of them have to be prompts, whichever are drawn.
        read_prompts(args.task.eval_prompts, args)
        write(questions_of(args, None))


def figures_of(judgements: Sequence[Judgement], *, scores: bool, seed: int = 0) -> dict[str, float]:
    """Figures of judgements whose ``a`` is the model and whose ``b`` is the reference.

    Returns:
        ``win_rate``, ``tie_rate``, ``elo`` (the reference has 1000), ``elo_gain`` in percent of the latter's
        rating with ``elo_gain_low`` and ``elo_gain_high``; ``judge_score`` and ``judge_score_reference`` of a
        judge that scores, ``judge_disagreements`` (share of pairs whose verdict hung on the order) and
        ``judge_unreadable`` of one that compares.
    """
    gain = elo_gain([WON[judgement.verdict] for judgement in judgements], seed=seed)
    count = len(judgements)
    figures = {
        "win_rate": gain.win_rate,
        "tie_rate": gain.ties / count,
        "elo": gain.elo,
        "elo_gain": gain.gain,
        "elo_gain_low": gain.low,
        "elo_gain_high": gain.high,
    }
    if scores:
        figures["judge_score"] = float(np.mean([one.score_a for one in judgements]))
        figures["judge_score_reference"] = float(np.mean([one.score_b for one in judgements]))
    else:
        notes = Counter(judgement.note for judgement in judgements)
        figures["judge_disagreements"] = notes["orders disagree"] / count
        figures["judge_unreadable"] = notes["unreadable"] / count
    return figures


def _on_first_process(judge: Callable[[], list[Judgement]]) -> list[Judgement]:
    """What ``judge`` finds, asked once for all processes: it may cost money, or ask at random.

    A failure there is one everywhere: the others would wait for ever.
    """
    rank, world = rank_and_world()
    if world == 1:
        return judge()
    found: list[Any] = [None]
    if rank == 0:
        try:
            found = [judge()]
        except Exception as error:  # told below, on all
            found = [error if isinstance(error, SwiftError) else SwiftError(f"judge: {error}")]
    distributed.broadcast_object_list(found, src=0)
    if isinstance(found[0], SwiftError):
        raise found[0]
    judgements: list[Judgement] = found[0]
    return judgements


def _lengths(answers: Sequence[Answer], suffix: str) -> dict[str, float]:
    return {
        f"answer_tokens{suffix}": float(np.mean([answer.tokens for answer in answers])),
        f"answer_complete{suffix}": float(np.mean([answer.complete for answer in answers])),
    }


def _told(answer: Answer, prefix: str) -> dict[str, Any]:
    return {f"{prefix}tokens": answer.tokens, f"{prefix}complete": answer.complete}


def _verdict(judgement: Judgement, scores: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"verdict": _RESULTS[WON[judgement.verdict]]}
    if scores:
        return row | {"score": judgement.score_a, "reference_score": judgement.score_b}
    return row | {"note": judgement.note}
