"""What is public changes only where somebody sees it: a snapshot of names and signatures."""

from __future__ import annotations

import difflib
import runpy
from pathlib import Path

import pytest

import swift_core
from swift_core.hookspecs import TaskHooks

HERE = Path(__file__).parent


def difference() -> list[str]:
    kept = (HERE / "public_api.txt").read_text(encoding="utf-8")
    found = runpy.run_path(str(HERE / "public_api.py"))["public_api"]()
    return [*difflib.unified_diff(kept.splitlines(), found.splitlines(), "public_api.txt", "the code", n=0)]


def test_nothing_public_has_changed() -> None:
    changed = difference()
    told = "if it is meant (docs/compatibility.md): python tests/packaging/public_api.py --write"
    assert not changed, "\n".join([*changed, told])


def test_a_change_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def make_collator(self: object, args: object, seed: int) -> None: ...

    monkeypatch.setattr(TaskHooks, "make_collator", make_collator)
    monkeypatch.setattr(swift_core, "__all__", [name for name in swift_core.__all__ if name != "option"])
    changed = "\n".join(difference())
    assert "+    make_collator(self: 'object', args: 'object', seed: 'int') -> 'None'" in changed
    assert "-def option(" in changed
