"""Retiring and renaming a label, and files whose lines end otherwise or hold what no terminal shows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest

from swift_core import UserError
from swift_core.labels import changes
from swift_core.labels.definitions import Labels

DAY = date(2026, 11, 25)
Read = Callable[[str], Labels]
FILE = """\
[policy]
approvers = ["platform"]

[groups]
platform = ["ann"]

[ labels . "speed" ]   # the first
extends = "line-fitting"
status = "approved"
former = ["pace", "velocity"]   # since May
approval = { by = "ann", when = 2026-11-20, why = "it pays" }

[labels.speed.defaults]
seed = 1

[labels.height]
extends = "line-fitting"
proposal = { by = "bob", when = 2026-11-20, why = "asked for" }

[labels.width]
extends = "line-fitting"
status = "retired"
approval = { by = "ann", when = 2026-11-20, why = "nobody used it" }
"""


def changed_lines(before: str, after: str) -> list[str]:
    told = changes.diff(before, after, "labels.toml").splitlines()[2:]
    return [line for line in told if line[0] in "+-"]


def rename(labels: Labels, name: str, new: str, by: str = "ann", why: str = "clearer") -> str:
    return changes.renamed(labels, name, new, by=by, when=DAY, why=why)


def retire(labels: Labels, name: str, by: str = "ann", why: str = "no use") -> str:
    return changes.retired(labels, name, by=by, when=DAY, why=why)


# -- retiring and renaming --------------------------------------------------------------------------------


def test_retiring_changes_the_status_and_says_who_and_why(read: Read):
    after = retire(read(FILE), "speed")
    was, told = ('"approved"', '"retired"'), ('20, why = "it pays"', '25, why = "no use"')
    assert after == FILE.replace(*was).replace(*told)
    assert read(after).labels["speed"].status == "retired"


def test_renaming_changes_each_of_its_tables_and_keeps_the_old_name(read: Read):
    after = rename(read(FILE), "speed", "speed-curve")
    assert changed_lines(FILE, after) == [
        '-[ labels . "speed" ]   # the first',
        "+[ labels . speed-curve ]   # the first",
        '-former = ["pace", "velocity"]   # since May',
        '-approval = { by = "ann", when = 2026-11-20, why = "it pays" }',
        '+former = ["pace", "velocity", "speed"]   # since May',
        '+approval = { by = "ann", when = 2026-11-25, why = "clearer" }',
        "-[labels.speed.defaults]",
        "+[labels.speed-curve.defaults]",
    ]
    labels = read(after)
    assert labels.named("speed") is labels.named("pace") is labels.labels["speed-curve"]
    assert labels.labels["speed-curve"].defaults == {"seed": 1}


def test_a_label_may_get_a_former_name_of_its_own_back(read: Read):
    again = read(rename(read(FILE), "speed", "pace")).labels["pace"]
    assert again.former == ["velocity", "speed"]


def test_a_proposed_label_is_renamed_by_anybody_and_proposed_again(read: Read):
    label = read(rename(read(FILE), "height", "level", by="eve")).labels["level"]
    assert (label.status, label.approval, label.former) == ("proposed", None, ["height"])
    assert (label.proposal.by, label.proposal.why) == ("eve", "clearer")


def faults_of(call: Callable[[], str]) -> tuple[str, ...]:
    with pytest.raises(UserError) as caught:
        call()
    return caught.value.faults


def test_all_that_is_wrong_with_a_retirement_is_told_at_once(read: Read):
    labels = read(FILE)
    assert faults_of(lambda: retire(labels, "sped", by="eve", why=" ")) == (
        "labels.toml: there is no label 'sped'. Did you mean 'speed'? Labels: speed, height, width",
        "labels.toml:2: labels are retired by ann, and you are 'eve'",
        "--why: expected the reason, in a sentence, found ' '",
    )
    assert faults_of(lambda: retire(labels, "width")) == (
        "labels.toml:20: label 'width' is retired already, by ann on 2026-11-20",
    )
    assert faults_of(lambda: retire(labels, "pace")) == ("labels.toml:7: label 'pace' is called 'speed' now",)


def test_all_that_is_wrong_with_a_new_name_is_told_at_once(read: Read):
    labels = read(FILE)
    told = faults_of(lambda: rename(labels, "speed", "speed-v2", by="eve", why=""))
    assert [fault.partition(":")[0] for fault in told] == ["NEW", "labels.toml", "--why"]
    assert "names a variant" in told[0] and "labels are renamed by ann" in told[1]
    for name, new, fault in (
        ("speed", "height", "labels.toml:16: there is a label 'height'; change it there"),
        ("height", "pace", "labels.toml:7: there is a label 'pace', which is called 'speed' now"),
        ("speed", "speed", "NEW: expected another name than 'speed'"),
        ("speed", "embedding", "NEW: label 'embedding' has the name of a task type"),
        ("width", "breadth", "labels.toml:20: label 'width' is retired and trains nothing"),
        ("pace", "pitch", "labels.toml:7: label 'pace' is called 'speed' now"),
    ):
        (only,) = faults_of(lambda name=name, new=new: rename(labels, name, new))  # type: ignore[misc]
        assert only.startswith(fault), only


@pytest.mark.parametrize(
    "text",
    [
        'labels = { x = { extends = "line-fitting" } }\n',
        'labels.x.extends = "line-fitting"\n',
        '[labels]\nx.extends = "line-fitting"\n',
    ],
)
def test_a_name_that_stands_elsewhere_too_is_left_to_the_reader(text: str, read: Read):
    with pytest.raises(UserError, match=r"labels\.toml: expected a table \[labels\.x\].* y by hand"):
        rename(read(text), "x", "y")


def test_runs_under_the_old_name_are_found_and_gone_on_with(cli, project: Path):
    (project / "labels.toml").write_text(
        '[labels.speed-curve]\nextends = "line-fitting"\n[policy]\nmode = "warn"\n'
    )
    assert cli("train run.yaml save_steps=1").code == 0
    (run,) = project.glob("output/*/*")
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "state": "interrupted"}))

    dry = cli("labels rename speed-curve velocity --why clearer --dry-run")
    assert dry.code == 0 and "+[labels.velocity]" in dry.out and "renamed" not in dry.err
    assert "[labels.speed-curve]" in (project / "labels.toml").read_text()
    done = cli("labels rename speed-curve velocity --why clearer")
    assert done.code == 0 and done.out == dry.out, done.err
    assert "run files say task_type: velocity" in done.err
    for name in ("velocity", "speed-curve"):
        assert [row["run_id"] for row in json.loads(cli(f"runs --task-type {name} --json").out)] == [run.name]
    assert "is called 'velocity' now" in cli("check run.yaml").err
    assert cli("train run.yaml task_type=velocity save_steps=1 --resume").code == 0
    assert json.loads((run / "run.json").read_text())["state"] == "finished"
    assert cli("labels check").code == 0


def test_a_retired_label_trains_no_more(cli, project: Path):
    (project / "labels.toml").write_text('[labels.speed-curve]\nextends = "line-fitting"\n')
    assert cli("labels retire speed-curve --why 'the shop closed'").code == 0
    done = cli("check run.yaml")
    assert done.code == 2 and "is retired (the shop closed); use another one" in done.err


# -- what is typed ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("why", ["''", "'  '"])
@pytest.mark.parametrize(
    "action", ["propose width --extends line-fitting", "approve height", "retire height"]
)
def test_a_blank_reason_is_none(action: str, why: str, cli, project: Path):
    text = '[labels.height]\nextends = "line-fitting"\n'
    (project / "labels.toml").write_text(text)
    done = cli(f"labels {action} --why {why}")
    assert (done.code, done.err) == (2, f"swift: --why: expected the reason, in a sentence, found {why}\n")
    assert done.out == "" and (project / "labels.toml").read_text() == text


def test_faults_of_a_proposal_are_told_at_once_without_lines_that_are_not_there(cli, project: Path):
    (project / "labels.toml").write_text('[labels.height]\nextends = "line-fitting"\n')
    done = cli("labels propose line-fitting --extends line-fitting --gate 'mse = 1' --owner us --why ' '")
    assert [line.split(": expected")[0] for line in done.err.splitlines()] == [
        "swift: NAME: label 'line-fitting' has the name of a task type; choose another one",
        "owners: there is no group 'us'. Groups: none",
        "label 'line-fitting': gates",
        "--why",
    ]


def test_bytes_that_are_no_text_are_told(project: Path):
    (project / "labels.toml").write_text('[labels.height]\nextends = "line-fitting"\n')
    words = [
        b"propose",
        b"width",
        b"--extends",
        b"line-fitting",
        b"--why",
        b"caf\xe9",
        b"--description",
        b"\xff",
    ]
    done = subprocess.run(
        [os.fsencode(sys.executable), b"-m", b"swift_core", b"labels", *words],
        capture_output=True,
        env={**os.environ, "PYTHONUTF8": "1"},
        check=False,
    )
    assert done.returncode == 2 and done.stdout == b""
    assert done.stderr.decode().splitlines() == [
        "swift: --description: expected UTF-8 text, found '\\udcff'; check the encoding of the terminal",
        "--why: expected UTF-8 text, found 'caf\\udce9'; check the encoding of the terminal",
    ]
