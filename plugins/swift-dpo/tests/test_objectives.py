"""What the loss of a batch is made of: weights, margins, means, constraints, baselines and figures."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, multiprocessing

from swift_dpo.answers import Answers
from swift_dpo.constraint import judged_scores
from swift_dpo.objectives import cpo_loss, dpo_loss, kto_loss, orpo_loss, simpo_loss
from swift_dpo.options import CpoOptions, DpoOptions, KtoOptions, OrpoOptions, SimpoOptions
from swift_dpo.running import Running, RunningMean, batch_beta

LOGPS = [-10.0, -14.0, -9.0, -30.0, -21.0, -8.0]
REFERENCE = [-11.0, -13.0, -12.0, -28.0, -20.0, -9.0]
TOKENS = [5.0, 7.0, 4.0, 12.0, 7.0, 7.0]
PAIRED = {"dpo": (dpo_loss, DpoOptions(loss=["sigmoid", "sft"])), "cpo": (cpo_loss, CpoOptions())} | {
    "simpo": (simpo_loss, SimpoOptions(bc_weight=0.5)),
    "orpo": (orpo_loss, OrpoOptions()),
}


def answers(places: list[int] | None = None) -> Answers:
    places = list(range(6)) if places is None else places
    logps = torch.tensor(LOGPS)[places].requires_grad_()
    return Answers(
        logps=logps, tokens=torch.tensor(TOKENS)[places], reference=torch.tensor(REFERENCE)[places]
    )


def batch(count: int = 3, **changes: Any) -> dict[str, Any]:
    """Pairs of an answer and the one ``count`` places on."""
    better = torch.arange(count)
    made = {
        "better": better,
        "worse": better + count,
        "margin": torch.zeros(count),
        "pair_weight": torch.ones(count),
        "num_items": (count, int(sum(TOKENS[:count]))),
    }
    return {**made, **changes}


def sigmoid_loss(z: float) -> float:
    return math.log1p(math.exp(-z))


def differences(beta: float) -> list[float]:
    u = [a - b for a, b in zip(LOGPS, REFERENCE, strict=True)]
    return [beta * (u[i] - u[i + 3]) for i in range(3)]


def test_a_weight_multiplies_its_pair_and_does_not_change_their_number() -> None:
    weights = [0.0, 2.0, 0.5]
    mine = dpo_loss(answers(), batch(pair_weight=torch.tensor(weights)), DpoOptions(beta=0.3)).loss
    expected = sum(w * sigmoid_loss(z) for w, z in zip(weights, differences(0.3), strict=True)) / 3
    assert float(mine.detach()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", ["sigmoid", "hinge", "sigmoid_norm", "robust", "exo_pair", "discopop"])
def test_margins_of_rows_and_of_the_run_raise_what_is_asked_of_the_better_answer(loss: Any) -> None:
    plain = dpo_loss(answers(), batch(), DpoOptions(loss=loss, target_margin=0.5)).loss
    rows = dpo_loss(answers(), batch(margin=torch.full((3,), 0.5)), DpoOptions(loss=loss)).loss
    none = dpo_loss(answers(), batch(), DpoOptions(loss=loss)).loss
    torch.testing.assert_close(plain, rows)
    assert float(plain.detach()) != pytest.approx(float(none.detach()), rel=1e-3)


def test_a_margin_is_taken_from_the_logit() -> None:
    mine = dpo_loss(answers(), batch(), DpoOptions(beta=0.3, target_margin=0.5)).loss
    expected = sum(sigmoid_loss(z - 0.5) for z in differences(0.3)) / 3
    assert float(mine.detach()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("task", list(PAIRED))
def test_two_batches_weighed_by_their_counts_have_the_gradient_of_the_whole(task: str) -> None:
    loss, options = PAIRED[task]

    def gradient(parts: list[list[int]]) -> Tensor:
        """d(loss of all pairs)/d(log-probabilities), computed in parts as the core adds them up."""
        whole = torch.zeros(6)
        counts = torch.tensor([3.0, sum(TOKENS[:3])])
        for part in parts:
            given = answers([*part, *[i + 3 for i in part]])
            own = batch(len(part), num_items=(len(part), int(sum(TOKENS[i] for i in part))))
            out = loss(given, own, options).loss  # type: ignore[operator]
            assert out.shape == (2,)
            share = torch.tensor(own["num_items"]) / counts
            (got,) = torch.autograd.grad((out * share).sum(), given.logps)
            whole[[*part, *[i + 3 for i in part]]] += got
        return whole

    torch.testing.assert_close(gradient([[0, 1, 2]]), gradient([[2], [0, 1]]))


def test_a_batch_without_pairs_gives_no_loss_and_no_nan() -> None:
    empty = torch.empty(0, dtype=torch.int64)
    nothing = batch(
        better=empty, worse=empty, margin=torch.empty(0), pair_weight=torch.empty(0), num_items=(0, 0)
    )
    for loss, options in PAIRED.values():
        output = loss(answers(), nothing, options)  # type: ignore[operator]
        assert float(output.loss.detach().sum()) == 0
        assert all(torch.as_tensor(figure).isfinite().all() for figure in output.metrics.values())


def test_safety_is_weighed_against_quality() -> None:
    assert judged_scores([1, 0], [0.8, 0.0], constraint_weight=1.0) == pytest.approx([0.2, 0.0])
    better, worse = judged_scores([1, 0], [0.8, 0.0], constraint_weight=2.0)
    assert worse > better
    assert judged_scores([1, 0], None, constraint_weight=2.0) == [1, 0]
    assert judged_scores([1, 0], [5, 0], constraint_weight=None) == [1, 0]


def test_the_safer_answer_is_to_win_by_more() -> None:
    options = CpoOptions(beta=0.1, constraint_weight=2.0, bc_weight=0.0)
    violations = torch.tensor([0.0, 0.3, 1.0, 0.5, 0.3, 0.0])
    output = cpo_loss(replace(answers(), reference=None), batch(violations=violations), options)
    margins = [2.0 * (0.5 - 0.0), 0.0, 2.0 * (0.0 - 1.0)]
    z = [0.1 * (LOGPS[i] - LOGPS[i + 3]) for i in range(3)]
    expected = sum(sigmoid_loss(a - m) for a, m in zip(z, margins, strict=True)) / 3
    assert float(output.loss.detach()) == pytest.approx(expected, rel=1e-5)
    assert float(output.metrics["violations/chosen"]) == pytest.approx(1.3 / 3)


def test_beta_follows_margins_and_stays_above_zero() -> None:
    beta = batch_beta(0.1, torch.tensor(1.5), torch.tensor(1.0), alpha=0.6)
    assert float(beta) == pytest.approx(0.1 * 1.3)
    assert float(batch_beta(0.1, torch.tensor(-9.0), torch.tensor(1.0), alpha=0.6)) == pytest.approx(1e-3)


def test_dynamic_beta_compares_with_earlier_batches_of_training() -> None:
    running, options = Running(), DpoOptions(dynamic_beta=0.6, beta=0.3)
    first = dpo_loss(answers(), batch(), options, running=running)
    assert float(first.metrics["beta"]) == pytest.approx(0.3)
    margin = sum(differences(0.3)) / 3
    assert running.margin.value is not None and float(running.margin.value) == pytest.approx(margin, rel=1e-5)
    running.margin.value = torch.tensor(margin - 0.5)
    with torch.no_grad():
        measured = replace(answers(), logps=torch.tensor(LOGPS))
        second = dpo_loss(measured, batch(), options, running=running)
    assert float(second.metrics["beta"]) == pytest.approx(0.3 * (1 + 0.6 * 0.5), rel=1e-4)
    assert float(running.margin.value) == pytest.approx(margin - 0.5)


def test_bco_is_shifted_by_rewards_of_the_run() -> None:
    running = Running(reward=RunningMean(torch.tensor(1.0)))
    mine = dpo_loss(answers(), batch(), DpoOptions(loss="bco_pair", beta=0.3), running=running).loss
    r = [0.3 * (a - b) for a, b in zip(LOGPS, REFERENCE, strict=True)]
    shift = 0.9 * 1.0 + 0.1 * sum(r) / 6
    expected = sum(sigmoid_loss(r[i] - shift) + sigmoid_loss(shift - r[i + 3]) for i in range(3)) / 3
    assert float(mine.detach()) == pytest.approx(expected, rel=1e-5)


def test_the_likelihood_weighs_rows_and_counts_all_their_tokens() -> None:
    options = CpoOptions(bc_weight=0.5)
    output = cpo_loss(answers(), batch(pair_weight=torch.tensor([0.0, 2.0, 1.0])), options)
    expected = (2 * 14 + 9) / 16
    assert float(output.loss[1].detach()) == pytest.approx(0.5 * expected)
    assert torch.as_tensor(output.metrics["nll_loss"]).tolist() == [2 * 14 + 9, 16]


def test_smoothing_has_a_default_of_its_own_where_none_would_change_the_loss() -> None:
    for name, value in {"robust": 0.1, "exo_pair": 0.001, "sigmoid": 0.0}.items():
        given: Any = {"loss": name, "beta": 0.3}
        plain = dpo_loss(answers(), batch(), DpoOptions(**given)).loss
        smoothed = dpo_loss(answers(), batch(), DpoOptions(**given, label_smoothing=value)).loss
        torch.testing.assert_close(plain, smoothed)


def test_the_baseline_of_kto_is_at_least_0() -> None:
    given = {
        "scores": torch.ones(6),
        "unrelated": torch.tensor([3, 4, 5]),
        "pair_weight": torch.ones(3),
        "num_items": 3,
    }
    assert sum(LOGPS[3:]) < sum(REFERENCE[3:])
    assert float(kto_loss(answers(), given, KtoOptions()).metrics["kl"]) == 0


def test_wpo_without_confidence_is_refused() -> None:
    with pytest.raises(ValueError, match="confidence"):
        dpo_loss(answers(), batch(), DpoOptions(wpo=True))


def test_kto_without_answers_to_other_prompts_is_refused() -> None:
    with pytest.raises(ValueError, match="other prompts"):
        kto_loss(answers(), {"scores": torch.ones(6)}, KtoOptions())


def test_figures_tell_length_bias_and_drift() -> None:
    figures = dpo_loss(answers(), batch(), DpoOptions(beta=0.5)).metrics
    right = [z > 0 for z in differences(0.5)]
    # Tokens: 5 against 12, 7 against 7, 4 against 7.
    assert torch.as_tensor(figures["rewards/accuracies_longer"]).tolist() == [0, 0]
    assert torch.as_tensor(figures["rewards/accuracies_shorter"]).tolist() == [right[0] + right[2], 2]
    assert float(figures["kl/chosen"]) == pytest.approx(3 / 3)
    assert float(figures["kl_token/rejected"]) == pytest.approx((-2 / 12 - 1 / 7 + 1 / 7) / 3)
    assert "nll_loss" not in figures and "logits/chosen" not in figures


def test_kto_figures_leave_out_answers_to_other_prompts() -> None:
    scores = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0, 0.0])
    weight = torch.tensor([1.0, 3.0, 0.5, 0.0])
    given = {
        "scores": scores,
        "unrelated": torch.tensor([4, 5]),
        "pair_weight": weight,
        "num_items": 4,
    }
    output = kto_loss(answers(), given, KtoOptions(beta=0.5))
    assert torch.as_tensor(output.metrics["rewards/chosen"]).tolist() == [0.5 * (1 + 3), 2]
    assert torch.as_tensor(output.metrics["logps/rejected"]).tolist() == [-44, 2]
    # The mean log-ratio of the last two is 0.
    assert float(output.metrics["kl"]) == 0
    gains = [0.5 * (a - b) for a, b in zip(LOGPS[:4], REFERENCE[:4], strict=True)]
    signs = (-1, 1, -1, 1)
    each = [1 / (1 + math.exp(-sign * gain)) for sign, gain in zip(signs, gains, strict=True)]
    expected = sum(w * loss for w, loss in zip(weight.tolist(), each, strict=True)) / 4
    assert float(output.loss.detach()) == pytest.approx(expected, rel=1e-5)


def _baseline(rank: int, store: str, results: Any) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    own = [0, 1, 2] if rank == 0 else [3, 4, 5, 0]
    given = {
        "scores": torch.ones(len(own)),
        "unrelated": torch.arange(1, len(own)),
        "pair_weight": torch.ones(1),
        "num_items": 1,
    }
    results[rank] = float(kto_loss(answers(own), given, KtoOptions()).metrics["kl"])
    distributed.destroy_process_group()


def test_the_baseline_of_kto_is_that_of_all_processes(tmp_path: Path) -> None:
    with multiprocessing.Manager() as manager:
        results = manager.dict()
        multiprocessing.spawn(_baseline, (str(tmp_path / "store"), results), nprocs=2)  # type: ignore[no-untyped-call]
        u = [a - b for a, b in zip(LOGPS, REFERENCE, strict=True)]
        expected = max(0.0, sum(u[i] for i in (1, 2, 4, 5, 0)) / 5)
        assert expected == pytest.approx(0.6)
        assert dict(results) == pytest.approx({0: expected, 1: expected})
