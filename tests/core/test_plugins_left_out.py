"""SWIFT_DISABLE_PLUGINS, and names that several packages have: what `swift plugins` and the others say."""

from __future__ import annotations

import json
from typing import Any

import pytest

from swift_core import UserError
from swift_core.cli import main
from swift_core.extensions import find_extension
from swift_core.registry import DISABLE_VARIABLE, find_claims, find_task, load_spec

MODULE = """
from swift_core import ExtensionSpec, TaskSpec
SPEC = TaskSpec(name="ner", summary="of {name}", columns=(), implementation="{name}")
EXTENSION = ExtensionSpec(name="watch", summary="s", implementation="{name}:Watch")
def hello(arguments):
    print("hello from {name}")
    return 0
"""


@pytest.fixture
def twins(install: Any) -> None:
    """Two packages with the same task type, extension and command."""
    for package in ("acme-a", "Acme_B"):
        module = package.lower().replace("-", "_")
        entries = {
            "swift.tasks": {"ner": f"{module}:SPEC"},
            "swift.extensions": {"watch": f"{module}:EXTENSION"},
            "swift.commands": {"hello": f"{module}:hello"},
        }
        install(package, files={f"{module}.py": MODULE.format(name=module)}, entry_points=entries)


def rows_of(capsys: pytest.CaptureFixture[str]) -> dict[tuple[str, str], dict[str, Any]]:
    assert main(["plugins", "--json"]) == 0
    return {(row["package"], row["provides"]): row for row in json.loads(capsys.readouterr().out)}


def test_conflicts_are_shown_with_what_to_write(twins: None, capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of(capsys)
    for package in ("acme-a", "Acme_B"):
        assert "write task_type=Acme_B:ner or task_type=acme-a:ner" in rows[package, "task ner"]["fault"]
        assert "write Acme_B:watch or acme-a:watch" in rows[package, "extension watch"]["fault"]
        assert "write swift Acme_B:hello or swift acme-a:hello" in rows[package, "command hello"]["fault"]


def test_a_qualified_name_is_one_of_them(twins: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert load_spec(find_task("acme-b:ner")).summary == "of acme_b"
    assert find_extension("ACME.A:watch").package == "acme-a"
    assert main(["acme-a:hello"]) == 0
    assert capsys.readouterr().out == "hello from acme_a\n"
    assert main(["hello"]) == 2
    assert "write swift Acme_B:hello or swift acme-a:hello" in capsys.readouterr().err


def test_a_package_that_is_left_out_is_out_of_the_way(
    twins: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(DISABLE_VARIABLE, " acme-b ,")
    assert find_task("ner").package == find_extension("watch").package == "acme-a"
    assert main(["hello"]) == 0
    assert capsys.readouterr().out == "hello from acme_a\n"
    rows = rows_of(capsys)
    assert rows["acme-a", "task ner"]["fault"] is None
    assert rows["Acme_B", "task ner"]["fault"] == "left out: SWIFT_DISABLE_PLUGINS names it"


def test_asking_for_what_is_left_out_says_so(
    twins: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(DISABLE_VARIABLE, "acme-a,acme-b,swift-embedding")
    assert [claim.name for claim in find_claims() if claim.name in ("ner", "embedding")] == []
    for name in ("ner", "acme-a:ner"):
        with pytest.raises(UserError, match=f"provides '{name}', but SWIFT_DISABLE_PLUGINS"):
            find_task(name)
    with pytest.raises(UserError, match="swift-embedding provides 'embedding', but SWIFT_DISABLE_PLUGINS"):
        find_task("embedding")
    with pytest.raises(UserError, match="provides 'watch', but SWIFT_DISABLE_PLUGINS"):
        find_extension("watch")
    assert main(["hello"]) == 2
    assert "provides 'hello', but SWIFT_DISABLE_PLUGINS" in capsys.readouterr().err


def test_a_package_that_is_left_out_is_not_imported(
    install: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(
        "acme-loud",
        files={"acme_loud.py": "raise SystemExit"},
        entry_points={"swift.tasks": {"l": "acme_loud:S"}},
    )
    assert "SystemExit" in rows_of(capsys)["acme-loud", "task l"]["fault"]
    monkeypatch.setenv(DISABLE_VARIABLE, "acme-loud")
    assert "SystemExit" not in rows_of(capsys)["acme-loud", "task l"]["fault"]


def test_a_name_that_leaves_nothing_out_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(DISABLE_VARIABLE, "swift-embeding")
    assert main(["plugins"]) == 0
    assert "SWIFT_DISABLE_PLUGINS: no installed package is called swift-embeding" in capsys.readouterr().err


def test_a_command_that_swift_has_itself_is_never_taken_over(
    install: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"acme_train.py": "def main(arguments):\n    print('mine')\n    return 0\n"}
    install("acme-train", files=files, entry_points={"swift.commands": {"train": "acme_train:main"}})
    fault = rows_of(capsys)["acme-train", "command train"]["fault"]
    assert fault == "swift has a command 'train' of its own: write swift acme-train:train"
    assert main(["acme-train:train"]) == 0
    assert capsys.readouterr().out == "mine\n"


def test_the_window_of_each_package_is_shown(install: Any, capsys: pytest.CaptureFixture[str]) -> None:
    entries = {"swift.commands": {"old": "acme_old:main"}}
    install("acme-old", requires=["swift-core<0.1,>=0.0.3"], entry_points=entries)
    row = rows_of(capsys)["acme-old", "command old"]
    assert row["swift_core"] == ">=0.0.3,<0.1"
    assert "it needs swift-core >=0.0.3,<0.1" in row["fault"]
    assert main(["old"]) == 2
    assert "package acme-old 1.0, command 'old': it needs swift-core" in capsys.readouterr().err
