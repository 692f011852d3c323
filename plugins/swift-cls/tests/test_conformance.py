"""The promises of every task type, kept by ``sequence-classification``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from swift_core.testing import TaskConformance, tiny_encoder

TOPICS = {
    "sport": (
        "the match ended two to one",
        "the goalkeeper saved it",
        "a race",
        "they won the race in the rain",
    ),
    "money": ("stocks fell again today", "the bank raised rates", "profits", "rates of the bank rose again"),
}
ROWS = tuple({"text": text, "label": topic} for topic, texts in TOPICS.items() for text in texts)
TEXTS = [row["text"] for row in ROWS]


class TestClassification(TaskConformance):
    task_type = "sequence-classification"
    rows = ROWS
    bad_rows = (({"text": " ", "label": "sport"}, "text"),)
    # The graphs are compared with the model in tests of their own, which take longer.
    export_formats = ("hf",)

    @pytest.fixture
    def task_options(self, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
        folder = tiny_encoder(tmp_path_factory.mktemp("tiny") / "encoder", TEXTS)
        return {"model_name_or_path": str(folder), "learning_rate": 5e-3}
