"""What is told of training data before its first step: what teaches nothing, and what answers are like."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from swift_dpo.choices import chosen_pairs
from swift_dpo.collator import EQUAL_SCORES, IDENTICAL, NOTHING

if TYPE_CHECKING:
    from swift_core.data.dataset import TaskData
    from swift_dpo.collator import PreferenceCollator

# Shape legend: R rows, A answers of all of them, P pairs.

_TOLD_ROWS = 10
_LABEL = "data      "
_BAD = (IDENTICAL, EQUAL_SCORES, NOTHING)


def report(data: TaskData, collator: PreferenceCollator) -> tuple[list[str], tuple[str, ...] | None]:
    """Lines that tell what encoded data is like, and faults where too many rows are bad.

    Bad are rows left out because they say nothing (answers alike, equal scores, no token to score), pairs
    that another row has the other way round, and answers without a word.
    """
    assert data.features is not None
    out = {why: list(rows) for why, rows in data.left_out.items()}
    total = len(data.records) + sum(map(len, out.values()))
    # Rows are told by their numbers in the data, those left out included.
    gone = np.asarray(sorted(row for rows in out.values() for row in rows), dtype=np.int64)
    numbers = np.setdiff1d(np.arange(1, total + 1), gone)  # [R]
    table = _Table(data.features)
    pairs = table.pairs(collator) if collator.kind != "answers" else None
    bad = {why: out[why] for why in _BAD if why in out}
    if pairs is not None:
        bad["contradictory pairs"] = numbers[_contradictory(pairs)].tolist()
    bad["empty answers"] = numbers[table.column("blank") > 0].tolist()
    bad = {why: rows for why, rows in bad.items() if rows}
    lines = [*_lengths(table, pairs, total), *_open_ended(table)]
    lines += [f"bad rows, {why}: {_share(len(rows), total)} ({_rows(rows)})" for why, rows in bad.items()]
    return [_LABEL + line for line in lines], _fault(data.name, bad, total, collator.max_bad_rows)


def _fault(name: str, bad: dict[str, list[int]], total: int, limit: float) -> tuple[str, ...] | None:
    count = len({row for rows in bad.values() for row in rows})
    if count <= limit * total:
        return None
    sentences = [
        f"{name} data: {count:,} of {total:,} rows ({count / total:.1%}) teach nothing or the opposite of "
        f"another, and max_bad_rows allows {limit:.1%}; mend or remove them, or raise max_bad_rows"
    ]
    return (*sentences, *(f"{why}: {_rows(rows)}" for why, rows in bad.items()))


class _Table:
    """Columns of encoded rows as arrays."""

    def __init__(self, features: datasets.Dataset) -> None:
        self._table: pa.Table = features.data.table
        #: [A] how many tokens each answer has, and [R] how many answers each row has.
        answers = self._lists("answers")
        self.counts = pc.list_value_length(answers).to_numpy()
        self.lengths = pc.list_value_length(answers.flatten()).to_numpy()
        self.keys = self._lists("keys").flatten().to_numpy()
        self.scores = self._lists("scores").flatten().to_numpy()
        self.complete = self._lists("complete").flatten().to_numpy(zero_copy_only=False)

    def column(self, name: str) -> np.ndarray:
        """[R], a column of numbers."""
        return np.asarray(self._table.column(name).to_numpy())

    def _lists(self, name: str) -> pa.Array:
        column = self._table.column(name).combine_chunks()
        return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column

    def pairs(self, collator: PreferenceCollator) -> _Pairs:
        """All pairs of answers that are compared."""
        found: list[tuple[int, int, int]] = []
        start = 0
        keys, scores = self.keys.tolist(), self.scores.tolist()
        for row, count in enumerate(self.counts.tolist()):
            own = slice(start, start + count)
            found += [
                (row, start + i, start + j) for i, j in chosen_pairs(scores[own], keys[own], collator.pairs)
            ]
            start += count
        rows, better, worse = np.asarray(found, dtype=np.int64).reshape(-1, 3).T
        return _Pairs(rows, self.keys[better], self.keys[worse], self.lengths[better], self.lengths[worse])


class _Pairs(NamedTuple):
    """[P] each: the row of a pair, and keys and lengths of its answers."""

    rows: np.ndarray
    better: np.ndarray
    worse: np.ndarray
    better_tokens: np.ndarray
    worse_tokens: np.ndarray


def _contradictory(pairs: _Pairs) -> np.ndarray:
    """Rows with a pair that another row has the other way round."""
    one_way = set(zip(pairs.better.tolist(), pairs.worse.tolist(), strict=True))
    turned = [
        row
        for row, better, worse in zip(
            pairs.rows.tolist(), pairs.better.tolist(), pairs.worse.tolist(), strict=True
        )
        if (worse, better) in one_way
    ]
    return np.unique(np.asarray(turned, dtype=np.int64))


def _lengths(table: _Table, pairs: _Pairs | None, total: int) -> Iterator[str]:
    answers = len(table.lengths)
    template = (
        "" if table.column("chat").all() else "; texts are continued as they are, without a chat template"
    )
    yield f"{total:,} rows, {answers:,} answers{template}"
    if pairs is None:
        good = table.scores > 0
        if good.all() or not good.any():
            kind, other = ("good", "bad") if good.all() else ("bad", "good")
            yield (
                f"{answers:,} {kind} answers of {table.lengths.mean():.1f} tokens and no {other} one: what "
                f"makes an answer {kind} can't be learned from these"
            )
            return
        sizes = [f"{table.lengths[which].mean():.1f}" for which in (good, ~good)]
        yield f"{good.sum():,} good answers of {sizes[0]} tokens, {(~good).sum():,} bad ones of {sizes[1]}"
        return
    longer = (pairs.better_tokens > pairs.worse_tokens).mean()
    shorter = (pairs.better_tokens < pairs.worse_tokens).mean()
    difference = (pairs.better_tokens - pairs.worse_tokens).mean()
    yield (
        f"{len(pairs.rows):,} pairs; the better answer has {pairs.better_tokens.mean():.1f} tokens, the "
        f"worse one {pairs.worse_tokens.mean():.1f} ({difference:+.1f}); it is longer in {longer:.1%} "
        f"of pairs and shorter in {shorter:.1%}"
    )


def _open_ended(table: _Table) -> Iterator[str]:
    count = int((~table.complete).sum())
    if count:
        yield (
            f"without an end token: {_share(count, len(table.complete))} answers (cut, or the chat "
            "template writes none): from them a model does not learn to stop"
        )


def _share(count: int, total: int) -> str:
    return f"{count:,} of {total:,} ({count / total:.1%})"


def _rows(numbers: Sequence[int]) -> str:
    more = f", and {len(numbers) - _TOLD_ROWS:,} more" if len(numbers) > _TOLD_ROWS else ""
    noun = "row" if len(numbers) == 1 else "rows"
    return f"{noun} {', '.join(map(str, numbers[:_TOLD_ROWS]))}{more}"
