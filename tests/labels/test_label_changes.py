"""Changes of a labels file: the lines that must change, and no others."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest

from swift_core import UserError
from swift_core.labels import changes

FILE = """\
# Ours.
[policy]
mode = "warn"   # soon: enforce
approvers = ["platform"]

[groups]
platform = ["ann", "ÖMER"]

[labels.b]   # the first
extends = "line-fitting"
status = 'proposed'   # since "May" # x
gates = [ # many
  "mse <= 1",
]

# the end of b

[labels.a]
extends = "line-fitting"
"""
DAY = date(2026, 11, 25)


def proposal(**changed: object) -> changes.Proposal:
    usual = {"name": "c", "extends": "line-fitting", "why": 'so "that"', "by": "ann", "when": DAY}
    return changes.Proposal(**(usual | changed))  # type: ignore[arg-type]


def test_a_proposal_is_appended_and_nothing_else_changes(read):
    labels = read(FILE)
    after = changes.proposed(
        labels, proposal(owners=["platform"], gates=["mse <= 1"], description="Tab\there")
    )
    assert after.startswith(FILE)
    assert after[len(FILE) :] == (
        '\n[labels.c]\nextends = "line-fitting"\ndescription = "Tab\\there"\nstatus = "proposed"\n'
        'owners = ["platform"]\ngates = ["mse <= 1"]\n'
        'proposal = { by = "ann", when = 2026-11-25, why = "so \\"that\\"" }\n'
    )
    label = read(after).labels["c"]
    assert (label.status, label.proposal.why, label.members) == ("proposed", 'so "that"', ("ann", "ÖMER"))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"name": "b"}, "labels.toml:9: there is a label 'b'"),
        ({"name": "dpo-v2"}, "NAME: 'dpo-v2' names a variant"),
        ({"name": "Dpo"}, "write dpo"),
        ({"name": "embedding"}, "has the name of a task type"),
        ({"owners": ["nobody"]}, "there is no group 'nobody'"),
        ({"gates": ["mse = 1"]}, "expected such as 'f1_macro >= 0.90'"),
    ],
)
def test_a_proposal_that_would_be_a_fault_is_refused(changed: dict[str, object], told: str, read):
    with pytest.raises(UserError) as caught:
        changes.proposed(read(FILE), proposal(**changed))
    assert told in str(caught.value)


def test_an_approval_changes_one_line_and_adds_one(read):
    labels = read(FILE)
    after = changes.approved(labels, "b", by="ÖMER", when=DAY, why="gut")
    told = changes.diff(FILE, after, "labels.toml").splitlines()
    assert [line for line in told if line[0] in "+-"] == [
        "--- a/labels.toml",
        "+++ b/labels.toml",
        "-status = 'proposed'   # since \"May\" # x",
        '+status = "approved"   # since "May" # x',
        '+approval = { by = "ÖMER", when = 2026-11-25, why = "gut" }',
    ]
    assert after.index("approval") < after.index("# the end of b")
    assert read(after).labels["b"].approval.by == "ÖMER"


def test_a_label_without_a_status_gets_one_behind_its_last_line(read):
    after = changes.approved(read(FILE.rstrip("\n")), "a", by="ann", when=DAY, why="good")
    assert after.endswith(
        'extends = "line-fitting"\nstatus = "approved"\n'
        'approval = { by = "ann", when = 2026-11-25, why = "good" }\n'
    )


def test_only_an_approver_approves_and_only_once(read):
    with pytest.raises(
        UserError, match=r"labels\.toml:4: labels are approved by ann, ÖMER, and you are 'eve'"
    ):
        changes.approved(read(FILE), "b", by="eve", when=DAY, why="x")
    after = read(changes.approved(read(FILE), "b", by="ann", when=DAY, why="x"))
    with pytest.raises(UserError, match="is approved already, by ann on 2026-11-25"):
        changes.approved(after, "b", by="ann", when=DAY, why="x")
    with pytest.raises(UserError, match=r"there is no label 'z'\. Labels: b, a"):
        changes.approved(read(FILE), "z", by="ann", when=DAY, why="x")


@pytest.mark.parametrize(
    "text",
    [
        'labels = { x = { extends = "line-fitting" } }\n',
        'labels.x.extends = "line-fitting"\n',
        '[labels]\nx.extends = "line-fitting"\n',
        '[labels]\nx = { extends = "line-fitting", status = "proposed" }\n',
        '[labels.x]\nextends = "line-fitting"\n[labels.x.approval]\nby = "a"\nwhen = "b"\nwhy = "c"\n',
    ],
)
def test_a_form_that_can_not_be_changed_in_one_line_is_left_to_the_reader(text: str, read):
    with pytest.raises(UserError, match="by hand"):
        changes.approved(read(text), "x", by="ann", when=DAY, why="x")


# -- the commands -----------------------------------------------------------------------------------------


def test_from_nothing_to_an_approved_label(cli, project: Path, me: str):
    assert "there is no labels.toml" in cli("labels list").err
    dry = cli("labels propose speed-curve --extends line-fitting --why 'they need it' --dry-run")
    assert dry.code == 0 and "+[labels.speed-curve]" in dry.out and not (project / "labels.toml").exists()
    done = cli("labels propose speed-curve --extends line-fitting --why 'they need it' --gate 'mse <= 9'")
    assert done.code == 0 and done.out.startswith("--- a/labels.toml\n+++ b/labels.toml\n"), done.err
    assert 'mode = "warn"' in (project / "labels.toml").read_text()
    assert "is proposed, not approved" in cli("check run.yaml").out
    assert cli("labels approve speed-curve --why 'seen it'").code == 0
    assert "warning" not in cli("check run.yaml").out
    shown = json.loads(cli("labels show speed-curve --json").out)
    assert (shown["status"], shown["approval"]["by"], shown["approval"]["why"]) == ("approved", me, "seen it")
    assert "approval     by=" in cli("labels show speed-curve").out
    assert "speed-curve  line-fitting  approved" in cli("labels list").out
    assert [row["name"] for row in json.loads(cli("labels list --json").out)] == ["speed-curve"]
    assert cli("labels check").out == "labels.toml: 1 labels, no fault found\n"


def test_a_file_in_the_home_folder_is_begun_and_gone_on_with(cli, project: Path, monkeypatch):
    monkeypatch.setenv("HOME", str(project / "home"))
    (project / "home").mkdir()
    for name in ("speed-curve", "price-curve"):
        done = cli(
            f"labels propose {name} --extends line-fitting --why 'they need it' --labels=~/labels.toml"
        )
        assert done.code == 0, done.err
    assert not (project / "~").exists()
    assert (project / "home/labels.toml").read_text().count("[labels.") == 2


def test_check_looks_at_each_label_and_its_options(cli, project: Path):
    (project / "labels.toml").write_text(
        '[policy]\napprovers = ["p"]\n[groups]\np = ["ann"]\n'
        '[labels.a-v2]\nextends = "line-fitting"\ndefaults = { start_slop = 1.0 }\n'
        '[labels.b]\nextends = "line-fiting"\nstatus = "approved"\n'
        '[labels.c]\nextends = "line-fitting"\nstatus = "approved"\n'
        'approval = { by = "eve", when = 2026-11-25, why = "x" }\n'
    )
    done = cli("labels check")
    assert done.code == 2
    for told in (
        "labels.toml:5: 'a-v2' names a variant",
        "labels.toml:7: label 'a-v2': there is no option 'start_slop'. Did you mean 'start_slope'?",
        "labels.toml:8: label 'b' is approved by nobody",
        "Did you mean 'line-fitting'?",
        "labels.toml:14: 'eve' is in none of the approvers' groups",
    ):
        assert told in done.err, done.err


WRONG = """\
[labels.speed-curve]
extends = "line-fitting"
defaults = { label_smoothing_factor = 0.1, start_slop = 1.0, extensions = { foo = {} } }
fixed = { do_train = true, export_formats = ["coeficients"] }
"""


def test_a_labels_values_are_checked_as_those_of_a_run_file(cli, project: Path):
    values = "label_smoothing_factor: 0.1\nstart_slop: 1.0\nextensions: { foo: {} }\n"
    (project / "wrong.yaml").write_text(
        f"task_type: line-fitting\n{values}do_train: true\nexport_formats: [coeficients]\n"
    )
    of_run = cli("check wrong.yaml").err.removeprefix("swift: ").splitlines()
    told = [line.split(": ", 1)[1] for line in of_run]
    assert len(told) == 5 and any("has no effect here" in line for line in told)

    (project / "labels.toml").write_text(WRONG)
    places = ["labels.toml:3"] * 3 + ["labels.toml:4"] * 2
    expected = [f"{place}: label 'speed-curve': {fault}" for place, fault in zip(places, told, strict=True)]
    for command in ("labels check", "check run.yaml"):
        done = cli(command)
        assert done.code == 2 and done.err.removeprefix("swift: ").splitlines() == expected, command
    # What a run gives itself, the label does not give it.
    run = cli("check run.yaml label_smoothing_factor=0.2")
    assert run.err.startswith("swift: command line: label_smoothing_factor: has no effect here")
    assert run.err.count("has no effect here: the task's own loss") == 1


def test_check_notes_a_gate_on_a_metric_that_the_task_does_not_declare(cli, project: Path):
    (project / "labels.toml").write_text('[labels.a]\nextends = "line-fitting"\ngates = ["msee <= 1"]\n')
    done = cli("labels check")
    assert done.code == 0
    assert "line-fitting does not declare the metric 'msee'. Did you mean 'mse'?" in done.out


def test_an_unknown_label_or_action_is_told(cli, project: Path):
    (project / "labels.toml").write_text('[labels.speed]\nextends = "line-fitting"\n')
    assert "Did you mean 'speed'?" in cli("labels show sped").err
    assert "expected one of list, show, check" in cli("labels").err
