"""`swift new`: what it writes installs, trains and passes its own tests and ruff, unedited."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from swift_core.cli import main
from swift_core.registry import find_task, load_spec

# The longest name that is allowed, since lines of templates grow with it.
LONG = "legal-" + "x" * 34
PACKAGES = {
    "acme-swift-legal": ("legal-ner", "--kind", "token-classification", "--package", "acme-swift-legal"),
    "swift-legal-topics": ("legal-topics", "--kind", "sequence-classification", "--license", "mit"),
    "swift-legal-documents": ("legal-documents", "--extends", "sequence-classification"),
    "swift-loss-guard": ("loss-guard", "--kind", "extension", "--license", "none"),
}
TESTED = ("acme-swift-legal", "swift-loss-guard")
"""The others are trained only: a kit starts processes of its own, which takes seconds."""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a package of each kind."""
    folder = tmp_path_factory.mktemp("new")
    before = Path.cwd()
    os.chdir(folder)
    try:
        for arguments in PACKAGES.values():
            assert main(["new", *arguments]) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture(scope="module")
def site(written: Path) -> Path:
    """Where pip put them all, without a network."""
    target = written / "site"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--quiet"]
    offline = ["--no-deps", "--no-index", "--no-build-isolation", "--target", str(target)]
    packages = [str(written / name) for name in PACKAGES]
    subprocess.run([*pip, *offline, *packages], check=True, capture_output=True)
    return target


def ruff(folder: Path) -> str:
    told = ""
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--no-cache", "."],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        told += done.stdout + done.stderr if done.returncode else ""
    return told


@pytest.mark.parametrize("name", PACKAGES)
def test_ruff_has_nothing_to_say(written: Path, name: str) -> None:
    assert ruff(written / name) == ""


@pytest.mark.parametrize(
    "begun", [["--kind", "token-classification"], ["--extends", "embedding"], ["--kind", "extension"]]
)
def test_nor_has_it_of_the_longest_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new", LONG, *begun]) == 0
    assert ruff(tmp_path / f"swift-{LONG}") == ""


def test_its_own_tests_pass(written: Path, site: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "--import-mode=importlib", "-p", "no:cacheprovider"]
    paths = [str(site), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    done = subprocess.run(
        [*command, *(f"{name}/tests" for name in TESTED)],
        cwd=written,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "skipped" in done.stdout and "passed" in done.stdout


@pytest.mark.parametrize("name", [name for name in PACKAGES if name != "swift-loss-guard"])
def test_it_trains_on_its_example_rows(
    written: Path, site: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(site))
    importlib.invalidate_caches()
    monkeypatch.chdir(written / name)
    if name == "swift-legal-documents":
        exec(
            compile(Path("examples/tiny_model.py").read_text(), "examples/tiny_model.py", "exec"),
            {"__name__": "__main__", "__file__": "examples/tiny_model.py"},
        )
    folders = [f"cache_dir={written / 'tokens'}", "use_cpu=true"]
    capsys.readouterr()
    assert main(["train", "examples/run.yaml", "--json", *folders]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["state"] == "finished"
    # A random encoder needs more steps than a first look should take.
    enough = 0.4 if name == "swift-legal-documents" else 0.7
    assert max(result["metrics"].get("eval_f1", 0), result["metrics"]["eval_accuracy"]) > enough


def test_the_files_that_people_look_for_are_there(written: Path) -> None:
    for name in PACKAGES:
        files = {str(p.relative_to(written / name)) for p in (written / name).rglob("*") if p.is_file()}
        assert {"README.md", "pyproject.toml", ".gitignore", ".github/workflows/ci.yml"} <= files
        assert ("MODEL_CARD.md" in files) == (name != "swift-loss-guard")
        assert ("LICENSE" in files) == (name != "swift-loss-guard")
    assert "MIT License" in (written / "swift-legal-topics" / "LICENSE").read_text()
    assert "@@" not in (written / "acme-swift-legal" / "README.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["Legal", "--kind", "extension"], "NAME: expected lower-case words joined by '-'"),
        (["a_b", "--kind", "extension"], "found 'a_b'\n"),
        (["a", "--kind", "extension", "--package", "../x"], "found '../x'"),
        (["a", "--kind", "extension", "--package", "x\ny"], "found 'x\\ny'"),
        (["a", "--kind", "extension", "--package", "über"], "found 'über'"),
        (["a", "--kind", "extension", "--package", "class"], "the module 'class', which Python can't import"),
        (["dpo", "--kind", "extension", "--package", "1"], "the module '1', which Python can't import"),
        (["dpo", "--kind", "token-classification"], "NAME: 'dpo' belongs to swift-dpo"),
        (["a", "--kind", "extension", "--package", "json"], "a module 'json' can be imported already"),
        (["a", "--kind", "extension", "--package", "a b"], "--package: expected some letters"),
        (["a", "--kind", "token-clasification"], "Did you mean 'token-classification'?"),
        (["a"], "--kind: expected one of token-classification, sequence-classification, extension"),
        (["a", "--kind", "child"], "--extends: expected the name of an installed task type"),
        (["a", "--extends", "embeding"], "Did you mean 'embedding'?"),
        (["a", "--extends", "embedding", "--kind", "extension"], "'child' or nothing beside --extends"),
    ],
)
def test_what_can_t_be_is_told_and_nothing_is_written(
    arguments: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new", *arguments]) == 2
    assert told in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    arguments = ["new", "a-b", "--kind", "extension", "--folder", "mine"]
    assert main(arguments) == 2
    assert "mine: there is something already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "notes.txt"]


def test_an_empty_folder_is_filled_and_stays_the_folder_that_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    before = tmp_path.stat().st_ino
    assert main(["new", "a-b", "--kind", "extension", "--folder", "."]) == 0
    assert "cd " not in capsys.readouterr().out
    assert tmp_path.stat().st_ino == before
    names = {path.name for path in Path().iterdir()}
    assert {"pyproject.toml", "swift_a_b", "tests", "README.md"} <= names
    assert not [name for name in names if name.startswith(".tmp-")]


@pytest.mark.parametrize(
    ("folder", "told"),
    [
        ("file", "file: there is something already; remove it, or name another --folder"),
        ("file/x", "--folder: expected a folder that can be written to, found file/x: "),
        ("shut/x", "--folder: expected a folder that can be written to, found shut/x: Permission denied"),
        ("shut", "--folder: expected a folder that can be written to, found shut: Permission denied"),
    ],
)
def test_a_folder_that_can_t_be_is_told(
    folder: str,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "shut").mkdir(mode=0o555)
    if folder.startswith("shut") and os.access(tmp_path / "shut", os.W_OK):
        pytest.skip("this user may write everywhere")
    assert main(["new", "a-b", "--kind", "extension", "--folder", folder]) == 2
    assert told in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "shut"]


@pytest.mark.parametrize("folder", [".", "new"])
def test_a_write_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    monkeypatch.chdir(tmp_path)
    real: Callable[..., int] = Path.write_text

    def fails(path: Path, *rest: object, **named: object) -> int:
        if path.name == "pyproject.toml":
            raise OSError(28, "No space left on device")
        return real(path, *rest, **named)

    monkeypatch.setattr(Path, "write_text", fails)
    assert main(["new", "a-b", "--kind", "extension", "--folder", folder]) != 0
    assert list(tmp_path.iterdir()) == []


def test_a_child_begins_with_the_example_rows_of_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new", "my-reranker", "--extends", "reranker"]) == 0
    lines = (tmp_path / "swift-my-reranker" / "examples" / "train.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == list(load_spec(find_task("reranker")).examples)
