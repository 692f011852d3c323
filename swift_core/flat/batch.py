"""Ragged texts as one flat row of tokens, with the boundaries of its segments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain, groupby
from typing import Any, TypeAlias

import torch
from torch import Tensor

# Shape legend: S segments, N tokens of all segments together, L tokens of one segment.


@dataclass(frozen=True)
class Group:
    """Neighbouring segments of one shape: attention handles them in one call without a mask.

    Attributes:
        count: segments in the group.
        length: tokens of each of them.
        prefix: tokens of the parent that each of them also sees; 0 for segments without a parent.
    """

    count: int
    length: int
    prefix: int

    @property
    def tokens(self) -> int:
        """Tokens of the whole group, parents not counted."""
        return self.count * self.length


@dataclass(frozen=True, eq=False)
class FlatBatch:
    """A batch without padding: S segments end to end in one row of N tokens.

    Segments lie in the order that suits attention (by length); whatever is said or asked about rows is in
    the order of the rows that :func:`flat_batch` was given. Pickles, and moves to a device as a whole.

    Attributes:
        input_ids: [N] int64.
        position_ids: [N] int64, from 0 in each segment; a segment with a parent goes on where that ends.
        token_type_ids: [N] int64, or None.
        first: [S] where the first token of each row lies in the flat row.
        last: [S] the same for the last token.
        order: [S] the place of each row among the segments as they lie.
        prefix_index: tokens of the parents of all segments that have one, segment after segment; or None.
        key_index: tokens that each segment sees, parent first, segment after segment; None without parents.
        query_bounds: [S + 1] int32, where each segment as it lies begins, and the end.
        key_bounds: [S + 1] int32, the same in ``key_index``.
        lengths: tokens of each segment as it lies.
        parents: the parent of each segment as it lies, -1 for none.
        groups: the segments by shape.
    """

    input_ids: Tensor
    position_ids: Tensor
    token_type_ids: Tensor | None
    first: Tensor
    last: Tensor
    order: Tensor
    prefix_index: Tensor | None
    key_index: Tensor | None
    query_bounds: Tensor
    key_bounds: Tensor
    lengths: tuple[int, ...]
    parents: tuple[int, ...]
    groups: tuple[Group, ...]

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.lengths)

    @property
    def num_tokens(self) -> int:
        """N, every one of them useful."""
        return len(self.input_ids)

    @property
    def has_parents(self) -> bool:
        """Whether a segment sees the tokens of another one."""
        return self.prefix_index is not None

    @property
    def key_lengths(self) -> tuple[int, ...]:
        """Tokens that each segment as it lies sees: its own and its parent's."""
        pairs = zip(self.lengths, self.parents, strict=True)
        return tuple(length + (self.lengths[p] if p >= 0 else 0) for length, p in pairs)

    @property
    def padded_tokens(self) -> int:
        """Tokens that a padded batch of the same rows would compute, each with its parent before it."""
        return len(self) * max(self.key_lengths)

    @property
    def segment_numbers(self) -> tuple[Tensor, Tensor]:
        """[N] and [N]: the segment of each token, and that of its parent (-1 for none)."""
        device = self.input_ids.device
        lengths = torch.tensor(self.lengths, device=device)
        own = torch.arange(len(self), device=device).repeat_interleave(lengths)
        return own, torch.tensor(self.parents, device=device).repeat_interleave(lengths)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> FlatBatch:
        """The same batch on ``device``."""
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=non_blocking) for name, value in self._tensors()
        }
        return replace(self, **moved)

    def pin_memory(self) -> FlatBatch:
        """The same batch in page-locked memory, as DataLoader asks for."""
        pinned: dict[str, Any] = {name: value.pin_memory() for name, value in self._tensors()}
        return replace(self, **pinned)

    def rows(self) -> tuple[list[Tensor], list[int | None], list[Tensor] | None]:
        """What :func:`flat_batch` was given: token ids, parents and token types of each row."""
        places = self.order.tolist()
        row_at = {place: row for row, place in enumerate(places)}
        parents = [self.parents[place] for place in places]
        ids = torch.split(self.input_ids, list(self.lengths))
        types = None if self.token_type_ids is None else torch.split(self.token_type_ids, list(self.lengths))
        return (
            [ids[place] for place in places],
            [row_at[parent] if parent >= 0 else None for parent in parents],
            None if types is None else [types[place] for place in places],
        )

    def joined(self) -> FlatBatch:
        """The same rows with each parent's tokens before those of its children: for what looks both ways."""
        if not self.has_parents:
            return self
        ids, parents, types = self.rows()
        columns = [ids] if types is None else [ids, types]
        whole = [
            [
                row if p is None else torch.cat([column[p], row])
                for row, p in zip(column, parents, strict=True)
            ]
            for column in columns
        ]
        batch = flat_batch(whole[0], token_type_ids=None if types is None else whole[1])
        return batch.to(self.input_ids.device)

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                yield field.name, value


