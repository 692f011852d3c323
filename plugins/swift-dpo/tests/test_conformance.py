"""The promises of every task type, kept by ``dpo``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from swift_core.testing import TaskConformance

WORDS = ("cat", "moon", "match", "bank", "rain", "chip", "town", "year")


class TestDpo(TaskConformance):
    task_type = "dpo"
    rows = tuple(
        {"prompt": f"tell me of the {word}", "chosen": f" the {word} is far", "rejected": f" {word} a chip"}
        for word in WORDS
    )
    bad_rows = (({"prompt": "tell me", "chosen": 3, "rejected": " x"}, "chosen"),)
    export_formats = ("hf",)

    @pytest.fixture
    def task_options(self, causal: Path) -> Mapping[str, Any]:
        return {"model_name_or_path": str(causal), "learning_rate": 1e-2, "eval_max_new_tokens": 4}
