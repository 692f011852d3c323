"""Who is whose answer in a batch, and in the joint batch of all processes."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, distributed

# Shape legend: B queries, N documents, P pairs of a row's own, M documents of all processes.


@dataclass(frozen=True, eq=False)
class Relations:
    """What the rows of a batch say about its queries and documents. Moves to a device as a whole.

    Texts are known by a number that is the same wherever the model sees the same.

    Attributes:
        topics: [B] what each query asks: the number of its text, or of its label where texts are labelled.
        texts: [B] number of each query's own text.
        documents: [N] number of each document; all differ.
        row: [P] the query of each pair that a row names.
        document: [P] the document of it.
        answers: [P] whether the document answers the query.
        scores: [P] how well, as a person or a teacher says; None where nobody does.
        labelled: the documents are the queries themselves, and a pair is any two of them.
    """

    topics: Tensor
    texts: Tensor
    documents: Tensor
    row: Tensor
    document: Tensor
    answers: Tensor
    scores: Tensor | None
    labelled: bool = False

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Relations:
        """The same relations on ``device``."""
        return replace(self, **{n: t.to(device, non_blocking=non_blocking) for n, t in self._tensors()})

    def pin_memory(self) -> Relations:
        """The same relations in page-locked memory, as DataLoader asks for."""
        return replace(self, **{name: tensor.pin_memory() for name, tensor in self._tensors()})

    def _tensors(self) -> list[tuple[str, Any]]:
        found = [(field.name, getattr(self, field.name)) for field in fields(self)]
        return [(name, value) for name, value in found if isinstance(value, Tensor)]

    @property
    def known(self) -> Tensor:
        """[E, 2] topics and the documents that are known to answer them."""
        pairs = torch.stack([self.topics[self.row], self.documents[self.document]], dim=1)[self.answers]
        if not self.labelled:
            return pairs
        return torch.cat([pairs, torch.stack([self.topics, self.documents], dim=1)])


@dataclass(frozen=True, eq=False)
class Contrast:
    """Which documents count for which queries.

    Attributes:
        positive: [B, M] the answers.
        negative: [B, M] what counts as a negative: no text that any row calls an answer to the same query,
            not the query's own text, each text once.
        own: [B, M] the documents that the query's own row names.
        reverse: [B', M] the queries of all processes that a document may be contrasted with.
        other_queries: [B, B'] the queries of all processes that ask something else, each text once.
    """

    positive: Tensor
    negative: Tensor
    own: Tensor
    reverse: Tensor
    other_queries: Tensor


def contrast_of(relations: Relations, joint: Relations, *, in_batch: bool) -> Contrast:
    """Compare the rows of this process with all that ``joint`` holds.

    Args:
        relations: of this process; its documents and queries come first in ``joint``.
        joint: of all processes (:func:`gathered_relations`), or the same.
        in_batch: whether documents of other rows count as negatives.
    """
    count, documents = len(relations.topics), joint.documents
    known = _known(joint, documents)  # [B', M]
    own = torch.zeros(count, len(documents), dtype=torch.bool, device=documents.device)
    own[relations.row, relations.document] = True
    once = _first_of_its_kind(documents)  # [M]
    same_text = relations.texts[:, None] == documents[None]  # [B, M]
    positive = known[:count] & once
    if relations.labelled:
        positive &= ~same_text
    negative = ~known[:count] & ~same_text & once
    if not in_batch:
        negative &= own
        positive &= own
    asked_once = _first_of_its_kind(joint.texts)  # [B']
    differ = relations.topics[:, None] != joint.topics[None]
    reverse = ~known & (joint.texts[:, None] != documents) & asked_once[:, None]
    return Contrast(positive, negative, own, reverse, differ & asked_once)


def _known(joint: Relations, documents: Tensor) -> Tensor:
    """[B', M] whether any row says that the document answers what the query asks."""
    edges = joint.known
    topics, topic_at = torch.cat([joint.topics, edges[:, 0]]).unique(return_inverse=True)
    texts, text_at = torch.cat([documents, edges[:, 1]]).unique(return_inverse=True)
    table = torch.zeros(len(topics), len(texts), dtype=torch.bool, device=documents.device)
    table[topic_at[len(joint.topics) :], text_at[len(documents) :]] = True
    return table[topic_at[: len(joint.topics)]][:, text_at[: len(documents)]]


def _first_of_its_kind(numbers: Tensor) -> Tensor:
    """Whether no equal number stands before."""
    _, kind = numbers.unique(return_inverse=True)
    places = torch.arange(len(numbers), device=numbers.device)
    first = torch.full((int(kind.max()) + 1,), len(numbers), device=numbers.device)
    first = first.scatter_reduce(0, kind, places, "amin")
    return first[kind] == places


def is_distributed() -> bool:
    """Whether other processes train with this one."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def gathered_relations(relations: Relations) -> Relations:
    """The relations of all processes as one batch, this process' own first."""
    sizes = (len(relations.topics), len(relations.documents))
    shifts = gathered(torch.tensor([sizes], device=relations.topics.device))  # [W, 2]
    counts = gathered(torch.tensor([len(relations.row)], device=relations.topics.device))
    begin = (shifts.cumsum(0) - shifts).repeat_interleave(counts, dim=0)  # [P of all, 2]
    return Relations(
        topics=gathered(relations.topics),
        texts=gathered(relations.texts),
        documents=gathered(relations.documents),
        row=gathered(relations.row) + begin[:, 0],
        document=gathered(relations.document) + begin[:, 1],
        answers=gathered(relations.answers.long()).bool(),
        scores=None,  # not every process may have some
        labelled=relations.labelled,
    )


def gathered(values: Tensor) -> Tensor:
    """Rows of ``values`` of all processes, this process' own first, with gradients to where they came from.

    Processes may have different numbers of rows; all must call it.
    """
    sizes = _sizes(values)
    rank = distributed.get_rank()
    parts = _Gather.apply(values, sizes)  # type: ignore[no-untyped-call]
    return torch.cat([parts[rank], *parts[:rank], *parts[rank + 1 :]])


def _sizes(values: Tensor) -> list[int]:
    own = torch.tensor([len(values)], device=values.device)
    found = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
    distributed.all_gather(found, own)
    return [int(size) for size in found]


class _Gather(torch.autograd.Function):
    """All processes' rows. Their gradients are summed, since each process' loss depends on them."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, sizes: list[int]) -> tuple[Tensor, ...]:
        ctx.sizes = sizes
        # Collectives want equal shapes.
        padded = values.new_zeros(max(sizes), *values.shape[1:])
        padded[: len(values)] = values
        found = [torch.empty_like(padded) for _ in sizes]
        distributed.all_gather(found, padded)
        return tuple(part[:size] for part, size in zip(found, sizes, strict=True))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None]:
        joint = torch.cat(gradients)
        distributed.all_reduce(joint)
        return joint.split(ctx.sizes)[distributed.get_rank()], None
