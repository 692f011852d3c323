"""Answers as sequences of tokens: what names one, what its tokens weigh, and where they lie in a batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from swift_core.flat import FlatBatch

# Shape legend: A answers, T tokens of them that count.


class Sequences:
    """Answers of a batch, one after another."""

    def __init__(self) -> None:
        self.ids: list[list[int]] = []
        self.counted: list[list[float]] = []
        self.weights: list[list[float]] = []
        self.keys: list[int] = []
        self.complete: list[bool] = []
        self.scores: list[float] = []
        self.parents: list[int] = []

    def add(
        self,
        ids: Sequence[list[int]],
        counted: Sequence[list[float]],
        weights: Sequence[list[float]],
        keys: Sequence[int],
        complete: Sequence[bool],
        parent: int,
    ) -> None:
        self.ids += ids
        self.counted += counted
        self.weights += weights
        self.keys += keys
        self.complete += complete
        self.parents += [parent] * len(ids)

    def tensors(self, flat: FlatBatch, prompts: int) -> dict[str, Tensor]:
        """What a batch says of tokens and answers, whose rows in ``flat`` follow those of the prompts."""
        lengths = torch.tensor([len(row) for row in self.ids])  # [A]
        owners = torch.arange(len(self.ids)).repeat_interleave(lengths)
        starts = lengths.cumsum(0) - lengths  # [A]
        within = torch.arange(len(owners)) - starts[owners]
        # A token is predicted where the one before it lies; the first by the prompt's last.
        predictors = flat.first[prompts + owners] + within - 1
        predictors[starts] = flat.last[torch.tensor(self.parents)]
        weights = torch.tensor([weight for row in self.weights for weight in row], dtype=torch.float32)
        targets = torch.tensor([token for row in self.ids for token in row])
        # Not by weights: one that weighs nothing (ld_alpha: 0) is still a token of its answer, as in TRL.
        counts = torch.tensor([mark > 0 for row in self.counted for mark in row])  # [T of all tokens]
        owners = owners[counts]
        return {
            "predictors": predictors[counts],
            "targets": targets[counts],
            "owners": owners,
            "weights": weights[counts],
            "tokens": owners.bincount(minlength=len(self.ids)).float(),
            "scores": torch.tensor(self.scores, dtype=torch.float32),
            "keys": torch.tensor(self.keys, dtype=torch.long),
            "complete": torch.tensor(self.complete, dtype=torch.bool),
        }


def key_of(prompt: Sequence[int], answer: Sequence[int], weights: Sequence[float]) -> int:
    """A number of 63 bits for a prompt with an answer whose tokens weigh so much: equal for equal ones."""
    digest = hashlib.blake2b(len(prompt).to_bytes(8), digest_size=8)
    for values, kind in ((prompt, np.int64), (answer, np.int64), (weights, np.float64)):
        digest.update(np.asarray(values, dtype=kind).tobytes())
    return int.from_bytes(digest.digest()) >> 1


def desensitised(counted: Sequence[Sequence[float]], alpha: float) -> list[list[float]]:
    """Weights of tokens of a pair, ``alpha`` for those of the longer answer beyond the length of the other.

    Lengths are numbers of counted tokens.

    Source: LD-DPO (arXiv 2409.06411), equation 9.
    """
    shared = min(sum(weight > 0 for weight in row) for row in counted)
    made = []
    for row in counted:
        places = np.cumsum(np.asarray(row) > 0)
        made.append([weight * alpha if n > shared else weight for weight, n in zip(row, places, strict=True)])
    return made
