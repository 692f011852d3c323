"""Options that a task has no use for: refused where a run says them, and not offered."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from swift_core import TaskSpec, TrainingArguments, UserError
from swift_core.cli import main
from swift_core.core_options import CoreOptions
from swift_core.options import options_of
from swift_core.spec import BACKBONE_OPTIONS
from swift_core.testing import CHECKS, ConformanceError, Subject
from swift_core.testing.toy import TOY_ROWS

SPEC = """
from swift_core import TaskSpec
from swift_core.spec import BACKBONE_OPTIONS
from swift_core.testing.toy.spec import SPEC as TOY
import dataclasses
SPEC = dataclasses.replace(TOY, name="own", unused_options=(*BACKBONE_OPTIONS, "label_smoothing_factor"))
"""


TOLD = "has no effect here: task type 'own' does not use it; leave it out"


@pytest.fixture
def own(install: Callable[..., Path]) -> str:
    """A task type that builds a model of its own, and says so."""
    install("acme-own", files={"acme_own.py": SPEC}, entry_points={"swift.tasks": {"own": "acme_own:SPEC"}})
    return "own"


def test_what_a_run_says_is_refused_with_its_place(own: str, tmp_path: Path) -> None:
    run = tmp_path / "run.yaml"
    run.write_text(f"task_type: {own}\nuse_lora: true\nbuckets: 8\n")
    with pytest.raises(UserError) as caught:
        TrainingArguments.from_file(run, ["attn_implementation=eager"])
    assert caught.value.faults == (
        f"{run}:2: use_lora: {TOLD}",
        f"command line: attn_implementation: {TOLD}",
    )
    assert TrainingArguments(own, buckets=8).use_lora is False


def test_what_the_core_says_inside_of_a_run_is_not(own: str) -> None:
    args = TrainingArguments(own, buckets=8).with_model("saved")
    assert args.replace(dataset=None).model_name_or_path == "saved"
    assert pickle.loads(pickle.dumps(args)).model_name_or_path == "saved"


def test_they_are_not_offered(own: str, capsys: pytest.CaptureFixture[str]) -> None:
    for form in ([], ["--all"], ["--json"]):
        assert main(["describe", own, *form]) == 0
        told = capsys.readouterr().out
        assert "use_lora" not in told and "max_length" in told
    assert main(["describe", own, "--json-schema"]) == 0
    assert not {*BACKBONE_OPTIONS} & json.loads(capsys.readouterr().out)["properties"].keys()


def test_the_options_of_a_backbone_are_options_of_the_core() -> None:
    assert {*BACKBONE_OPTIONS} <= options_of(CoreOptions, "core").keys()


def test_a_default_of_an_unused_option_contradicts_itself() -> None:
    with pytest.raises(ValueError, match="unused_options: use_lora can't have defaults too"):
        TaskSpec(
            name="own",
            summary="s",
            columns=(),
            implementation="own",
            defaults={"use_lora": True},
            unused_options=("use_lora",),
        )


def test_the_kit_finds_names_of_no_option(install: Callable[..., Path], tmp_path: Path) -> None:
    spec = SPEC.replace('"label_smoothing_factor"', '"use_lorra", "buckets"')
    install("acme-own", files={"acme_own.py": spec}, entry_points={"swift.tasks": {"own": "acme_own:SPEC"}})
    (check,) = [check for check in CHECKS if check.name == "options_are_documented_and_typed"]
    with pytest.raises(ConformanceError, match="no option 'use_lorra', unused_options: no option 'buckets'"):
        check.run(Subject("own", TOY_ROWS, tmp_path))
