"""The promises of every task type, kept by ``reranker``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from swift_core.testing import TaskConformance, tiny_encoder
from swift_reranker.spec import SPEC

TEXTS = [text for row in SPEC.examples for text in (row["query"], *row["documents"])]


class TestReranker(TaskConformance):
    task_type = "reranker"
    rows = SPEC.examples
    bad_rows = (({"query": "what is a cat", "documents": ["a cat"], "labels": [1, 0]}, "labels"),)
    # The graphs are compared with the model in tests of their own, which take longer.
    export_formats = ("hf",)

    @pytest.fixture
    def task_options(self, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
        folder = tiny_encoder(tmp_path_factory.mktemp("tiny") / "encoder", TEXTS)
        return {"model_name_or_path": str(folder), "learning_rate": 5e-3}
