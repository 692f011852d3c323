"""Packages, git and processes, each with what is missing in real life."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from swift_core.runs.environment import git_state, host_state, is_alive, is_this_process, package_versions

Git = Callable[..., str]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    return folder


@pytest.fixture
def git(repository: Path) -> Git:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]

    def run(*words: str) -> str:
        command = ["git", *identity, "-C", str(repository), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    run("init", "-q", "-b", "main")
    return run


def commit(git: Git, repository: Path, text: str) -> str:
    (repository / "train.py").write_text(text)
    git("add", "train.py")
    git("commit", "-q", "-m", text)
    return git("rev-parse", "HEAD")


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


def test_versions_of_installed_packages_only() -> None:
    assert package_versions(["pytest", "no-such-distribution"]) == {"pytest": pytest.__version__}


def test_clean_commit(git: Git, repository: Path) -> None:
    head = commit(git, repository, "one")
    (repository / "untracked.txt").write_text("outputs do not count")
    assert git_state(repository) == {"commit": head, "branch": "main", "dirty": False}


def test_subfolder_of_a_repository(git: Git, repository: Path) -> None:
    head = commit(git, repository, "one")
    (repository / "configs").mkdir()
    assert git_state(repository / "configs") == {"commit": head, "branch": "main", "dirty": False}


@pytest.mark.parametrize("staged", [False, True])
def test_dirty(git: Git, repository: Path, staged: bool) -> None:
    head = commit(git, repository, "one")
    (repository / "train.py").write_text("changed")
    if staged:
        git("add", "train.py")
    assert git_state(repository) == {"commit": head, "branch": "main", "dirty": True}


def test_detached_head(git: Git, repository: Path) -> None:
    first = commit(git, repository, "one")
    commit(git, repository, "two")
    git("checkout", "-q", first)
    assert git_state(repository) == {"commit": first, "branch": None, "dirty": False}


def test_no_commits_yet(git: Git, repository: Path) -> None:
    assert git_state(repository) == {"commit": None, "branch": "main", "dirty": False}


def test_outside_a_repository(tmp_path: Path) -> None:
    assert git_state(tmp_path) is None
    assert git_state(tmp_path / "missing") is None


def test_without_git(git: Git, repository: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(repository) is None


def test_git_that_hangs(repository: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sleep = shutil.which("sleep")
    fake = tmp_path / "git"
    fake.write_text(f"#!/bin/sh\nexec {sleep} 30\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}")
    started = time.monotonic()
    assert git_state(repository, timeout_seconds=0.3) is None
    assert time.monotonic() - started < 5


def test_a_repository_cannot_name_a_program_to_run(git: Git, repository: Path, tmp_path: Path) -> None:
    commit(git, repository, "one")
    mark = tmp_path / "ran"
    hook = tmp_path / "monitor"
    hook.write_text(f"#!/bin/sh\n: > {mark}\n")
    hook.chmod(0o755)
    git("config", "core.fsmonitor", str(hook))
    assert git_state(repository) is not None
    assert not mark.exists()


def test_host_state_names_this_process() -> None:
    state = host_state()
    assert state["pid"] == os.getpid()
    assert state["process_started"] == psutil.Process().create_time()
    assert state["python"] == ".".join(str(part) for part in sys.version_info[:3])
    assert state["host"] and state["platform"] and state["user"]


def test_living_process() -> None:
    assert is_alive(os.getpid(), psutil.Process().create_time())


@pytest.mark.parametrize(
    "changes",
    [{"pid": 1}, {"host": "another-host"}, {"process_started": 1.0}],
)
def test_this_process_is_known_by_more_than_its_id(changes: dict[str, Any]) -> None:
    assert is_this_process(host_state())
    assert not is_this_process({**host_state(), **changes})


def test_reused_process_id() -> None:
    assert not is_alive(os.getpid(), psutil.Process().create_time() - 3600)


def test_clock_that_was_set_a_little() -> None:
    assert is_alive(os.getpid(), psutil.Process().create_time() + 1)


def test_killed_process_before_and_after_its_parent_took_note(sleeper: subprocess.Popen[bytes]) -> None:
    started = psutil.Process(sleeper.pid).create_time()
    assert is_alive(sleeper.pid, started)
    sleeper.kill()
    while psutil.Process(sleeper.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert not is_alive(sleeper.pid, started)
    sleeper.wait()
    assert not is_alive(sleeper.pid, started)


@pytest.mark.parametrize("pid", [-1, 2**40])
def test_impossible_process_ids(pid: int) -> None:
    assert not is_alive(pid, 0.0)
