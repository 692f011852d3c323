"""From lists of token ids to tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from swift_core.hookspecs import Collator


def pad_batch(rows: Sequence[Sequence[int]] | Sequence[Tensor], *, pad_token_id: int) -> dict[str, Tensor]:
    """Pad ``rows`` of token ids on the right, to the longest one.

    Args:
        rows: B lists of token ids, at least one and none empty.
        pad_token_id: id written into the padding.

    Returns:
        ``input_ids`` and ``attention_mask``, both int64 of shape [B, T].
    """
    longest = max(len(rows[index]) for index in range(len(rows)))
    input_ids = torch.full((len(rows), longest), pad_token_id)
    attention_mask = torch.zeros_like(input_ids)
    for index in range(len(rows)):
        input_ids[index, : len(rows[index])] = torch.as_tensor(rows[index])
        attention_mask[index, : len(rows[index])] = 1
    return {"input_ids": input_ids, "attention_mask": attention_mask}


@dataclass(frozen=True)
class CountingCollator:
    """Wraps a task's collator and says beside each batch how many items and tokens it holds."""

    collator: Collator

    def __call__(self, features: list[Mapping[str, Any]]) -> dict[str, Any]:
        """Return ``batch`` (the task's own), ``num_items`` and ``num_tokens`` (useful ones, no padding)."""
        batch = self.collator(features)
        return {
            "batch": batch,
            "num_items": batch.get("num_items", len(features)),
            "num_tokens": sum(row["length"] for row in features),
        }
