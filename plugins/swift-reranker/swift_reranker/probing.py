"""Pairs on which what was exported is compared with the model in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from swift_core.batching import pad_batch
from swift_core.errors import SwiftError, UserError
from swift_reranker.collator import feature_of
from swift_reranker.scoring import score_lists

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from swift_reranker.collator import RerankerCollator
    from swift_reranker.pairs import PairEncoding

# Shape legend: K probes, B pairs of a batch.

Outputs: TypeAlias = Callable[[Mapping[str, Any]], np.ndarray]
"""What a program says of a batch, in arrays: [B, 1] raw scores, or [B, 2] the logits of both answers."""

_LISTS = (
    (
        "what is a cat",
        (
            "A cat is a small animal that hunts at night.",
            "The bank raised its rates by 0.25 %.\n",
            "cat",
            "",
            "The cat sat on the mat and slept. " * 400,  # longer than most models take
        ),
    ),
    ("怎么重置密码?", ("点击登录页上的“忘记密码”,再按邮件里的说明操作。", "今天下雨。")),
)

_TOLERANCE = {torch.float16: 2e-2, torch.bfloat16: 1e-1}
_TOLERANCE_FLOAT32 = 1e-4
"""Largest difference of a raw score, relative to the largest output where that is above 1: batches with
padding sum in another order, and merging LoRA rounds once more in the weights' type."""


class Probes:
    """Queries with documents, and the raw scores of the model in memory.

    Attributes:
        pairs: K of them; all go through in one batch and each alone.
        expected: [K] of the model in memory, without padding, and with what a list shares computed once.
    """

    def __init__(self, model: Any, collator: RerankerCollator) -> None:
        # Programs of others do not cut queries; these are short.
        self._encoding = replace(collator.pairs, query_max_length=None)
        lists = [
            (query, [text for text in documents if _fits(self._encoding, query, text)])
            for query, documents in _LISTS
        ]
        lists = [(query, documents) for query, documents in lists if documents]
        if not lists:
            raise UserError(
                f"max_length: {self._encoding.max_length} tokens leave no room for a document beside a short "
                "query, so nothing can be exported; raise it"
            )
        self.pairs = [(query, document) for query, documents in lists for document in documents]
        self._dtype = next(model.parameters()).dtype
        features = [feature_of(self._encoding.of_list(*entry)) for entry in lists]
        self.expected = np.concatenate(score_lists(model, collator, features, share=False))

    def found(self, outputs: Outputs, tokenizer: PreTrainedTokenizerBase) -> list[np.ndarray]:
        """Outputs [K, 1 or 2] of another program: of all pairs in a batch with padding, and of each alone.

        Args:
            tokenizer: that of the folder, as others load it.
        """
        return [
            np.concatenate(
                [
                    outputs(self._batch(self.pairs[n : n + size], tokenizer))
                    for n in range(0, len(self.pairs), size)
                ]
            )
            for size in (len(self.pairs), 1)
        ]

    def _batch(
        self, pairs: Sequence[tuple[str, str]], tokenizer: PreTrainedTokenizerBase
    ) -> Mapping[str, Any]:
        if self._encoding.template is None:
            queries, documents = map(list, zip(*pairs, strict=True))
            batch: Mapping[str, Any] = tokenizer(
                queries, documents, padding=True, truncation="only_second", return_tensors="np"
            )
            return batch
        # A document in the middle of a text is cut by no tokenizer.
        encoding = replace(self._encoding, tokenizer=tokenizer)
        rows = [encoding.of_list(query, [document]).rows[0] for query, document in pairs]
        padded = pad_batch(rows, pad_token_id=tokenizer.pad_token_id or 0)
        return {name: tensor.numpy() for name, tensor in padded.items()}

    def check(self, folder: Path, what: str, found: Sequence[np.ndarray]) -> float:
        """The largest difference of a raw score from the model in memory.

        Args:
            found: as :meth:`found` gives it.

        Raises:
            SwiftError: it is too large, or no number.
        """
        scores = [values[:, 0] - (values[:, 1] if values.shape[1] == 2 else 0) for values in found]
        alike = all(values.shape == self.expected.shape for values in scores)
        differences = [float(np.abs(values - self.expected).max()) for values in scores] if alike else []
        difference = float(np.max(differences)) if differences else float("inf")  # NaN stays NaN
        # A difference of two logits is as coarse as the logits are.
        largest = max(float(np.nanmax(np.abs(values), initial=0.0)) for values in [*found, self.expected])
        allowed = _TOLERANCE.get(self._dtype, _TOLERANCE_FLOAT32) * max(1.0, largest)
        if not difference <= allowed:
            raise SwiftError(
                f"{folder}: {what} gives other scores than the model in memory: they differ by "
                f"{difference:.2g}, expected at most {allowed:.2g}; the folder must not be used"
            )
        return difference


def _fits(encoding: PairEncoding, query: str, document: str) -> bool:
    try:
        encoding.of_list(query, [document])
    except ValueError:
        return False
    return True
