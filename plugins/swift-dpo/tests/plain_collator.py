"""The least that exports ask of a collator: messages written by the chat template, rows as flat batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from swift_core.flat import flat_batch


@dataclass
class PlainCollator:
    """Every token of an answer counts, but those of the rows that say otherwise."""

    tokenizer: Any

    def encode(self, record: Mapping[str, Any]) -> dict[str, Any]:
        ask, template = record["prompt"], self.tokenizer.apply_chat_template
        if isinstance(ask, str):
            prompt, ends = self.tokenizer(ask).input_ids, [self.tokenizer.eos_token_id]
            answers = [[*self.tokenizer(text).input_ids, *ends] for text in record["answers"]]
            return {"prompt": prompt, "answers": answers, "counted": ones(answers), "chat": False}
        prompt = template(ask, add_generation_prompt=True, return_dict=False)
        wholes = [template([*ask, *answer], return_dict=False) for answer in record["answers"]]
        answers = [whole[len(prompt) :] for whole in wholes]
        return {"prompt": prompt, "answers": answers, "counted": ones(answers), "chat": True}

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        (row,) = features
        flat = flat_batch([row["prompt"], *row["answers"]], parents=[None, *[0] * len(row["answers"])])
        predictors, targets, owners, weights = [], [], [], []
        for n, (answer, counted) in enumerate(zip(row["answers"], row["counted"], strict=True)):
            first = int(flat.first[1 + n])
            predictors += [int(flat.last[0]), *range(first, first + len(answer) - 1)]
            targets += answer
            weights += counted
            owners += [n] * len(answer)
        return {
            "flat": flat,
            "predictors": torch.tensor(predictors),
            "targets": torch.tensor(targets),
            "owners": torch.tensor(owners),
            "weights": torch.tensor(weights),
            "tokens": torch.tensor([float(len(answer)) for answer in row["answers"]]),
        }

    def save_pretrained(self, folder: str | Path) -> None:
        self.tokenizer.save_pretrained(folder)


def ones(answers: Sequence[Sequence[int]]) -> list[list[float]]:
    """All count, but the second token half."""
    return [[0.5 if n == 1 else 1.0 for n in range(len(answer))] for answer in answers]
