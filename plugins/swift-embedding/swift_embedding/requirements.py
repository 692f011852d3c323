"""What losses need of the data, looked at before a model is built."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from swift_core.data.beir import load_retrieval, read_corpus
from swift_core.errors import UserError, listed
from swift_core.model_folders import load_config
from swift_embedding.objective import SUITED, USES, Kind, loss_name

if TYPE_CHECKING:
    import datasets

    from swift_core.arguments import TrainingArguments
    from swift_core.data.dataset import TaskData
    from swift_embedding.options import LossName

_KINDS: dict[Kind, str] = {
    "answers": "queries and answers",
    "scored": "scored pairs",
    "labelled": "labelled texts",
}


_ROWS_AT_ONCE = 10_000
_READS_SCORES = ("cosent", "angle", "cosine")
"""Losses that take a teacher's scores where every row has them, else 1 for answers and 0 for the rest."""


@dataclass(frozen=True)
class Part:
    """The rows of one data set of a run."""

    number: int
    name: str
    kind: Kind
    rows: datasets.Dataset


def check_data(data: TaskData, args: TrainingArguments) -> None:
    """Refuse data that the losses can't learn from, and files that would fail after the training only.

    Raises:
        UserError: a loss does not fit its data, some rows would have nothing to be contrasted with, an option
            is given that no loss of the run reads, ``eval_retrieval`` or ``export_corpus`` can't be read, or
            faiss can't make the ``index`` of an export.
    """
    parts = parts_of(data)
    faults = list(_counts(data, args))
    if not faults:
        losses = {part.number: loss_name(args.task, part.number, part.kind) for part in parts}
        faults += [fault for part in parts for fault in _faults_of(part, losses[part.number], data, args)]
        faults += _unused_options(args, set(losses.values()))
    if faults:
        raise UserError(*faults)
    if args.task.eval_retrieval is not None:
        load_retrieval(Path(args.task.eval_retrieval), args.task.eval_retrieval_split)
    if args.task.export_corpus is not None:
        read_corpus(Path(args.task.export_corpus))
    if "faiss" in args.core.export_formats:
        _check_index(data, args)


def _check_index(data: TaskData, args: TrainingArguments) -> None:
    # faiss is loaded by who needs it: its start takes as long as that of the whole command line.
    from swift_embedding.index import check_index

    dimension = args.task.export_dimensions or load_config(args).get_text_config().hidden_size
    check_index(args.task.index, len(data.records), dimension, args.task.target_recall)


def check_evaluation(data: TaskData) -> None:
    """Refuse evaluation data that would fail only once the model is trained.

    Raises:
        UserError: rows of one data set are of different kinds, or nothing can be measured on them.
    """
    faults = []
    for part in parts_of(data):
        column = {"scored": "score", "labelled": "label", "answers": None}[part.kind]
        if column is not None and len(set(part.rows[column])) < 2:
            faults.append(f"{column}: expected different values to measure with, found one in {part.name}")
    if faults:
        raise UserError(*faults)


def _kinds(rows: datasets.Dataset) -> set[Kind]:
    """The kinds among ``rows``; their texts are not decoded."""
    found: set[Kind] = set()
    for batch in rows.with_format("arrow").iter(batch_size=_ROWS_AT_ONCE):
        labelled = np.asarray(batch["text"].is_valid())
        scored = np.asarray(batch["text1"].is_valid())
        marks = {"labelled": labelled, "scored": scored, "answers": ~labelled & ~scored}
        found.update(kind for kind, mark in marks.items() if mark.any())  # type: ignore[misc]
    return found


def _counts(data: TaskData, args: TrainingArguments) -> Iterator[str]:
    count = len(data.sources)
    for name, value in (("loss", args.task.loss), ("loss_weights", args.task.loss_weights)):
        if isinstance(value, list) and len(value) != count:
            yield f"{name}: expected one for each of the {count} data sets, found {len(value)}"


def parts_of(data: TaskData) -> list[Part]:
    """The data sets of a run's data.

    Raises:
        UserError: rows of one data set are of different kinds.
    """
    sources = np.asarray(data.records["source"])
    parts = []
    for number in np.unique(sources).tolist():
        rows = data.records.select(np.flatnonzero(sources == number))
        kinds = sorted(_kinds(rows))
        name = data.sources[number].name
        if len(kinds) > 1:
            found = " and ".join(_KINDS[kind] for kind in kinds)
            raise UserError(f"{name}: expected rows of one kind, found {found}; put them into two files")
        parts.append(Part(number, name, kinds[0], rows))
    return parts


def _faults_of(part: Part, loss: LossName, data: TaskData, args: TrainingArguments) -> Iterator[str]:
    if part.kind not in SUITED[loss]:
        fitting = [name for name, kinds in SUITED.items() if part.kind in kinds]
        yield (
            f"loss: {loss} learns from {' or '.join(_KINDS[kind] for kind in SUITED[loss])}, found "
            f"{_KINDS[part.kind]} in {part.name}; choose one of {listed(fitting)}"
        )
    elif part.kind == "labelled":
        yield from _labels(part, args)
    elif loss in ("margin_mse", "kl"):
        yield from _teacher(part, loss)
    elif loss == "infonce":
        yield from _nothing_to_contrast(part, args)
        yield from _lone_rows(part, data, args)
    elif part.kind == "scored":
        yield from _scores(part, loss, args)
    elif not any(row["negatives"] for row in part.rows):
        yield f"loss: {loss} needs negatives, found none in {part.name}; add some, or choose infonce"
    elif loss in _READS_SCORES:
        yield from _teacher(part, loss, optional=True)
        if loss == "cosine":
            yield from _range(part, ("positive_scores", "negative_scores"))


