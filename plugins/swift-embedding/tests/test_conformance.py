"""The promises of every task type, kept by ``embedding``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from swift_core.testing import TaskConformance, tiny_encoder

FACTS = {
    "what is a cat": "a cat is a small animal",
    "who won the match": "the red team won the match two to one",
    "how far is the moon": "the moon is far away",
    "what did the bank do": "the bank raised rates",
    "what fell": "stocks fell again, and so did the rain",
    "who saved it": "the goalkeeper",
    "how fast is the chip": "twice as fast as it was",
    "who sang": "a bird in the forest sang",
}
ROWS = tuple({"query": query, "positive": fact} for query, fact in FACTS.items())
TEXTS = [*FACTS, *FACTS.values()]


class TestEmbedding(TaskConformance):
    task_type = "embedding"
    rows = ROWS
    bad_rows = (({"query": " ", "positive": "a cat"}, "query"),)
    batch_loss = True  # the other rows of a batch are negatives
    # The graphs are compared with the model in tests of their own, which take longer.
    export_formats = ("hf",)

    @pytest.fixture
    def task_options(self, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
        folder = tiny_encoder(tmp_path_factory.mktemp("tiny") / "encoder", TEXTS)
        return {"model_name_or_path": str(folder), "learning_rate": 5e-3}
