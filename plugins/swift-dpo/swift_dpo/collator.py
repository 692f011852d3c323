"""From rows to batches of answers that share their prompts, and what is kept beside the weights."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from swift_core.errors import UserError
from swift_core.flat import flat_batch
from swift_core.hookspecs import LeftOut
from swift_core.model_folders import load_single_stack_config, position_limit
from swift_core.models import load_tokenizer
from swift_dpo.choices import chosen_pairs
from swift_dpo.constraint import Constraint, constraint_of
from swift_dpo.data_options import PairChoice
from swift_dpo.generation import rendered
from swift_dpo.limits import Limits
from swift_dpo.messages import alike, is_blank, is_messages
from swift_dpo.sequences import Sequences, desensitised, key_of
from swift_dpo.tokens import TokenRow, Tokens, shared_tokens

if TYPE_CHECKING:
    import datasets
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from swift_core.arguments import TrainingArguments
    from swift_core.data.dataset import TaskData
    from swift_dpo.questions import Render
    from swift_dpo.refreshing import MovingReference

# Shape legend: B rows, A answers of all of them, P pairs of answers, T tokens of answers that count.

Kind = Literal["pairs", "likelihood", "answers"]
"""What a loss is a mean over: pairs; pairs, and tokens of better answers beside them; single answers."""
ColumnFaults = Callable[[Any, Collection[str]], Collection[str]]
OPTIONAL = ("margin", "weight", "violations")
EQUAL_SCORES = "equal scores"
IDENTICAL = "identical answers"
NOTHING = "nothing to score"
_ROWS_AT_ONCE = 1000
_NO_LIMIT = 1_000_000
"""Tokenizers without a limit of their own say 1e30."""


@dataclass(frozen=True, kw_only=True)
class PreferenceCollator:
    """Encodes a prompt with its answers.

    Attributes:
        tokens: how texts become token ids.
        limits: how long a row may be.
        kind: what ``num_items`` of a batch counts.
        pairs: which answers are compared.
        ld_alpha: weight of what the longer answer of a pair has beyond the length of the shorter one
            (LD-DPO, arXiv 2409.06411, equation 9), for rows of one pair; None: all tokens weigh the same.
        with_unrelated: whether answers to other prompts are read.
        max_bad_rows: see the option of that name.
        column_faults: tells of optional columns that the task does not read, given its options and the names
            of those that have a value.
        constraint: how violations change which answer is the better one; None: they do not.
    """

    tokens: Tokens
    limits: Limits
    kind: Kind
    pairs: PairChoice = "all"
    ld_alpha: float | None = None
    with_unrelated: bool = False
    max_bad_rows: float = 0.01
    column_faults: ColumnFaults | None = None
    constraint: Constraint | None = None

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """That of the model."""
        return self.tokens.tokenizer

    def fitted(
        self, train: TaskData, evaluation: TaskData | None, args: TrainingArguments
    ) -> PreferenceCollator:
        """This collator: it learns nothing from data, and asks here whether a run finds what it will need.

        Raises:
            UserError: reference, judge or prompts for evaluations can't be used.
        """
        from swift_dpo.beforehand import check_beforehand

        check_beforehand(args, self, evaluates=evaluation is not None)
        return self

    def check(self, data: TaskData, args: TrainingArguments) -> None:
        """Tell what the training data is like.

        Raises:
            UserError: more than ``max_bad_rows`` of its rows teach nothing, or the opposite of another.
        """
        from swift_dpo.data_report import report

        self._check_columns(data, args)
        self.check_evaluation(data)
        lines, fault = report(data, self)
        if args.trainer.process_index == 0:
            print("\n".join(lines), flush=True)
        if fault is not None:
            raise UserError(*fault)

    def check_evaluation(self, data: TaskData) -> None:
        """Refuse data without answers to other prompts, where the loss compares with these.

        Raises:
            UserError: all rows have one prompt.
        """
        if self.with_unrelated and _filled(data.records, "unrelated") < len(data.records):
            raise UserError(
                f"prompt: expected {data.name} rows with two different prompts at least, found one prompt in "
                "all: loss kto compares each answer with one that has nothing to do with its prompt; add "
                "others, or set loss to apo_zero_unpaired"
            )

    def _check_columns(self, data: TaskData, args: TrainingArguments) -> None:
        known = data.records
        filled = [name for name in OPTIONAL if name in known.column_names and _filled(known, name)]
        if self.constraint is not None and self.constraint.function is not None:
            filled.append("violations")
        faults = self.column_faults(args.task, filled) if self.column_faults is not None else ()
        if faults:
            raise UserError(*faults)

    def encode(self, record: Mapping[str, Any]) -> dict[str, Any] | LeftOut:
        """Token ids of a prompt and its answers; what is left out is told by reason."""
        prompt, answers, scores = record["prompt"], record["answers"], record["scores"]
        quality, violations = scores, record["violations"]
        if self.constraint is not None:
            violations = self.constraint.violations(record)
            scores = self.constraint.judged(scores, violations)
        # Where all rows have one prompt there is none, which is refused once for all of them.
        compares = self.with_unrelated and record["unrelated"] is not None
        unrelated = alike(record["unrelated"], prompt) if compares else None
        row = self.tokens.of_row(prompt, answers, record["tools"])
        other = None
        if unrelated is not None:
            # By itself: another row's answer must not change which tokens of this one's count.
            other = _after(self.tokens.of_row(prompt, [unrelated], record["tools"]), len(row.prompt))
        kept = self._compared(row.answers, scores)
        if isinstance(kept, LeftOut):
            return kept
        self._check_lengths(kept)
        fitted = self.limits.fit(row.only(kept), lambda: self._opening(record, row.prompt))
        if isinstance(fitted, LeftOut):
            return fitted
        row, cut = fitted
        if not all(map(any, row.counted)):
            return LeftOut(NOTHING)
        weights = self.weights(row.counted)
        keys = [key_of(row.prompt, *pair) for pair in zip(row.answers, weights, strict=True)]
        scores = [scores[place] for place in kept]
        if self.kind != "answers" and not chosen_pairs(scores, keys, self.pairs):
            return LeftOut(IDENTICAL)  # once they are cut
        return {
            "prompt": row.prompt,
            "answers": row.answers,
            "counted": row.counted,
            "complete": row.complete,
            "keys": keys,
            "scores": scores,
            "margin": record["margin"],
            "pair_weight": record["weight"],
            "violations": None if violations is None else [violations[place] for place in kept],
            "quality": None if violations is None else [quality[place] for place in kept],
            **self._of_unrelated(row.prompt, other),
            "blank": sum(is_blank(answers[place]) for place in kept),
            "chat": is_messages(prompt),
            "length": len(row.prompt)
            + sum(map(len, row.answers))
            + (0 if other is None else len(other.answers[0])),
            "truncated": cut,
        }

    def weights(self, counted: list[list[float]]) -> list[list[float]]:
        """What each token of a row's answers weighs in their log-probabilities, given which of them count."""
        return counted if self.ld_alpha is None else desensitised(counted, self.ld_alpha)

    def render(self, args: TrainingArguments) -> Render:
        """What writes the prompts that evaluations answer: as those of rows, and cut as they are."""

        def render(tokenizer: PreTrainedTokenizerBase, prompt: Any, tools: Any) -> list[int]:
            ids = rendered(tokenizer, prompt, tools)
            record = {"prompt": prompt, "tools": tools}
            return self.limits.fit_prompt(
                ids, lambda: self._opening(record, ids), args.task.eval_max_new_tokens
            )

        return render

    def _compared(self, answers: Sequence[Sequence[int]], scores: Sequence[float]) -> list[int] | LeftOut:
        """Places of the answers that some pair needs."""
        if self.kind == "answers":
            return list(range(len(answers)))
        names: dict[tuple[int, ...], int] = {}
        same = [names.setdefault(tuple(answer), len(names)) for answer in answers]
        used = {place for pair in chosen_pairs(scores, same, self.pairs) for place in pair}
        if used:
            return sorted(used)
        return LeftOut(EQUAL_SCORES if len(set(scores)) == 1 and len(names) > 1 else IDENTICAL)

    def _check_lengths(self, kept: Sequence[int]) -> None:
        """Refuse a row in which an answer is shortened to another length in each of its pairs."""
        if self.ld_alpha is not None and len(kept) > 2:
            raise ValueError(
                f"answers: ld_alpha expects two answers, whose lengths it compares, found {len(kept)}; set "
                "pairs to best_worst, or leave ld_alpha out"
            )

    def _opening(self, record: Mapping[str, Any], prompt: Sequence[int]) -> int:
        return shared_tokens([prompt, self.tokens.opening(record["prompt"], record["tools"])])

    def _of_unrelated(self, prompt: list[int], other: TokenRow | None) -> dict[str, Any]:
        if other is None:
            return dict.fromkeys(("unrelated", "unrelated_counted", "unrelated_key"))
        # Another row's answer is no reason to refuse this one.
        limit = self.limits.max_length
        room = None if limit is None else max(limit - len(prompt), 1)
        ids, counted = other.answers[0][:room], other.counted[0][:room]
        return {
            "unrelated": ids,
            "unrelated_counted": counted,
            "unrelated_key": key_of(prompt, ids, counted),
        }

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Batch B rows.

        A prompt that several rows have is there once.

        Returns:
            ``flat``, a :class:`swift_core.flat.FlatBatch`: the prompts, then the A answers, each with its
            prompt as parent, those of kto to other prompts last. For each of T tokens that count:
            ``predictors`` [T] int64, the place in the flat row whose output predicts it; ``targets`` [T]
            int64, its id; ``owners`` [T] int64, its answer; ``weights`` [T] float32. For each answer:
            ``tokens`` [A] float32, how many of these it has; ``scores`` [A] float32 (0 for unrelated ones);
            ``keys`` [A] int64; ``complete`` [A] bool; ``violations`` [A] float32 or None. ``better`` and
            ``worse`` [P] int64 are answers. ``margin`` (0 where there is none) and ``pair_weight`` (1)
            are float32, for each pair, or for each answer that is not an unrelated one where answers count
            by themselves. ``unrelated`` [B] int64: answers to other prompts, or None. ``num_items``: P;
            (P, tokens of the better answer of each pair); or the number of answers but for unrelated ones.
        """
        prompts: dict[tuple[int, ...], int] = {}
        parents = [prompts.setdefault(tuple(feature["prompt"]), len(prompts)) for feature in features]
        rows = Sequences()
        for feature, parent in zip(features, parents, strict=True):
            counted = feature["counted"]
            weights = self.weights(counted)
            rows.add(feature["answers"], counted, weights, feature["keys"], feature["complete"], parent)
            rows.scores += feature["scores"]
        own = len(rows.ids)
        if features[0]["unrelated"] is not None:
            for feature, parent in zip(features, parents, strict=True):
                counted, key = [feature["unrelated_counted"]], feature["unrelated_key"]
                rows.add([feature["unrelated"]], counted, counted, [key], [True], parent)
                rows.scores.append(0.0)
        flat = flat_batch(
            [*map(list, prompts), *rows.ids],
            parents=[*[None] * len(prompts), *rows.parents],
        )
        batch = {"flat": flat, **rows.tensors(flat, len(prompts))}
        batch |= self._compare(features)
        batch["violations"] = _violations(features)
        batch["unrelated"] = torch.arange(own, len(rows.ids)) if len(rows.ids) > own else None
        return {**batch, "num_items": self._items(batch, own)}

    def _compare(self, features: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        better: list[int] = []
        worse: list[int] = []
        margin: list[float] = []
        weight: list[float] = []
        start = 0
        for feature in features:
            count = len(feature["answers"])
            if self.kind == "answers":
                items = count
                margin += [feature["margin"] or 0.0] * items
            else:
                found = chosen_pairs(feature["scores"], feature["keys"], self.pairs)
                better += [start + i for i, _ in found]
                worse += [start + j for _, j in found]
                items = len(found)
                margin += _margins(feature, found)
            weight += [1.0 if feature["pair_weight"] is None else feature["pair_weight"]] * items
            start += count
        return {
            "better": torch.tensor(better, dtype=torch.long),
            "worse": torch.tensor(worse, dtype=torch.long),
            "margin": torch.tensor(margin, dtype=torch.float32),
            "pair_weight": torch.tensor(weight, dtype=torch.float32),
        }

    def _items(self, batch: Mapping[str, Any], own: int) -> int | tuple[int, int]:
        pairs = len(batch["better"])
        if self.kind == "answers":
            return own
        return pairs if self.kind == "pairs" else (pairs, int(batch["tokens"][batch["better"]].sum()))

    def encoding_parts(self) -> str:
        """The code of the user that rows are encoded with: what it gave must not outlive it."""
        return "" if self.constraint is None else self.constraint.source

    def before_training(self, model: nn.Module, train: TaskData, evaluation: TaskData | None) -> None:
        """Let the reference say all that it will be asked, where the run wants that ahead."""
        from swift_dpo.model import memory_of

        parts = [
            data.features for data in (train, evaluation) if data is not None and data.features is not None
        ]
        memory_of(model).reference.fill(model, parts, self)

    def companion(self, model: nn.Module) -> MovingReference | None:
        """What moves the reference, where the run wants that."""
        from swift_dpo.model import memory_of
        from swift_dpo.refreshing import moving_reference

        return moving_reference(memory_of(model).reference, model)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the tokenizer with its chat template."""
        self.tokenizer.save_pretrained(folder)


