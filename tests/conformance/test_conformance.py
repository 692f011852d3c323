"""The kit on a toy that keeps its promises: as a class of tests, and as a report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from swift_core.hookspecs import Collator
from swift_core.testing import TaskConformance
from swift_core.testing.__main__ import main
from swift_core.testing.toy import TOY, TOY_ROWS, toy_installed
from swift_core.testing.toy.hooks import Topics


class TestToy(TaskConformance):
    task_type = TOY
    rows = TOY_ROWS
    bad_rows = (({"text": "it rains", "topic": "weather"}, "topic"),)
    not_applicable: ClassVar = {"padded_and_flat_agree": "a bag of words"}

    @pytest.fixture(autouse=True)
    def installed(self) -> Iterator[None]:
        with toy_installed():
            yield

    def outputs(self, model: nn.Module, collator: Collator) -> Any:
        return model(torch.arange(60), torch.arange(0, 60, 6))

    def reload_export(self, format: str, folder: Path) -> Any:
        weights = json.loads((folder / "weights.json").read_text())
        model = Topics(len(weights["words.weight"]), len(weights["head.weight"]), 0.0).eval()
        model.load_state_dict({name: torch.tensor(weight) for name, weight in weights.items()})
        return self.outputs(model, None)  # type: ignore[arg-type]


@pytest.fixture
def rows_file(tmp_path: Path) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in TOY_ROWS))
    return str(path)


LOSS = ("--only", "loss_is_finite_and_falls")
QUICK = ("--only", "hooks_are_complete", "--only", "padded_and_flat_agree", *LOSS)


def test_a_report_says_what_passed_and_writes_a_badge(
    rows_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    badge = tmp_path / "badge.json"
    with toy_installed():
        assert main(["swift-core-toy", "--rows", rows_file, "--badge", str(badge), *QUICK]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "passed          the five hooks keep the contract",
        "not applicable  padded and flat batches have the same loss: its batches are no flat rows of tokens",
        "passed          the loss is finite and falls",
        "conformance: 2 passed, 1 not applicable",
    ]
    told = json.loads(badge.read_text())
    assert (told["message"], told["color"]) == ("2 passed, 1 not applicable", "brightgreen")


def test_a_report_of_what_failed_ends_with_1(rows_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    with toy_installed():
        assert main([TOY, "--rows", rows_file, "learning_rate=0.0", *LOSS]) == 1
    out = capsys.readouterr().out
    assert "failed          the loss is finite and falls: expected a loss that falls by 1%" in out
    assert out.endswith("conformance: 1 failed\n")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["no-such-task"], "no installed package provides 'no-such-task'"),
        ([TOY, "--only", "typos_refused"], "no check 'typos_refused'. Did you mean 'typos_are_refused'?"),
        ([TOY, "--step", "3"], "unknown argument --step. Did you mean '--steps'?"),
    ],
)
def test_a_mistake_is_told(
    rows_file: str, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    with toy_installed():
        assert main([*arguments, "--rows", rows_file]) == 2
    assert told in capsys.readouterr().err


def test_rows_that_are_none_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("[1, 2]\n")
    with toy_installed():
        assert main([TOY, "--rows", str(path)]) == 2
    assert f"{path}: expected a JSON object a line, found other values" in capsys.readouterr().err
