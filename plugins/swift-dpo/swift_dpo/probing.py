"""Pairs on which what was exported is compared with the model in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import send_to_device

from swift_core.batching import pad_batch
from swift_core.errors import SwiftError, UserError
from swift_core.modes import evaluating
from swift_dpo.scoring import answer_scores

if TYPE_CHECKING:
    from swift_core.data.dataset import TaskData

# Shape legend: K answers of a row, L tokens of the longest with its prompt, V vocabulary.

ROWS = 16
_TOLERANCE = {torch.float16: 5e-3, torch.bfloat16: 3e-2}
_TOLERANCE_FLOAT32 = 1e-4
"""Largest difference of a log-probability for each token of a sequence: batches with padding sum in another
order, and merging LoRA rounds once more in the weights' type."""

_TEXTS = ("what is a cat", "a cat is a small animal that hunts at night", "the bank raised its rates")


class Probes:
    """Rows with their answers, and what the model in memory says of each answer.

    Attributes:
        rows: features of at most 16 rows, as the collator makes them.
        expected: the log-probability of each answer of all rows, one after another, computed as in training.
    """

    def __init__(self, model: Any, collator: Any, data: TaskData | None) -> None:
        """Take rows from all over ``data``, or two answers of our own where it is not at hand.

        Raises:
            UserError: no row has something to score.
        """
        records = [_own_record(collator)] if data is None else _spread(data)
        found = [_features(collator, record) for record in records]
        self.rows = [features for features in found if features is not None]
        if not self.rows:
            raise UserError(
                "dataset: none of the rows that the exported model should be compared on can be encoded"
            )
        self._weights = [collator.weights(features["counted"]) for features in self.rows]
        self._dtype = next(model.parameters()).dtype
        device = next(model.parameters()).device
        self.expected: list[float] = []
        with evaluating(model):
            for features in self.rows:
                logps = answer_scores(model, send_to_device(collator([features]), device)).logps
                # Behind them may come answers to other prompts.
                self.expected += logps[: len(features["answers"])].tolist()

    def check(self, folder: Path, what: str, plain: Any) -> float:
        """Score the same with a model that was loaded from ``folder``.

        Args:
            what: names it in an error.
            plain: a causal model as users of transformers have it.

        Returns:
            The largest difference of the log-probability of an answer.

        Raises:
            SwiftError: it is too large, or no number.
        """
        with evaluating(plain):
            rows = zip(self.rows, self._weights, strict=True)
            found = [value for features, weights in rows for value in _plain_logps(plain, features, weights)]
        tokens = [len(answer) for features in self.rows for answer in features["answers"]]
        allowed = _TOLERANCE.get(self._dtype, _TOLERANCE_FLOAT32)
        differences = [abs(a - b) for a, b in zip(found, self.expected, strict=True)]
        wrong = [n for n, gap in enumerate(differences) if not gap <= allowed * max(tokens[n], 10)]
        if wrong:
            worst = max(wrong, key=lambda n: differences[n] / tokens[n])
            raise SwiftError(
                f"{folder}: {what} gives other log-probabilities than the model in memory: that of an answer "
                f"of {tokens[worst]} tokens is {found[worst]:.6g}, expected {self.expected[worst]:.6g}; the "
                "folder must not be used"
            )
        return max(differences)


def _plain_logps(plain: Any, features: Mapping[str, Any], weights: Sequence[Sequence[float]]) -> list[float]:
    """[K] sum of weight x log p(token) over each answer, the whole texts padded on the right."""
    start = len(features["prompt"])
    wholes = [[*features["prompt"], *answer] for answer in features["answers"]]
    batch = {name: tensor.to(plain.device) for name, tensor in pad_batch(wholes, pad_token_id=0).items()}
    logits = plain(**batch).logits.float()  # [K, L, V]
    found = []
    for row, whole, weighs in zip(logits, wholes, weights, strict=True):
        every = row[start - 1 : len(whole) - 1].log_softmax(-1)
        targets = torch.tensor(whole[start:], device=row.device)
        scale = torch.tensor(weighs, device=row.device)
        found.append(float((every.gather(1, targets[:, None])[:, 0] * scale).sum()))
    return found


def _spread(data: TaskData) -> Sequence[Mapping[str, Any]]:
    count = len(data.records)
    return [data.records[n * count // ROWS] for n in range(ROWS)] if count > ROWS else list(data.records)


def _features(collator: Any, record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What the collator makes of a row; None where it leaves it out."""
    try:
        features = collator.encode(record)
    except ValueError:
        return None
    return features if isinstance(features, Mapping) else None


def _own_record(collator: Any) -> Mapping[str, Any]:
    prompt, *answers = _TEXTS
    row: dict[str, Any] = {"prompt": prompt, "answers": [" " + answer for answer in answers]}
    if collator.tokenizer.chat_template is not None:
        row = {
            "prompt": [{"role": "user", "content": prompt}],
            "answers": [[{"role": "assistant", "content": answer}] for answer in answers],
        }
    empty = dict.fromkeys(("margin", "weight", "violations", "tools"))
    return {**row, "scores": [1.0, 0.0], **empty, "unrelated": row["answers"][1]}
