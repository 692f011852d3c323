"""Files and folders are whole or not there, whatever happens midway."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from swift_core.runs.atomic import replaced_folder, sha256_of, write_text


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_text_is_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    write_text(path, "old")
    write_text(path, "neu: ä 训练\n")
    assert path.read_bytes() == "neu: ä 训练\n".encode()
    assert names(tmp_path) == {"note.txt"}


def test_file_mode_follows_the_umask(tmp_path: Path) -> None:
    previous = os.umask(0o027)
    try:
        write_text(tmp_path / "note.txt", "x")
        with replaced_folder(tmp_path / "model"):
            pass
    finally:
        os.umask(previous)
    assert (tmp_path / "note.txt").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "model").stat().st_mode & 0o777 == 0o750


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_failed_write_leaves_the_old_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    path = tmp_path / "note.txt"
    write_text(path, "old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    owner = os if failing == "fsync" else Path
    monkeypatch.setattr(owner, failing, fail)
    with pytest.raises(OSError, match="No space"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == {"note.txt"}


def test_unencodable_text_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "new \ud800")
    assert path.read_text() == "old"
    assert names(tmp_path) == {"note.txt"}


def test_folder_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "exports" / "onnx"
    with replaced_folder(target) as folder:
        assert folder.parent == target.parent
        assert folder.name.startswith(".tmp-")
        assert not list(folder.iterdir())
        (folder / "sub").mkdir()
        (folder / "sub" / "a.txt").write_text("a")
        assert not target.exists()
    assert (target / "sub" / "a.txt").read_text() == "a"
    assert names(target.parent) == {"onnx"}


def test_folder_replaces_an_older_one_completely(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "old.txt").write_text("old")
    with replaced_folder(target) as folder:
        (folder / "new.txt").write_text("new")
        assert names(target) == {"old.txt"}
    assert names(target) == {"new.txt"}
    assert names(tmp_path) == {"model"}


@pytest.mark.parametrize("fault", [RuntimeError, KeyboardInterrupt])
def test_fault_in_the_block_keeps_the_old_folder(tmp_path: Path, fault: type[BaseException]) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "old.txt").write_text("old")
    with pytest.raises(fault), replaced_folder(target) as folder:
        (folder / "new.txt").write_text("half")
        raise fault
    assert names(target) == {"old.txt"}
    assert names(tmp_path) == {"model"}


def test_failed_second_rename_gives_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "old.txt").write_text("old")
    rename = Path.rename
    calls: list[Path] = []

    def fail_second(self: Path, to: Path) -> Path:
        calls.append(self)
        if len(calls) == 2:
            raise OSError(5, "Input/output error")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", fail_second)
    with pytest.raises(OSError, match="Input/output"), replaced_folder(target) as folder:
        (folder / "new.txt").write_text("new")
    assert names(target) == {"old.txt"}
    assert names(tmp_path) == {"model"}


def test_folder_replaces_a_link_not_what_it_points_at(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "keep.txt").write_text("keep")
    target = tmp_path / "model"
    target.symlink_to(elsewhere)
    with replaced_folder(target) as folder:
        (folder / "new.txt").write_text("new")
    assert not target.is_symlink()
    assert names(target) == {"new.txt"}
    assert names(elsewhere) == {"keep.txt"}
    assert names(tmp_path) == {"model", "elsewhere"}


def test_sha256(tmp_path: Path) -> None:
    path = tmp_path / "data.bin"
    path.write_bytes(b"abc" * 100_000)
    assert sha256_of(path) == hashlib.sha256(b"abc" * 100_000).hexdigest()
