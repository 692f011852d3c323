"""A package says which swift-core it was made for, and is refused by any other."""

from __future__ import annotations

from importlib.metadata import Distribution
from typing import Any

import pytest

from swift_core import PluginError, SwiftTrainer, TrainingArguments, UserError, __version__
from swift_core.compatibility import core_misfit, core_window
from swift_core.extensions import extension_faults
from swift_core.hookspecs import TaskHooks
from swift_core.registry import find_task, load_spec
from swift_core.runtime import Runtime
from swift_core.testing.toy import TOY_ROWS, toy_installed

SPEC = """
from swift_core import ExtensionSpec, TaskSpec
SPEC = TaskSpec(name="ner", summary="s", columns=(), implementation="acme_ner")
EXTENSION = ExtensionSpec(name="watch", summary="s", implementation="acme_ner:Watch")
"""
ENTRY_POINTS = {"swift.tasks": {"ner": "acme_ner:SPEC"}, "swift.extensions": {"watch": "acme_ner:EXTENSION"}}


class FakeDistribution(Distribution):
    """Metadata with these lines of Requires-Dist."""

    def __init__(self, *requires: str) -> None:
        self._text = "Metadata-Version: 2.1\nName: acme\n" + "".join(
            f"Requires-Dist: {r}\n" for r in requires
        )

    def read_text(self, filename: str) -> str | None:
        return self._text if filename == "METADATA" else None

    def locate_file(self, path: Any) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("requires", "installed", "fits"),
    [
        (["swift-core>=0.1,<0.3"], "0.1.0", True),
        (["swift-core>=0.1,<0.3"], "0.2.9", True),
        (["swift-core>=0.1,<0.3"], "0.3.0", False),
        (["swift-core>=0.2"], "0.1.0", False),
        (["Swift_Core (>=0.2)"], "0.1.0", False),
        (["torch", "swift-core ~= 0.1.3"], "0.1.2", False),
        (["swift-core<0.2"], "0.2.0rc1", False),
        (["swift-core>=0.1"], "0.2.0rc1", True),
        (["swift-core>=0.1,<0.2"], "0.2.0rc1", False),
        (["swift-core>=0.1,<0.2"], "0.2.0.dev1", False),
        (["swift-core>=0.1,<0.2"], "0.1.5.dev3", True),
        (["swift-core>=0.2"], "0.2.0rc1", True),
        (["swift-core>=0.2"], "0.2.0.dev1", True),
        (["swift-core>=0.2"], "0.2.0a1.dev4+g1a2b3c", True),
        (["swift-core>=0.2"], "0.1.9.dev1", False),
        (["swift-core~=0.2.0"], "0.2.0rc1", True),
        (["swift-core==0.2.*"], "0.2.0.dev1", True),
        (["swift-core==0.2.*"], "0.3.0.dev1", False),
        (["swift-core>0.2"], "0.2.0rc1", False),
        (["swift-core<=0.2"], "0.2.0rc1", True),
        (["swift-core>=0.2.0rc2"], "0.2.0rc1", False),
        (["swift-core>=0.2.0rc1,<0.4"], "0.2.0rc1", True),
        (["swift-core<0.2.0rc2"], "0.2.0rc1", True),
        (["swift-core==0.2.0rc1"], "0.2.0", False),
        (["swift-core!=0.2.0rc1"], "0.2.0rc1", False),
        (["swift-core===0.2.0"], "0.2.0rc1", False),
        (["swift-core<0.2"], "0.1.0.post1", True),
        (["swift-core"], "9.0", True),
        (["swift-core"], "9.0.dev1", True),
        (["torch>=2"], "9.0", True),
        ([], "9.0", True),
        (["swift-core-extras>=99"], "0.1.0", True),
        (["swift-core>=99; extra == 'new'"], "0.1.0", True),
        (["swift-core>=99; python_version < '3'"], "0.1.0", True),
        (["swift-core>=99; python_version >= '3'"], "0.1.0", False),
        (["swift-core[flash]>=99"], "0.1.0", False),
        (["swift-core>=not.a.version"], "0.1.0", False),
    ],
)
def test_the_window_is_read_as_pip_reads_it_but_for_what_comes_before_a_release(
    requires: list[str], installed: str, fits: bool
) -> None:
    assert (core_misfit(FakeDistribution(*requires), installed) is None) is fits


def test_a_package_without_metadata_is_not_refused() -> None:
    assert core_misfit(None) is None
    assert core_window(None) is None


def test_the_window_is_shown_from_its_lower_end() -> None:
    assert core_window(FakeDistribution("swift-core<0.3,>=0.1")) == ">=0.1,<0.3"
    assert core_window(FakeDistribution("swift-core")) is None


def test_a_package_for_another_core_is_refused_before_it_is_imported(install: Any) -> None:
    files = {"acme_ner.py": "raise AssertionError('imported')"}
    install("acme-ner", requires=["swift-core>=7,<8"], files=files, entry_points=ENTRY_POINTS)
    told = f"it needs swift-core >=7,<8, installed is {__version__}"
    with pytest.raises(PluginError, match=r"package acme-ner 1\.0, task type 'ner'") as caught:
        load_spec(find_task("ner"))
    assert told in str(caught.value) and "\n" not in str(caught.value)
    assert told in extension_faults({"watch": {}})[0]
    with pytest.raises(UserError, match="it needs swift-core"):
        TrainingArguments(task_type="ner")


def test_a_package_for_this_core_is_taken(install: Any) -> None:
    window = f"swift-core=={__version__}"
    install("acme-ner", requires=[window], files={"acme_ner.py": SPEC}, entry_points=ENTRY_POINTS)
    assert load_spec(find_task("ner")).summary == "s"
    assert extension_faults({"watch": {}}) == []


def test_a_parent_for_another_core_is_refused_too(install: Any) -> None:
    child = SPEC.replace('"ner"', '"child"').replace("columns=()", "columns=(), parent='ner'")
    install(
        "acme-child", files={"acme_ner.py": child}, entry_points={"swift.tasks": {"child": "acme_ner:SPEC"}}
    )
    install("acme-ner", requires=["swift-core>=7"], entry_points=ENTRY_POINTS)
    with pytest.raises(PluginError, match=r"package acme-ner 1\.0.*it needs swift-core >=7"):
        Runtime(find_task("child"))


def test_an_argument_that_is_going_away_is_still_passed_with_one_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    going = FutureWarning("make_collator: 'args' goes away in swift-core 0.3; take 'options'")
    mark: dict[str, Any] = TaskHooks.make_collator.swift_spec  # type: ignore[attr-defined]
    monkeypatch.setitem(mark, "warn_on_impl_args", {"args": going})
    with toy_installed() as toy, pytest.warns(FutureWarning, match="take 'options'") as told:
        args = TrainingArguments(task_type=toy, max_steps=1, output_dir=str(tmp_path))
        SwiftTrainer(args, train_dataset=list(TOY_ROWS)).train()
    assert {warning.filename.rpartition("/")[2] for warning in told} == {"hooks.py"}, "the plugin's own file"
