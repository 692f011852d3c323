"""From lists of token ids to tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from swift_core.hookspecs import Collator


def pad_batch(rows: Sequence[Sequence[int] | Tensor], *, pad_token_id: int) -> dict[str, Tensor]:
    """Pad ``rows`` of token ids on the right, to the longest one.

    Args:
        rows: B lists of token ids, at least one and none empty.
        pad_token_id: id written into the padding.

    Returns:
        ``input_ids`` and ``attention_mask``, both int64 of shape [B, T].
    """
    longest = max(len(row) for row in rows)
    input_ids = torch.full((len(rows), longest), pad_token_id)
    attention_mask = torch.zeros_like(input_ids)
    for index, row in enumerate(rows):
        input_ids[index, : len(row)] = torch.as_tensor(row)
        attention_mask[index, : len(row)] = 1
    return {"input_ids": input_ids, "attention_mask": attention_mask}


def pack(
    rows: Iterable[int], lengths: Sequence[int], max_tokens: int, max_rows: int | None = None
) -> list[list[int]]:
    """Cut ``rows``, in their order, into batches of at most ``max_tokens`` tokens and ``max_rows`` rows.

    A row that is longer than that is a batch of its own.

    Args:
        rows: numbers of rows.
        lengths: tokens of each row, by its number.
        max_tokens: see above.
        max_rows: None for any number.
    """
    batches: list[list[int]] = []
    room = 0
    for row in rows:
        if not batches or lengths[row] > room or len(batches[-1]) == max_rows:
            batches.append([])
            room = max_tokens
        batches[-1].append(row)
        room -= lengths[row]
    return batches


def share_of_loss(loss: Tensor, items: int | Sequence[int], total: Tensor | int | None) -> Tensor:
    """What a batch's mean adds to the mean over the whole global batch.

    Args:
        loss: a mean over ``items``; where several things are counted, [n] means, one for each count.
        items: how many this batch has.
        total: [n] how many the global batch has; None for this batch alone.

    Returns:
        A scalar, the sum of all parts.
    """
    own = torch.as_tensor(items, device=loss.device).reshape(-1)  # [n]
    whole = own if total is None else torch.as_tensor(total, device=loss.device)
    # A part that counts nothing anywhere is 0, not 0 / 0.
    return (loss * own / whole.clamp(min=1)).sum()


@dataclass(frozen=True)
class CountingCollator:
    """Wraps a task's collator and says beside each batch how many items and tokens it holds.

    Attributes:
        collator: the task's own.
        sharing: how many processes share the tokens of a batch; each counts its part.
    """

    collator: Collator
    sharing: int = 1

    def __call__(self, features: list[Mapping[str, Any]]) -> dict[str, Any]:
        """Return ``batch`` (the task's own), ``num_items`` and ``num_tokens`` (useful ones, no padding)."""
        batch = self.collator(features)
        return {
            "batch": batch,
            "num_items": batch.get("num_items", len(features)),
            "num_tokens": sum(row["length"] for row in features) / self.sharing,
        }