TokenRows: TypeAlias = Sequence[Sequence[int] | Tensor]


def flat_batch(
    rows: TokenRows,
    *,
    parents: Sequence[int | None] | None = None,
    token_type_ids: TokenRows | None = None,
) -> FlatBatch:
    """Lay rows of token ids end to end.

    Args:
        rows: S rows of token ids, none empty.
        parents: for each row the index of a row whose tokens it also sees, as if they stood before its own
            (a prompt before each of its answers), or None. A parent has no parent itself. Only a causal
            model gives what it would give for the two as one text.
        token_type_ids: for models that have them, as many for each row as it has tokens.

    Returns:
        The batch, on the CPU.

    Raises:
        ValueError: there are no rows, a row is empty, or a parent is none of the rows or has one itself.
    """
    parents = [None] * len(rows) if parents is None else parents
    _check_rows(rows, parents)
    lengths = [len(row) for row in rows]
    prefix = [0 if parent is None else lengths[parent] for parent in parents]
    # Segments without parents come first; equal shapes lie side by side.
    placed = sorted(range(len(rows)), key=lambda row: (prefix[row], lengths[row]))
    place_of = {row: place for place, row in enumerate(placed)}
    own = torch.tensor([lengths[row] for row in placed])  # [S]
    ends = own.cumsum(0)  # [S]
    starts = ends - own  # [S]
    order = torch.tensor([place_of[row] for row in range(len(rows))])  # [S]
    offsets = torch.tensor([prefix[row] for row in placed])  # [S]
    # Counting up from 0 in each segment: the token's place less the place of its segment's first token.
    positions = torch.arange(int(ends[-1])) + (offsets - starts).repeat_interleave(own)  # [N]
    parent_places = [-1 if (p := parents[row]) is None else place_of[p] for row in placed]
    keys = offsets + own  # [S]
    prefix_index, key_index = _indices(starts.tolist(), own.tolist(), parent_places)
    return FlatBatch(
        input_ids=_joined(rows, placed),
        position_ids=positions,
        token_type_ids=None if token_type_ids is None else _joined(token_type_ids, placed),
        first=starts[order],
        last=ends[order] - 1,
        order=order,
        prefix_index=prefix_index,
        key_index=key_index,
        query_bounds=_bounds(own),
        key_bounds=_bounds(keys),
        lengths=tuple(own.tolist()),
        parents=tuple(parent_places),
        groups=tuple(_groups([(prefix[row], lengths[row]) for row in placed])),
    )


def _check_rows(rows: TokenRows, parents: Sequence[int | None]) -> None:
    if not rows:
        raise ValueError("flat_batch: expected at least one row of token ids, found none")
    for number, row in enumerate(rows):
        if not len(row):
            raise ValueError(f"flat_batch: row {number} has no tokens")
    for number, parent in enumerate(parents):
        if parent is None:
            continue
        if not 0 <= parent < len(rows) or parent == number:
            raise ValueError(f"flat_batch: the parent of row {number} is {parent}, which is no other row")
        if parents[parent] is not None:
            raise ValueError(f"flat_batch: row {parent}, the parent of row {number}, has a parent itself")


def _joined(rows: TokenRows, placed: Sequence[int]) -> Tensor:
    parts = [rows[row] for row in placed]
    if isinstance(parts[0], Tensor):
        return torch.cat([torch.as_tensor(part, device="cpu") for part in parts])
    return torch.tensor(list(chain.from_iterable(parts)))  # one tensor for each row would take longer


def _indices(
    starts: Sequence[int], lengths: Sequence[int], parents: Sequence[int]
) -> tuple[Tensor | None, Tensor | None]:
    """``prefix_index`` and ``key_index``, see :class:`FlatBatch`."""
    if max(parents) < 0:
        return None, None
    spans = [torch.arange(start, start + length) for start, length in zip(starts, lengths, strict=True)]
    prefixes = [spans[parent] for parent in parents if parent >= 0]
    seen: list[Tensor] = []
    for own, parent in zip(spans, parents, strict=True):
        seen += [own] if parent < 0 else [spans[parent], own]
    return torch.cat(prefixes), torch.cat(seen)


def _bounds(lengths: Tensor) -> Tensor:
    return torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).int()


def _groups(shapes: Sequence[tuple[int, int]]) -> Iterator[Group]:
    for (prefix, length), members in groupby(shapes):
        yield Group(count=len(list(members)), length=length, prefix=prefix)