def _labels(part: Part, args: TrainingArguments) -> Iterator[str]:
    size = args.trainer.per_device_train_batch_size
    if size < 4:
        yield (
            f"per_device_train_batch_size: expected 4 or more for labelled texts, two of each of two labels, "
            f"found {size}: a batch of one label teaches nothing"
        )
    if not args.task.use_inbatch_negatives:
        yield f"use_inbatch_negatives: texts of {part.name} have no negatives but the batch's; leave it on"
    counts = Counter(row["label"] for row in part.rows)
    if len(counts) < 2:
        yield f"label: expected at least two classes, found {len(counts)} in {part.name}"
    if max(counts.values()) < 2:
        yield f"label: expected classes of two texts or more, found another one in each row of {part.name}"


def _teacher(part: Part, loss: LossName, *, optional: bool = False) -> Iterator[str]:
    lacking = [
        n
        for n, row in enumerate(part.rows, start=1)
        if row["positive_scores"] is None or not row["negatives"] or row["negative_scores"] is None
    ]
    if lacking and not (optional and len(lacking) == len(part.rows)):
        yield (
            f"loss: {loss} needs positive_scores, negatives and negative_scores in every row; "
            f"{len(lacking):,} of {len(part.rows):,} rows of {part.name} lack some (the first is row "
            f"{lacking[0]})"
        )


def _scores(part: Part, loss: LossName, args: TrainingArguments) -> Iterator[str]:
    size = args.trainer.per_device_train_batch_size
    if loss in ("cosent", "angle", "online_contrastive") and size < 2:
        yield f"per_device_train_batch_size: {loss} compares pairs, expected 2 or more, found {size}"
    scores = {row["score"] for row in part.rows}
    if loss == "online_contrastive" and not scores <= {0.0, 1.0}:
        yield f"score: online_contrastive expects 0 or 1, found others in {part.name}; choose cosent"
    elif loss == "cosine":
        yield from _range(part, ("score",))
    elif len(scores) < 2:
        yield f"score: expected different numbers, found {next(iter(scores))} in every row of {part.name}"


def _range(part: Part, columns: Sequence[str]) -> Iterator[str]:
    for column in columns:
        found = np.concatenate(
            [np.atleast_1d(value) for value in part.rows[column] if value is not None] or [np.empty(0)]
        )
        if not (np.abs(found) <= 1).all():
            yield f"{column}: cosine expects numbers from -1 to 1, found others in {part.name}; scale them"


def _nothing_to_contrast(part: Part, args: TrainingArguments) -> Iterator[str]:
    in_batch, size = args.task.use_inbatch_negatives, args.trainer.per_device_train_batch_size
    first = part.rows[0]["positive"]
    differ = any(row["positive"] != first for row in part.rows)
    if in_batch and size > 1 and differ:
        return
    lonely = [
        n
        for n, row in enumerate(part.rows, start=1)
        if not set(row["negatives"] or ()) - set(row["positive"])
    ]
    if not lonely:
        return
    rows = f"{len(lonely):,} of {len(part.rows):,} rows have no negatives (the first is row {lonely[0]})"
    cause, remedy = "use_inbatch_negatives is off", "set use_inbatch_negatives=true"
    if in_batch:
        cause, remedy = "each batch holds one row", "set per_device_train_batch_size to 2 or more"
        if size > 1:
            cause, remedy = "all rows have the same positive", "give other rows too"
        if len(part.rows) == 1:
            cause, remedy = "there is only one row", "give more rows"
    yield (
        f"nothing to contrast: {rows} and {cause}, so the loss would be 0 and nothing would be learned; "
        f"{remedy}, or add negatives to every row"
    )


def _lone_rows(part: Part, data: TaskData, args: TrainingArguments) -> Iterator[str]:
    budget = args.core.max_tokens_per_batch
    if budget is None or data.stats is None or not args.task.use_inbatch_negatives:
        return
    longest = data.stats.longest
    if budget < 3 * longest and not all(row["negatives"] for row in part.rows):
        yield (
            f"max_tokens_per_batch: expected at least {3 * longest:,}, three times the longest "
            f"row, found {budget:,}: a batch could hold one row alone, with nothing to contrast; raise "
            "it, lower max_length, or add negatives to every row"
        )


def _unused_options(args: TrainingArguments, in_use: set[LossName]) -> Iterator[str]:
    alone = [n for n in ("query_negatives", "document_negatives", "symmetric") if getattr(args.task, n)]
    if alone and not args.task.use_inbatch_negatives:
        yield f"{', '.join(alone)}: contrast with other rows, and use_inbatch_negatives is off; leave one out"
    read = frozenset().union(*(USES[name] for name in in_use))
    every = frozenset().union(*USES.values())
    for name in args.given:
        if name in every - read:
            users = [loss for loss, options in USES.items() if name in options]
            yield (
                f"{name}: has no effect with the loss {listed(sorted(in_use))}; it is read by {listed(users)}"
            )
