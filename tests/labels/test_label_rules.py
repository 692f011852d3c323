"""Names, and the one function that says whether somebody may train under a label."""

from __future__ import annotations

import dataclasses

import pytest

from swift_core.labels.definitions import Decision, Label, Policy
from swift_core.labels.names import name_fault
from swift_core.labels.policy import Identity, check_label, current_identity

ANN = Identity("ann", "token")
LABEL = Label(
    name="speed-curve",
    extends="line-fitting",
    status="approved",
    owners=["speed"],
    members=("ann", "bob"),
    fixed={"seed": 1, "start_slope": 2.0},
    approval=Decision(by="cem", when="2026-11-20", why="it pays"),
)


@pytest.mark.parametrize(
    "name",
    [
        "dpo",
        "product-classification",
        "legal-ner",
        "bge-m3-search",
        "sst2",
        "covid-19-triage",
        "a-test-case-sorter",
        "renewal",
        "finality",
        "v2x-signals",
    ],
)
def test_kinds_of_tasks_are_good_names(name: str):
    assert name_fault(name) is None


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("dpo-v2-new", "write task_type: dpo and run_name: v2-new"),
        ("dpo-final", "write task_type: dpo and run_name: final"),
        ("dpo-final2", "run_name: final2"),
        ("test2", "write run_name: test2"),
        ("test", "run_name: test"),
        ("dpo-test", "task_type: dpo and run_name: test"),
        ("dpo-copy", "run_name: copy"),
        ("copy-of-dpo", "run_name: copy"),
        ("my-dpo", "task_type: dpo and run_name: my"),
        ("dpo-20261124", "run_name: 20261124"),
        ("dpo-2026", "run_name: 2026"),
        ("dpo-202611", "run_name: 202611"),
        ("dpo-2", "task_type: dpo and run_name: 2"),
        ("dpo-old", "run_name: old"),
        ("dpo-tmp-a", "task_type: dpo-a and run_name: tmp"),
        ("CLS", "found 'CLS'; write cls"),
        ("DpoTask", "found 'DpoTask'; write dpo-task"),
        ("product_classification", "write product-classification"),
        ("dpo-", "write dpo"),
        ("", "expected lower-case words"),
        ("问答", "expected lower-case words"),
    ],
)
def test_variants_and_other_spellings_are_refused_with_what_to_write(name: str, advice: str):
    fault = name_fault(name)
    assert fault is not None and advice in fault, fault


def test_a_policy_may_allow_a_name_that_only_looks_like_a_variant():
    assert name_fault("new-york-addresses")
    assert name_fault("new-york-addresses", ["new-york-addresses"]) is None
    assert name_fault("DpoTask", ["DpoTask"]), "what can't be the name of a folder can't be allowed"


def rules(label: Label | str, identity: Identity = ANN, **given: object) -> list[str]:
    return [finding.rule for finding in check_label(label, identity, given, Policy())]


def test_an_owner_with_the_fixed_values_breaks_no_rule():
    assert rules(LABEL) == []
    assert rules(LABEL, seed=1, start_slope=2, other=3) == []


def test_each_rule_is_found():
    proposed = dataclasses.replace(LABEL, status="proposed")
    retired = dataclasses.replace(LABEL, status="retired")
    unsigned = dataclasses.replace(LABEL, approval=None)
    assert rules(proposed) == rules(retired) == rules(unsigned) == ["status"]
    assert rules(LABEL, Identity("eve")) == ["owner"]
    assert rules(dataclasses.replace(LABEL, owners=[], members=()), Identity("eve")) == []
    assert rules(LABEL, seed=2, start_slope=None) == ["fixed", "fixed"]
    assert rules(dataclasses.replace(LABEL, name="speed-v2")) == ["name"]
    assert rules("line-fitting") == [] and rules("line-v2") == ["name"]


def test_an_owner_group_without_members_lets_nobody_in():
    assert rules(dataclasses.replace(LABEL, members=())) == ["owner"]


def test_findings_say_who_which_and_both_values():
    found = check_label(LABEL, Identity("eve", "token"), {"seed": 2}, Policy())
    assert "'eve' (token) is in none of them; ask one of ann, bob" in found[0].message
    assert (found[1].option, found[1].message) == (
        "seed",
        "seed: label 'speed-curve' fixes it to 1, found 2; leave it out",
    )
    retired = dataclasses.replace(LABEL, status="retired")
    assert check_label(retired, ANN, {}, Policy())[0].message == (
        "label 'speed-curve' is retired (it pays); use another one"
    )


def test_the_policy_decides_what_is_looked_at():
    bad = dataclasses.replace(LABEL, status="proposed", name="speed-v2")
    assert check_label(bad, Identity("eve"), {"seed": 2}, Policy(mode="off")) == ()
    assert len(check_label(bad, Identity("eve"), {"seed": 2}, Policy(mode="warn"))) == 4
    strict = Policy(plain_task_types=False)
    assert [found.rule for found in check_label("line-fitting", ANN, {}, strict)] == ["unlabelled"]
    allowed = Policy(allowed_names=["speed-v2"])
    assert check_label(dataclasses.replace(LABEL, name="speed-v2"), ANN, {}, allowed) == ()


def test_the_identity_is_not_what_the_environment_says(monkeypatch: pytest.MonkeyPatch, me: str):
    for name in ("USER", "LOGNAME", "USERNAME"):
        monkeypatch.setenv(name, "ann")
    assert current_identity() == Identity(me, "os-user")
