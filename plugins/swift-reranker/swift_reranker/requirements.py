"""What losses need of the data, looked at before a model is built. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import datasets
import numpy as np

Targets = Literal["labels", "scores"]

TARGETS: dict[str, Targets] = {
    "binary_cross_entropy": "labels",
    "mean_squared_error": "labels",
    "softmax_cross_entropy": "labels",
    "ranknet": "labels",
    "lambda_loss": "labels",
    "listnet": "labels",
    "list_mle": "labels",
    "p_list_mle": "labels",
    "margin_mse": "scores",
    "kl_divergence": "scores",
}
"""What each function of :mod:`swift_reranker.losses` learns from: relevance, or what a teacher gives."""

POINTWISE = frozenset({"binary_cross_entropy", "mean_squared_error"})
"""Losses that look at each candidate alone; the others compare those of a list."""

_ROWS_AT_ONCE = 10_000


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What was found: ``faults`` that make a training useless, and what a person should know all the same."""

    faults: list[str]
    warnings: list[str]


@dataclass(frozen=True, kw_only=True)
class _Lists:
    """Figures on lists, one for each: [lists], those of lists without targets are 0.

    Attributes:
        present: whether it has targets.
        lowest: the lowest target.
        highest: the highest.
    """

    present: np.ndarray
    lowest: np.ndarray
    highest: np.ndarray


def check_training(records: datasets.Dataset, loss: str) -> Findings:
    """Look whether ``loss`` (a name in :data:`TARGETS`) can learn from lists of candidates.

    Args:
        records: with ``documents``, ``labels`` and ``scores``; documents are not looked at.
        loss: name of a function of :mod:`swift_reranker.losses`.
    """
    column = TARGETS[loss]
    lists = _targets(records, column)
    lacking = np.flatnonzero(~lists.present)
    if len(lacking):
        return Findings(faults=[_lacking(loss, column, lacking, len(records))], warnings=[])
    if loss == "binary_cross_entropy":
        return Findings(faults=list(_outside(lists)) or list(_equal(lists, loss)), warnings=[])
    if loss in POINTWISE:
        return Findings(faults=list(_equal(lists, loss)), warnings=[])
    return _comparable(lists, loss)


def undecided(records: datasets.Dataset) -> str | None:
    """Why no loss can be chosen by what the lists have; None where it can."""
    labelled, scored = (_targets(records, column).present for column in ("labels", "scores"))
    lone = np.flatnonzero(scored & ~labelled)
    if not len(lone) or not labelled.any():
        return None
    return (
        f"loss: some rows have labels, others only scores ({len(lone):,} of {len(records):,} lists, the "
        f"first is list {lone[0] + 1}), which are learned with different losses; set loss"
    )


def _targets(records: datasets.Dataset, column: Targets) -> _Lists:
    """Figures of every list; of the data only this column is read, a batch at a time."""
    present, lowest, highest = ([np.empty(0, dtype)] for dtype in (bool, float, float))
    for batch in records.select_columns([column]).with_format("arrow").iter(batch_size=_ROWS_AT_ONCE):
        for chunk in batch[column].chunks:
            there = np.asarray(chunk.is_valid())
            sizes = np.asarray(chunk.value_lengths().fill_null(0), dtype=np.int64)
            values = np.asarray(chunk.flatten(), dtype=np.float64)
            filled = there & (sizes > 0)
            # reduceat takes the first number of each list; the lists without any have none.
            starts = (np.cumsum(sizes) - sizes)[filled]
            least, most = np.zeros(len(chunk)), np.zeros(len(chunk))
            if len(starts):
                least[filled] = np.minimum.reduceat(values, starts)
                most[filled] = np.maximum.reduceat(values, starts)
            present.append(filled)
            lowest.append(least)
            highest.append(most)
    return _Lists(
        present=np.concatenate(present), lowest=np.concatenate(lowest), highest=np.concatenate(highest)
    )


def _lacking(loss: str, column: Targets, lists: np.ndarray, count: int) -> str:
    found = f"{len(lists):,} of {count:,} lists have none (the first is list {lists[0] + 1})"
    if column == "scores":
        return (
            f"loss: {loss} learns from a teacher's scores, expected scores for every document, found that "
            f"{found}; add them, or choose a loss that learns from labels"
        )
    return (
        f"loss: {loss} learns from labels, expected a label for every document, found that {found}; add "
        "them, tell which column says how relevant a document is, such as columns: {label: score}, or choose "
        "margin_mse or kl_divergence, which learn from a teacher's scores"
    )


def _outside(lists: _Lists) -> Iterator[str]:
    outside = np.flatnonzero((lists.lowest < 0) | (lists.highest > 1))
    if len(outside):
        first = outside[0]
        found = lists.lowest[first] if lists.lowest[first] < 0 else lists.highest[first]
        yield (
            f"loss: binary_cross_entropy expects labels from 0 to 1, found others in {len(outside):,} of "
            f"{len(lists.present):,} lists (the first is {found:g} in list {first + 1}); for grades choose "
            "lambda_loss or mean_squared_error, or scale them"
        )


def _equal(lists: _Lists, loss: str) -> Iterator[str]:
    if len(lists.present) and lists.lowest.min() == lists.highest.max():
        yield (
            f"loss: {loss} would learn one number for everything: every document of the data has the label "
            f"{lists.lowest[0]:g}; add documents with another one (`swift mine` of swift-embedding finds "
            "negatives)"
        )


def _comparable(lists: _Lists, loss: str) -> Findings:
    """Lists in which ``loss`` has something to compare."""
    column, wanted = TARGETS[loss], f"two documents with different {TARGETS[loss]}"
    useful = lists.lowest < lists.highest
    if loss == "softmax_cross_entropy":
        # It asks whether a label is above 0, not how far.
        useful = (lists.lowest <= 0) & (lists.highest > 0)
        wanted = "a document with a label above 0 and one with 0"
    count, found = len(useful), int(useful.sum())
    if not found:
        advice = (
            "add negatives (`swift mine` of swift-embedding finds some)"
            if column == "labels"
            else "look at the teacher"
        )
        fault = (
            f"loss: nothing to compare: {loss} expects lists with {wanted}, found none among {count:,} "
            f"lists; {advice}"
        )
        return Findings(faults=[fault], warnings=[])
    if found == count:
        return Findings(faults=[], warnings=[])
    lone = count - found
    warning = (
        f"{lone:,} of {count:,} lists have nothing for {loss} to compare (the first is list "
        f"{np.flatnonzero(~useful)[0] + 1}): it expects {wanted}"
    )
    return Findings(faults=[], warnings=[warning])
