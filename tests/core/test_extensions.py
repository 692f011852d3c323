"""Extensions that a run file asks for: found, checked, in order; observers may fail, wrappers may not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from swift_core import PluginError, SwiftTrainer, TrainingArguments, UserError, hookimpl
from swift_core.cli import main
from swift_core.registry import find_task
from swift_core.runtime import Runtime
from swift_core.testing.toy import TOY_ROWS, toy_installed

SPEC = """
from dataclasses import dataclass
from swift_core import ExtensionSpec, option

@dataclass(frozen=True, kw_only=True)
class Options:
    add: float = option(1.0, help="What is added to the loss.")

    def __post_init__(self):
        if self.add == 13:
            raise ValueError("add: 13 brings bad luck")

ADDS = ExtensionSpec(
    name="adds", summary="s", implementation="acme_more.hooks:Adds", options="acme_more.spec:Options"
)
DOUBLES = ExtensionSpec(name="doubles", summary="s", implementation="acme_more.hooks:Doubles")
SPEAKS = ExtensionSpec(name="speaks", summary="s", implementation="acme_more.hooks:Speaks")
BREAKS = ExtensionSpec(name="breaks", summary="s", implementation="acme_more.hooks:Breaks")
NO_SPEC = {"name": "no-spec"}
"""
HOOKS = """
from swift_core import LossOutput, hookimpl

class Adds:
    def __init__(self, options):
        self.options = options

    @hookimpl(wrapper=True)
    def compute_loss(self):
        output = yield
        return LossOutput(output.loss + self.options.add, {**output.metrics, "added": self.options.add})

class Doubles:
    @hookimpl(wrapper=True)
    def compute_loss(self):
        output = yield
        return LossOutput(output.loss * 2, output.metrics)

class Speaks:
    @hookimpl
    def metrics_logged(self, step):
        print(f"speaks at {step}")
        if step == 2:
            raise RuntimeError("lost its voice")

    @hookimpl
    def run_ended(self, run):
        print("speaks of the end")

class Breaks:
    @hookimpl(wrapper=True)
    def compute_loss(self):
        yield
        raise RuntimeError("broken")
"""


@pytest.fixture
def train(install: Callable[..., Path], tmp_path: Path) -> Iterator[Callable[..., SwiftTrainer]]:
    """Train the toy for three steps with extensions as a run file names them."""
    names = ("adds", "doubles", "speaks", "breaks", "no-spec")
    install(
        "acme-more",
        files={"acme_more/__init__.py": "", "acme_more/spec.py": SPEC, "acme_more/hooks.py": HOOKS},
        entry_points={
            "swift.extensions": {n: f"acme_more.spec:{n.upper().replace('-', '_')}" for n in names}
        },
    )

    def run(extensions: Any, **options: Any) -> SwiftTrainer:
        folders = {"output_dir": str(tmp_path / "out"), "cache_dir": str(tmp_path / "cache")}
        loop = {"max_steps": 3, "logging_steps": 1, "use_cpu": True, "disable_tqdm": True}
        args = TrainingArguments("toy-topics", extensions=extensions, **folders, **loop, **options)
        trainer = SwiftTrainer(args, train_dataset=list(TOY_ROWS))
        trainer.train()
        return trainer

    with toy_installed():
        yield run


def first_loss(trainer: SwiftTrainer) -> float:
    return float(trainer.state.log_history[0]["loss"])


def test_the_first_stands_around_the_others(train: Callable[..., SwiftTrainer]) -> None:
    plain = first_loss(train({}))
    assert first_loss(train({"adds": {"add": 3.0}, "doubles": {}})) == pytest.approx(2 * plain + 3)
    assert first_loss(train({"doubles": {}, "adds": {}})) == pytest.approx(2 * (plain + 1))


def test_the_record_holds_them_in_order_and_their_packages(train: Callable[..., SwiftTrainer]) -> None:
    trainer = train({"doubles": {}, "acme-more:adds": {"add": 2}})
    record = json.loads((trainer.run.folder / "run.json").read_text())  # type: ignore[union-attr]
    assert list(record["options"]["extensions"].items()) == [("doubles", {}), ("acme-more:adds", {"add": 2})]
    assert record["packages"]["acme-more"] == "1.0"


def test_an_observer_that_fails_is_dropped_with_one_line(
    train: Callable[..., SwiftTrainer], capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = train({"speaks": {}})
    told = [
        line for line in capsys.readouterr().out.splitlines() if "peaks" in line and "options" not in line
    ]
    assert told == [
        "speaks at 1",
        "speaks at 2",
        "extension Speaks watches no more: metrics_logged failed with RuntimeError: lost its voice",
    ]
    assert trainer.run is not None and trainer.run.state == "finished"


def test_a_wrapper_that_fails_ends_the_run(train: Callable[..., SwiftTrainer], tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="broken"):
        train({"breaks": {}})
    (record,) = (tmp_path / "out").glob("*/*/run.json")
    assert json.loads(record.read_text())["state"] == "failed"


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"add": {}}, "extensions: no installed package provides the extension 'add'. Did you mean 'adds'?"),
        ({"adds": {"ad": 1}}, "extensions: adds: there is no option 'ad'. Did you mean 'add'?"),
        ({"adds": {"add": "much"}}, "extensions: adds: add: expected a number, found 'much' (text)"),
        ({"adds": {"add": 13}}, "extensions: adds: add: 13 brings bad luck"),
        ({"doubles": {"by": 3}}, "extensions: doubles: there is no option 'by'."),
        ({"no-spec": {}}, "is a dict, expected a swift_core.ExtensionSpec"),
        (["adds"], "extensions: expected a mapping"),
    ],
)
def test_what_can_t_be_is_refused_with_the_other_faults(
    train: Callable[..., SwiftTrainer], asked: Any, told: str
) -> None:
    with pytest.raises(UserError) as caught:
        train(asked, bucket=3)
    assert told in str(caught.value)
    assert "there is no option 'bucket'. Did you mean 'buckets'?" in str(caught.value)


def test_swift_plugins_lists_them_with_their_faults(
    train: Callable[..., SwiftTrainer], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plugins", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    faults = {row["provides"]: row["fault"] for row in rows if row["package"] == "acme-more"}
    assert faults["extension adds"] is None
    assert "is a dict, expected a swift_core.ExtensionSpec" in faults["extension no-spec"]


def test_an_observer_can_t_be_wrapped(train: Callable[..., SwiftTrainer]) -> None:
    class Around:
        @hookimpl(wrapper=True)
        def run_started(self, run: Any) -> Iterator[None]:
            yield

    with pytest.raises(PluginError, match="run_started: this hook is watched, not wrapped"):
        Runtime(find_task("toy-topics"), [Around()])
