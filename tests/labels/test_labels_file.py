"""Reading a labels file: what it may hold, and every fault at once with its line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from swift_core import UserError
from swift_core.labels.schema import labels_schema
from swift_core.labels.toml_lines import line_numbers

WHOLE = """\
[policy]
mode = "warn"
approvers = ["platform"]

[groups]
speed = ["ann", "bob"]
platform = ["cem", "ann"]

[labels.speed-curve]
extends = "line-fitting"
description = "Speed by time"
status = "approved"
owners = ["speed", "platform"]
defaults = { learning_rate = 0.05 }
pool = "a100"
baseline = "20261120-101010"
gates = [
    "mse <= 0.01",
    "mse <= baseline + 1 %",
]
former = ["velocity"]
proposal = { by = "bob", when = 2026-11-20, why = "asked for" }

[labels.speed-curve.fixed]
seed = 1

[labels.speed-curve.approval]
by = "cem"
when = "2026-11-21"
why = "it pays"
"""


def test_a_whole_file_is_read(read):
    labels = read(WHOLE)
    label = labels.labels["speed-curve"]
    assert label.members == ("ann", "bob", "cem")
    assert (label.fixed, label.pool, label.approval.by) == ({"seed": 1}, "a100", "cem")
    assert (labels.policy.mode, labels.policy.plain_task_types) == ("warn", True)
    assert labels.named("velocity") is labels.named("speed-curve") is label
    assert labels.named("speed") is None


def test_a_file_that_says_nothing_enforces_nothing_wrong(read):
    labels = read("")
    assert (labels.labels, labels.policy.mode) == ({}, "enforce")


FAULTY = """\
polcy = 1
[policy]
mode = "strict"
approvers = ["platform", "nobody"]

[groups]
platform = "ann"

[labels.Speed]
extends = "line-fitting"

[labels.a]
descripton = "x"
owners = "platform"

[labels.embedding]
extends = "embedding"

[labels.b]
extends = "line-fitting"
owners = ["platfrom"]
gates = ["mse = 1", "mse <= 1", "mse <= baseline"]
former = ["a"]
approval = { by = "ann", when = 2026-11-20 }
proposal = "ann"

[labels.b.defaults]
hub_token = "secret"
trust_remote_code = true
run_name = "x"
seed = 1

[labels.b.fixed]
seed = 2
allow_pickle = false

[labels.c]
extends = "line-fitting"
gates = ["mse = 1", "mse <= baseline"]
former = ["a"]
owners = ["platfrom"]
approval = { by = "ann", when = 2026-11-20 }
[labels.c.defaults]
hub_token = "secret"
trust_remote_code = true
run_name = "x"
seed = 1
[labels.c.fixed]
seed = 2
allow_pickle = false
"""


def test_all_faults_are_told_at_once_with_their_lines_in_order(read):
    with pytest.raises(UserError) as caught:
        read(FAULTY)
    expected = [
        (1, "there is no table [polcy]. Did you mean 'policy'? Tables: labels, groups, policy"),
        (3, "policy: mode: expected one of off, warn, enforce, found 'strict' (text)"),
        (4, "approvers: there is no group 'nobody'. Groups: platform"),
        (7, "group 'platform': expected a list of names, found 'ann'"),
        (9, "label 'Speed': expected lower-case words joined by '-', such as 'legal-ner'"),
        (12, "label 'a': extends is missing; name the task type that does the work"),
        (13, "label 'a': there is no field 'descripton'. Did you mean 'description'? Fields: extends,"),
        (14, "label 'a': owners: expected a list (each a text), found 'platform' (text)"),
        (16, "label 'embedding' has the name of a task type; choose another one"),
        (25, "label 'b': proposal: expected {by, when, why}, found 'ann'"),
        (39, "label 'c': gates: expected such as 'f1_macro >= 0.90', "),
        (39, "label 'c': gates: 'mse <= baseline' needs a baseline; set baseline to a run's id or folder"),
        (40, "label 'c': the name 'a' is also that of label 'a'"),
        (41, "owners: there is no group 'platfrom'. Did you mean 'platform'? Groups: platform"),
        (42, "label 'c': approval: why missing"),
        (44, "label 'c': defaults: hub_token is a secret, and this file is none; leave it to the run"),
        (45, "label 'c': defaults: trust_remote_code is for whoever starts a run to turn on"),
        (46, "label 'c': defaults: run_name is the run's own; leave it out"),
        (47, "label 'c': defaults: seed is in fixed too; keep one"),
    ]
    told = caught.value.faults
    assert len(told) == len(expected), told
    for fault, (line, text) in zip(told, expected, strict=True):
        assert fault.startswith(f"labels.toml:{line}: {text}"), fault


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[labels.x]\nextends = line\n", "labels.toml:2: not valid TOML: "),
        ("[labels.x]\nextends = 'a'\n[labels.x]\n", "labels.toml:3: not valid TOML: Cannot declare"),
        ("labels = 3\n", "labels.toml:1: labels: expected a table [labels], found int"),
        ("[labels]\nx = 3\n", "labels.toml:2: label 'x': expected a table [labels.x], found int"),
    ],
)
def test_what_is_no_labels_file_is_told_with_its_line(text: str, told: str, read):
    with pytest.raises(UserError) as caught:
        read(text)
    assert str(caught.value).startswith(told)


def test_lines_are_found_however_the_text_is_written():
    text = '# a\n\n[a]\nb = """\n[c]\nd = 1\n"""\n\n[a.e]  # x\nf.g = [\n  1, # ]\n]\n[[h]]\ni = { j = 2 }\n'
    assert line_numbers(text) == {
        ("a",): 3,
        ("a", "b"): 4,
        ("a", "e"): 9,
        ("a", "e", "f"): 10,
        ("a", "e", "f", "g"): 10,
        ("h",): 13,
        ("h", "i"): 14,
        ("h", "i", "j"): 14,
    }


# -- the JSON Schema --------------------------------------------------------------------------------------


def test_the_committed_schema_is_that_of_the_code():
    path = Path(__file__).parents[2] / "docs" / "labels.schema.json"
    assert json.loads(path.read_text()) == labels_schema(), (
        "run: swift labels schema > docs/labels.schema.json"
    )


def test_the_schema_takes_what_is_read_and_refuses_what_is_not():
    jsonschema = pytest.importorskip("jsonschema")
    import tomllib

    def faults(text: str) -> list[str]:
        content = json.loads(json.dumps(tomllib.loads(text), default=str))
        checker = jsonschema.Draft202012Validator(labels_schema())
        return sorted("/".join(map(str, fault.path)) for fault in checker.iter_errors(content))

    assert faults(WHOLE) == []
    assert faults("") == []
    assert faults('[policy]\nmode = "strict"\n[labels.Speed]\nextends = 3\nowner = []\n') == [
        "labels",
        "labels/Speed",
        "labels/Speed/extends",
        "policy/mode",
    ]
    assert faults("[labels.x]\n") == ["labels/x"]