def _filled(records: datasets.Dataset, name: str) -> int:
    """How many rows have a value in a column."""
    # Not by the table: rows that were selected share it with those that were not.
    batches = records.select_columns(name).with_format("arrow").iter(batch_size=_ROWS_AT_ONCE)
    return sum(len(batch) - batch.column(name).null_count for batch in batches)


def _after(row: TokenRow, start: int) -> TokenRow:
    """The same with its one answer beginning at token ``start`` of the whole text."""
    ids = [*row.prompt, *row.answers[0]]
    counted = [*[0.0] * len(row.prompt), *row.counted[0]]
    cut = min(start, len(ids) - 1)
    return row._replace(prompt=ids[:cut], answers=[ids[cut:]], counted=[counted[cut:]])


def _margins(feature: Mapping[str, Any], pairs: Sequence[tuple[int, int]]) -> list[float]:
    """How much better than the other one, as the row says, the answer is that a pair prefers.

    The row says it of quality: where violations turn a pair round, the preferred answer is so much worse, and
    where they alone decide, it is as good as the other one.
    """
    margin, quality = feature["margin"] or 0.0, feature["quality"]
    if quality is None:
        return [margin] * len(pairs)
    return [margin * ((quality[i] > quality[j]) - (quality[i] < quality[j])) for i, j in pairs]


