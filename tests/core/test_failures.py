"""What an environment does to a run comes out as a sentence with what to do."""

from __future__ import annotations

import errno

import pytest

from swift_core import cli, runner


def torch_writer() -> None:
    try:
        raise RuntimeError(
            "[enforce fail at inline_container.cc:863] . PytorchStreamWriter failed writing file"
        )
    except RuntimeError:
        raise RuntimeError("unexpected pos 64 vs 0")  # noqa: B904 - as torch's own clean-up does


def full_disk() -> None:
    raise OSError(errno.ENOSPC, "No space left on device", "model.safetensors")


def no_permission() -> None:
    raise PermissionError(errno.EACCES, "Permission denied", "/opt/out")


@pytest.mark.parametrize(
    ("accident", "code", "message"),
    [
        (torch_writer, 1, "the disk is full"),
        (full_disk, 1, "the disk is full (model.safetensors); free some space, then go on with --resume"),
        (no_permission, 2, "/opt/out: no permission; choose another output_dir or cache_dir"),
    ],
)
def test_an_accident_is_a_sentence_without_a_traceback(
    tmp_path, monkeypatch, capsys, accident, code, message
):
    (tmp_path / "run.yaml").write_text("task_type: embedding\ndataset: train.jsonl\n")
    monkeypatch.setattr(runner, "train_run", lambda args, resume: accident())
    assert cli.main(["train", str(tmp_path / "run.yaml")]) == code
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told
