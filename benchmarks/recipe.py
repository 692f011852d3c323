"""The options of a fine-tuning, the same for both systems."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What both systems are told.

    Attributes:
        epochs: times that the rows are seen.
        batch_size: rows of a batch.
        learning_rate: the highest; it falls to 0 linearly.
        warmup: share of the steps in which the learning rate rises.
        temperature: of InfoNCE; 1 / scale of the peer's loss.
        max_length: longest text in tokens, in training.
        eval_max_length: the same in the evaluation.
        negatives: hard negatives of a row.
        query_prompt: put before every query.
        document_prompt: put before every document.
    """

    epochs: float
    batch_size: int
    learning_rate: float
    warmup: float
    temperature: float
    max_length: int
    eval_max_length: int
    negatives: int
    query_prompt: str = ""
    document_prompt: str = ""
