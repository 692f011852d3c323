"""Ways round a policy, and mistakes in a labels file, that once went through."""

from __future__ import annotations

from importlib.metadata import PathDistribution
from pathlib import Path

import pytest

from swift_core.compatibility import core_misfit
from swift_core.errors import UserError
from swift_core.labels.reading import read_labels

HEAD = '[groups]\nteam = ["ann"]\n'


def faults_of(text: str) -> str:
    with pytest.raises(UserError) as caught:
        read_labels(text, place="labels.toml", found_by="option", origin="labels.toml")
    return str(caught.value)


def label(more: str) -> str:
    return f'{HEAD}[labels.shop]\nextends = "embedding"\ndescription = "d"\nowners = ["team"]\n{more}\n'


def test_an_approval_says_who_when_and_why() -> None:
    told = faults_of(label('status = "approved"\napproval = {by = "ann", when = "2026-11-25", why = " "}'))
    assert "approval: why must not be empty" in told


def test_a_task_type_is_no_former_name() -> None:
    assert "former: dpo is a task type" in faults_of(label('former = ["dpo"]'))


def test_approvers_that_are_no_names_are_a_fault_and_no_traceback() -> None:
    assert "approvers" in faults_of(f'{HEAD}[policy]\napprovers = [["a"]]\n')


def test_bounds_in_two_lines_of_metadata_both_hold(tmp_path: Path) -> None:
    folder = tmp_path / "acme-1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: acme\nVersion: 1\n"
        "Requires-Dist: swift-core>=0.1\nRequires-Dist: swift-core<0.2\n"
    )
    found = PathDistribution(folder)
    assert core_misfit(found, "0.1.5") is None
    assert "it needs swift-core" in str(core_misfit(found, "0.5.0"))