def _violations(features: Sequence[Mapping[str, Any]]) -> Tensor | None:
    """[A], 0 for answers of rows that tell of none; None where no row tells."""
    if all(feature["violations"] is None for feature in features):
        return None
    filled = [feature["violations"] or [0.0] * len(feature["answers"]) for feature in features]
    return torch.tensor([value for values in filled for value in values], dtype=torch.float32)


def make_collator(
    args: TrainingArguments,
    *,
    kind: Kind,
    ld_alpha: float | None = None,
    with_unrelated: bool = False,
    column_faults: ColumnFaults | None = None,
) -> PreferenceCollator:
    """Read from options (:class:`swift_dpo.data_options.DataOptions`) and the model how rows are read.

    Raises:
        UserError: the model is no decoder, or an option can't be used with it.
    """
    tokenizer = load_tokenizer(args)
    config = load_single_stack_config(args, choose="a causal model")
    task, text_config = args.task, config.get_text_config()
    if task.chat_template is not None:
        tokenizer.chat_template = _template(task.chat_template)
    return PreferenceCollator(
        tokens=Tokens(tokenizer=tokenizer, vocabulary=getattr(text_config, "vocab_size", None)),
        limits=Limits(
            max_length=_max_length(args, tokenizer, position_limit(text_config)),
            max_prompt_length=task.max_prompt_length,
            overlong=task.overlong,
        ),
        kind=kind,
        pairs=task.pairs,
        ld_alpha=ld_alpha,
        with_unrelated=with_unrelated,
        max_bad_rows=task.max_bad_rows,
        column_faults=column_faults,
        constraint=constraint_of(task),
    )


def _template(name: str) -> str:
    try:
        return Path(name).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"chat_template: expected a file with a chat template, found {name} ({error})"
        ) from None


def _max_length(args: TrainingArguments, tokenizer: PreTrainedTokenizerBase, limit: int | None) -> int | None:
    asked = args.core.max_length
    if asked is not None and limit is not None and asked > limit:
        raise UserError(f"max_length: the model takes at most {limit} tokens, found {asked}; lower it")
    limits = [n for n in (limit, tokenizer.model_max_length) if n is not None and n < _NO_LIMIT]
    return asked or min(limits, default=None)
