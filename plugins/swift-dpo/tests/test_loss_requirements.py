"""What a loss does not read is refused; the docs say what it reads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from swift_core.options import options_of
from swift_dpo import losses
from swift_dpo.options import (
    CpoLoss,
    CpoOptions,
    DpoLoss,
    DpoOptions,
    KtoLoss,
    KtoOptions,
    OrpoOptions,
    SimpoOptions,
)
from swift_dpo.requirements import (
    CPO_USES,
    KTO_USES,
    USES,
    cpo_column_faults,
    cpo_faults,
    dpo_column_faults,
    dpo_faults,
    kto_column_faults,
    kto_faults,
    orpo_column_faults,
    simpo_column_faults,
)

DOCS = Path(__file__).parents[3] / "docs" / "preference-losses.md"
APART = {"loss", "loss_weights"}
TABLES = {"dpo": (USES, DpoOptions), "cpo": (CPO_USES, CpoOptions), "kto": (KTO_USES, KtoOptions)}


def test_every_loss_and_every_option_has_its_place() -> None:
    assert set(USES) == set(get_args(DpoLoss))
    assert set(CPO_USES) == set(get_args(CpoLoss))
    assert set(KTO_USES) == set(get_args(KtoLoss))
    for uses, options in TABLES.values():
        assert frozenset().union(*uses.values()) == set(options.__annotations__) - APART


def test_an_option_that_the_loss_does_not_read_is_refused_and_told_who_does() -> None:
    (fault,) = dpo_faults(DpoOptions(loss="hinge", label_smoothing=0.1), ["loss", "label_smoothing"])
    assert fault.startswith("label_smoothing: has no effect with loss hinge")
    assert "sigmoid, sigmoid_norm, robust, exo_pair, aot, aot_unpaired" in fault
    (fault,) = dpo_faults(DpoOptions(discopop_tau=0.1), ["discopop_tau"])
    assert fault.endswith("choose a loss that reads it: discopop")
    (fault,) = cpo_faults(CpoOptions(loss="ipo", constraint_weight=1.0), ["loss", "constraint_weight"])
    assert fault.endswith("sigmoid, hinge")


def test_a_choice_of_pairs_is_refused_where_there_are_none() -> None:
    (fault,) = kto_faults(KtoOptions(pairs="best_worst"), ["pairs", "beta"])
    assert fault.startswith("pairs: has no effect in kto")
    assert kto_faults(KtoOptions(), ["beta"]) == []


def test_options_that_are_read_are_fine() -> None:
    for name, read in USES.items():
        given = read - {"f_alpha"}
        assert dpo_faults(DpoOptions(loss=name), given) == []  # type: ignore[arg-type]
    mixture = DpoOptions(
        loss=["sigmoid", "bco_pair", "sft"], loss_weights=[0.8, 0.2, 1.0], label_smoothing=0.1
    )
    assert dpo_faults(mixture, ["loss", "loss_weights", "beta", "label_smoothing"]) == []
    assert dpo_faults(DpoOptions(loss=["sigmoid", "sft"], wpo=True), ["loss", "wpo"]) == []


def test_what_changes_a_pair_must_be_read_by_all_losses_of_a_mixture() -> None:
    options = DpoOptions(loss=["sigmoid", "aot", "sft"], wpo=True, f_divergence="forward_kl")
    faults = dpo_faults(options, ["wpo", "f_divergence"])
    assert [fault.split(":")[0] for fault in faults] == ["f_divergence", "wpo"]
    assert all("found aot, which does not" in fault for fault in faults)


def test_all_faults_are_told_at_once() -> None:
    options = DpoOptions(
        loss=["exo_pair", "exo_pair", "sft"],
        loss_weights=[1.0],
        f_alpha=0.3,
        label_smoothing=0.0,
        ld_alpha=0.5,
    )
    faults = dpo_faults(options, ["loss", "loss_weights", "f_alpha", "label_smoothing", "ld_alpha"])
    assert [fault.split(":")[0] for fault in faults] == [
        "loss",
        "loss_weights",
        "f_alpha",
        "label_smoothing",
        "ld_alpha",
    ]


def test_columns_that_nothing_reads_are_refused() -> None:
    assert dpo_column_faults(DpoOptions(), ["margin", "weight"]) == []
    assert len(dpo_column_faults(DpoOptions(loss=["ipo", "sft"]), ["margin"])) == 1
    assert len(dpo_column_faults(DpoOptions(loss="aot"), ["weight", "violations"])) == 2
    assert cpo_column_faults(CpoOptions(constraint_weight=1.0), ["violations", "margin"]) == []
    assert simpo_column_faults(SimpoOptions(), ["margin", "weight"]) == []
    assert len(orpo_column_faults(OrpoOptions(), ["margin", "weight", "violations"])) == 2
    assert len(kto_column_faults(KtoOptions(), ["margin", "weight", "violations"])) == 2
    assert cpo_column_faults(CpoOptions(), ["violations"])[0].startswith("violations: have no effect")
    assert cpo_column_faults(CpoOptions(constraint_weight=1.0), [])[0].startswith(
        "constraint_weight: expected"
    )


def test_options_say_what_their_loss_needs() -> None:
    assert not DpoOptions().needs_token_counts and DpoOptions(loss=["ipo", "sft"]).needs_token_counts
    assert DpoOptions(wpo=True).needs_confidence
    assert CpoOptions().needs_token_counts and not CpoOptions(bc_weight=0.0).needs_token_counts
    assert not SimpoOptions().needs_token_counts
    assert KtoOptions().needs_unrelated and not KtoOptions(loss="apo_zero_unpaired").needs_unrelated


def test_one_loss_or_a_list_may_be_given() -> None:
    option = options_of(DpoOptions, "task")["loss"]
    assert option.fault("ipo") is None and option.fault(["sigmoid", "sft"]) is None
    for wrong in ("dpo", [], ["sigmoid", "nonsense"]):
        assert option.fault(wrong)


@pytest.mark.parametrize("task", list(TABLES))
def test_the_docs_say_what_each_loss_reads(task: str) -> None:
    uses, _ = TABLES[task]
    text = DOCS.read_text(encoding="utf-8")
    section = re.split(r"^## ", text, flags=re.MULTILINE)
    (table,) = [part for part in section if part.startswith(f"Losses of {task}")]
    found = {}
    for row in re.findall(r"^\| `(\w+)` \|(.*)\|$", table, flags=re.MULTILINE):
        found[row[0]] = set(re.findall(r"`(\w+)`", row[1].split("|")[-1]))
    assert found == {name: set(read) for name, read in uses.items()}


def test_a_run_of_options_that_nothing_reads_is_told_of_each() -> None:
    options = DpoOptions(loss="nca_pair", f_divergence="forward_kl", target_margin=1.0)
    faults = dpo_faults(options, ["loss", "f_divergence", "target_margin", "beta"])
    assert [fault.split(":")[0] for fault in faults] == ["f_divergence", "target_margin"]


def test_each_pair_loss_cites_its_paper() -> None:
    for name in set(USES) - {"sigmoid_norm", "sft"}:
        doc = getattr(losses, name).__doc__
        assert re.search(r"\d{4}|same paper|paper of", doc), name
