"""A run's folder and record: creation, reading, updates."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from swift_core.errors import UserError
from swift_core.runs import stored
from swift_core.runs.record import Run, list_runs

MakeRun = Callable[..., Run]


def on_disk(run: Run) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((run.folder / "run.json").read_text())
    return record


def test_new_run(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(
        label="product-classification", options={"hub_token": "hf_x", "rank": 8, "path": Path("a")}
    )
    assert run.folder.parent == tmp_path / "output" / "task-type=product-classification"
    assert run.id == run.folder.name
    assert re.fullmatch(r"\d{8}-\d{6}", run.id)
    assert run.state == "running"
    assert [path.name for path in run.folder.iterdir()] == ["run.json"]
    record = on_disk(run)
    assert record == run.record == Run.open(run.folder).record
    assert record["schema"] == 1
    assert (record["label"], record["task_type"]) == ("product-classification", "embedding")
    assert record["options"] == {"hub_token": "<REDACTED>", "rank": 8, "path": "a"}
    assert record["packages"] == {"pytest": pytest.__version__}
    assert record["created"].endswith("+00:00") and record["ended"] is None
    assert [session["pid"] for session in record["sessions"]] == [os.getpid()]
    later = {name: record[name] for name in ("data", "metrics", "model", "exports", "error")}
    assert later == {"data": [], "metrics": {}, "model": None, "exports": {}, "error": None}
    assert (run.logs, run.model, run.exports) == tuple(
        run.folder / name for name in ("logs", "model", "exports")
    )


def test_the_end_of_a_run_takes_nothing_back_that_another_process_recorded(make_run: MakeRun) -> None:
    run = make_run()
    Run.open(run.folder).update(exports={"hf": "exports/hf"})
    run.end("interrupted")
    found = on_disk(run)
    assert (found["state"], found["exports"]) == ("interrupted", {"hf": "exports/hf"})


def test_the_base_model_is_what_the_run_was_told_by_anybody(make_run: MakeRun) -> None:
    run = make_run(options={"model_name_or_path": "own"})
    assert run.base_model == "own"
    run.update(resolved_options={"model_name_or_path": "of/the-label"})
    assert Run.open(run.folder).base_model == "of/the-label"
    assert make_run(options={}).base_model is None


@pytest.mark.parametrize(
    ("run_name", "ending"),
    [
        ("BGE base, lr=2e-5", "-bge-base-lr-2e-5"),
        ("../../etc", "-etc"),
        ("商品分类", "-商品分类"),
        ("!!!", ""),
        ("x" * 300, "-" + "x" * 48),
    ],
)
def test_run_name_in_the_id(make_run: MakeRun, run_name: str, ending: str) -> None:
    run = make_run(run_name=run_name)
    assert re.fullmatch(r"\d{8}-\d{6}" + re.escape(ending), run.id)
    assert run.record["run_name"] == run_name


def test_relative_output_dir_survives_a_change_of_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    run = Run.create(
        Path("out"), label="dpo", task_type="dpo", run_name=None, options={}, packages=["pytest"]
    )
    monkeypatch.chdir("/")
    run.update(model="there")
    assert on_disk(run)["model"] == "there"


def test_many_runs_in_one_second_share_no_folder(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swift_core.runs.beginning.datetime", FrozenTime)
    ids = [make_run(run_name="a").id for _ in range(3)]
    assert ids == ["20260102-030405-a", "20260102-030405-a-2", "20260102-030405-a-3"]


class FrozenTime:
    @classmethod
    def now(cls, zone: object) -> FrozenTime:
        return cls()

    def strftime(self, form: str) -> str:
        assert form == "%Y%m%d-%H%M%S"
        return "20260102-030405"


def create_frozen(output_dir: str, count: int) -> list[str]:
    given: dict[str, Any] = {"run_name": None, "options": {}, "packages": []}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("swift_core.runs.beginning.datetime", FrozenTime)
        return [Run.create(Path(output_dir), label="dpo", task_type="dpo", **given).id for _ in range(count)]


def test_two_processes_in_one_second_share_no_folder(tmp_path: Path) -> None:
    program = (
        "import sys, importlib.util as u\n"
        "spec = u.spec_from_file_location('record_tests', sys.argv[1])\n"
        "module = u.module_from_spec(spec)\n"
        "sys.modules['record_tests'] = module\n"
        "spec.loader.exec_module(module)\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "print(*module.create_frozen(sys.argv[2], 10))\n"
    )
    command = [sys.executable, "-c", program, __file__, str(tmp_path)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(2)]
    for process in processes:
        assert process.stdout and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    ids = [name for process in processes for name in process.communicate(timeout=60)[0].split()]
    assert len(ids) == len(set(ids)) == 20
    assert len(list_runs(tmp_path)) == 20


def test_label_that_would_leave_the_folder(make_run: MakeRun, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"label: expected .* found '\.\./x'"):
        make_run(label="../x")
    assert not (tmp_path / "output").exists()


def test_output_dir_that_is_a_file(make_run: MakeRun, tmp_path: Path) -> None:
    (tmp_path / "output").write_text("a file")
    with pytest.raises(UserError, match=r"output_dir: .*output.*Set output_dir to a folder"):
        make_run()


def test_read_only_output_dir(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(UserError, match=r"task-type=embedding: Read-only file system\. Set output_dir"):
        make_run()


def full_disk(path: Path, text: str) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_full_disk_leaves_no_folder(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "write_text", full_disk)
    with pytest.raises(UserError, match=r"task-type=embedding.*No space left.*Free space there"):
        make_run()
    assert not list((tmp_path / "output" / "task-type=embedding").iterdir())


def test_full_disk_in_an_update_keeps_record_and_memory(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run()
    before = on_disk(run)
    monkeypatch.setattr(stored, "write_text", full_disk)
    with pytest.raises(UserError, match="Free space"):
        run.update(metrics={"loss": 1.0})
    assert on_disk(run) == run.record == before


def test_update_replaces_what_is_given(make_run: MakeRun) -> None:
    run = make_run()
    run.update(metrics={"loss": 1.0, "old": 2.0})
    run.update(
        data=[{"rows": 3, "source": "https://u:p@h/a"}], metrics={"loss": float("nan")}, exports={"a": "b"}
    )
    run.update(evaluation_inputs={"eval_prompts": "a"})
    run.update(evaluation_inputs={})
    assert run.record["evaluation_inputs"] == {}, "replaced, and none is said too"
    assert on_disk(run) == run.record
    assert run.record["metrics"] == {"loss": None, "old": 2.0}
    assert run.record["data"] == [{"rows": 3, "source": "https://h/a"}]
    assert run.record["exports"] == {"a": "b"}
    assert "NaN" not in (run.folder / "run.json").read_text()


@pytest.mark.parametrize("state", ["finished", "failed", "interrupted"])
def test_end(make_run: MakeRun, state: Any) -> None:
    run = make_run()
    run.end(state, "no route to https://user:pass@host/")
    again = Run.open(run.folder)
    assert again.state == state
    assert again.record["error"] == "no route to https://host/"
    assert again.record["ended"] == again.record["sessions"][-1]["ended"] >= again.record["created"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{", "expected JSON"),
        ('{"a": "\xff', "expected JSON"),
        ("[]", "found other JSON"),
        ('{"schema": 1}', "found other JSON"),
        ('{"schema": "1"}', "found other JSON"),
        ('{"schema": 2}', "upgrade swift-core"),
    ],
)
def test_unreadable_record(make_run: MakeRun, tmp_path: Path, text: str, found: str) -> None:
    run, other = make_run(), make_run()
    (run.folder / "run.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=found) as caught:
        Run.open(run.folder)
    assert str(run.folder / "run.json") in str(caught.value)
    assert [listed.id for listed in list_runs(tmp_path / "output")] == [other.id]


@pytest.mark.parametrize("field", ["run_id", "label", "state", "created", "options", "sessions"])
def test_record_without_a_field(make_run: MakeRun, field: str) -> None:
    run = make_run()
    (run.folder / "run.json").write_text(json.dumps({**run.record, field: None}))
    with pytest.raises(UserError, match="found other JSON"):
        Run.open(run.folder)


def test_no_run_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        Run.open(tmp_path / "missing")
    with pytest.raises(UserError, match="a folder without one"):
        Run.open(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="no such folder"):
        Run.open(tmp_path / "file")


def test_runs_are_listed_newest_first(make_run: MakeRun, tmp_path: Path) -> None:
    assert list_runs(tmp_path / "output") == []
    names = [make_run(label=label, run_name=label).id for label in ("reranker", "dpo", "embedding")]
    (tmp_path / "output" / "task-type=dpo" / "just-made").mkdir()
    assert [run.id for run in list_runs(tmp_path / "output")] == names[::-1]


def test_importing_the_record_imports_no_torch() -> None:
    program = (
        "import sys, swift_core.runs.record, swift_core.tracking\n"
        "print({'torch', 'transformers', 'numpy'} & set(sys.modules))"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout == "set()\n"
