"""Texts on which what was exported is compared with the model in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain, product
from pathlib import Path
from string import ascii_lowercase
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from swift_cls.predicting import predict, unlabelled
from swift_core.errors import SwiftError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from swift_cls.collator import ClassificationCollator

# Shape legend: N probes, C outputs.

Logits: TypeAlias = Callable[[Mapping[str, Any]], np.ndarray]
"""Logits [N, C] of a batch as the tokenizer gives it, in arrays."""

_TEXTS = (
    "What is this about?",
    "A short text.",
    "No.",
    "词向量",
    "The match ended two to one, and the crowd went home in the rain.",
    "Stocks fell again today: banks lost 3.5%, and oil rose to $91.",
    "word " * 20,
    # Longer than most models take, and nowhere the same: which end of it is cut must show.
    " ".join(chain.from_iterable(product(f"{ascii_lowercase}012345", repeat=2))),
)
_PAIR = ("A short text.", "Another one, a little longer.")

_TOLERANCE = {torch.float16: 5e-3, torch.bfloat16: 5e-2}
_TOLERANCE_FLOAT32 = 1e-4
"""Largest difference of a logit, relative to the largest one where that is above 1: batches with padding sum
in another order, and merging LoRA rounds once more in the weights' type."""


class Probes:
    """Texts, pairs where the tokenizer has a way of its own for them, and the logits of the model in memory.

    Where a long text is not simply cut at its end (``long_text``), no file can tell other programs, so only
    texts that fit are compared.

    Attributes:
        texts: the texts; all of them go through in one batch and each alone.
        expected: [N, C] of the model in memory, the pair last.
    """

    def __init__(self, model: Any, collator: ClassificationCollator) -> None:
        encoding = collator.texts
        tokens = {text: encoding.of_text(text) for text in _TEXTS}
        whole = encoding.long_text == "truncate"
        self.texts = [
            text for text, made in tokens.items() if whole or (len(made.chunks) == 1 and not made.cut)
        ]
        self.pairs = [_PAIR] if takes_pairs(encoding.tokenizer) else []
        rows = [tokens[text] for text in self.texts] + [encoding.of_text(*pair) for pair in self.pairs]
        self.dtype = next(model.parameters()).dtype
        self.expected = predict(model, collator, [unlabelled(row) for row in rows], share=False)

    def found(self, logits: Logits, tokenizer: PreTrainedTokenizerBase) -> list[np.ndarray]:
        """Logits [N, C] of another program: of all texts in a batch with padding, and of each alone."""

        def given(*columns: Sequence[str]) -> np.ndarray:
            return logits(tokenizer(*map(list, columns), padding=True, truncation=True, return_tensors="np"))

        pairs = [given([first], [second]) for first, second in self.pairs]
        return [
            np.concatenate([given(self.texts), *pairs]),
            np.concatenate([*(given([text]) for text in self.texts), *pairs]),
        ]

    def check(self, folder: Path, what: str, found: Sequence[np.ndarray]) -> float:
        """The largest difference of a logit from the model in memory.

        Raises:
            SwiftError: it is too large, or no number.
        """
        alike = all(values.shape == self.expected.shape for values in found)
        differences = [float(np.abs(values - self.expected).max()) for values in found] if alike else []
        difference = float(np.max(differences)) if differences else float("inf")  # NaN stays NaN
        scale = max(1.0, float(np.abs(self.expected).max(initial=0.0)))
        allowed = _TOLERANCE.get(self.dtype, _TOLERANCE_FLOAT32) * scale
        if not difference <= allowed:
            raise SwiftError(
                f"{folder}: {what} gives other logits than the model in memory: they differ by "
                f"{difference:.2g}, expected at most {allowed:.2g}; the folder must not be used"
            )
        return difference


def takes_pairs(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer puts something between two texts that are judged together."""
    return bool(
        tokenizer.num_special_tokens_to_add(pair=True) > tokenizer.num_special_tokens_to_add(pair=False)
    )
