"""Losses equal formulas of papers in float64 where TRL lacks or bends them, and bear extremes."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from swift_dpo import losses
from swift_dpo.f_divergences import reward
from swift_dpo.odds import log_odds_ratio
from swift_dpo.unpaired import kto

BETTER = [0.7, -1.3, 4.0, -0.2]
WORSE = [-0.4, 0.9, 1.0, -2.5]

OF_LOGITS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": partial(losses.sigmoid, label_smoothing=0.1),
    "hinge": losses.hinge,
    "ipo": partial(losses.ipo, beta=0.1),
    "robust": losses.robust,
    "exo_pair": losses.exo_pair,
    "discopop": losses.discopop,
    "discopop, tau 1": partial(losses.discopop, tau=1.0),
}
OF_ANSWERS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "nca_pair": partial(losses.nca_pair, beta=0.1),
    "bco_pair": partial(losses.bco_pair, beta=0.1, shift=3.0),
    "sppo_hard": partial(losses.sppo_hard, beta=0.1),
    "aot": partial(losses.aot, beta=0.1),
    "aot_unpaired": partial(losses.aot_unpaired, beta=0.1, label_smoothing=0.1),
    "apo_zero": partial(losses.apo_zero, beta=0.1),
    "apo_down": partial(losses.apo_down, beta=0.1),
    "forward_kl": lambda w, x: losses.sigmoid(reward(w, "forward_kl") - reward(x, "forward_kl")),
    "js_divergence": lambda w, x: losses.sigmoid(reward(w, "js_divergence") - reward(x, "js_divergence")),
    "alpha_divergence": lambda w, x: losses.hinge(
        reward(w, "alpha_divergence", alpha=0.3) - reward(x, "alpha_divergence", alpha=2.0)
    ),
    "kto": lambda w, x: kto(w, x > 0, beta=0.1, baseline=torch.tensor(2.0)),
    "log_odds_ratio": lambda w, x: log_odds_ratio(-w.abs(), -x.abs()),
}


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def assert_equal(losses_: Tensor, expected: list[float]) -> None:
    torch.testing.assert_close(
        losses_.double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_smoothed_sigmoid_is_the_expectation_over_labels(smoothing: float) -> None:
    expected = [-(1 - smoothing) * math.log(sigma(z)) - smoothing * math.log(sigma(-z)) for z in BETTER]
    assert_equal(losses.sigmoid(torch.tensor(BETTER), label_smoothing=smoothing), expected)


def test_robust_undoes_the_noise_in_expectation() -> None:
    z, noise = torch.tensor(BETTER), 0.2
    noisy = (1 - noise) * losses.robust(z, label_smoothing=noise) + noise * losses.robust(
        -z, label_smoothing=noise
    )
    torch.testing.assert_close(noisy, losses.sigmoid(z))


def test_bco_shifts_rewards_by_their_mean() -> None:
    beta = 0.3
    shift = sum(beta * (w + x) / 2 for w, x in zip(BETTER, WORSE, strict=True)) / len(BETTER)
    expected = [
        -math.log(sigma(beta * w - shift)) - math.log(sigma(-(beta * x - shift)))
        for w, x in zip(BETTER, WORSE, strict=True)
    ]
    assert_equal(losses.bco_pair(torch.tensor(BETTER), torch.tensor(WORSE), beta=beta, shift=shift), expected)


def test_aot_compares_sorted_margins_whatever_the_order_of_pairs() -> None:
    policy, reference = torch.tensor(BETTER), torch.tensor(WORSE)
    expected = [-math.log(sigma(0.5 * (p - r))) for p, r in zip(sorted(BETTER), sorted(WORSE), strict=True)]
    assert_equal(losses.aot(policy, reference, beta=0.5), expected)
    assert_equal(losses.aot(policy.flip(0), reference, beta=0.5), expected)


def test_discopop_is_the_blend_of_its_paper() -> None:
    expected = [-math.log(sigma(z)) * (1 - sigma(z / 0.5)) + math.exp(-z) * sigma(z / 0.5) for z in BETTER]
    assert_equal(losses.discopop(torch.tensor(BETTER), tau=0.5), expected)


def test_rewards_of_f_divergences_are_the_derivative_of_f() -> None:
    u = torch.tensor(BETTER)
    assert_equal(reward(u, "reverse_kl"), BETTER)
    assert_equal(reward(u, "forward_kl"), [1 - 1 / math.exp(x) for x in BETTER])
    assert_equal(reward(u, "js_divergence"), [math.log(2 * math.exp(x) / (1 + math.exp(x))) for x in BETTER])
    expected = [(math.exp(x) ** (1.5 - 1) - 1) / (1.5 - 1) for x in BETTER]
    assert_equal(reward(u, "alpha_divergence", alpha=1.5), expected)
    assert_equal(reward(u, "alpha_divergence", alpha=1.0), BETTER)


def test_log_odds_are_those_of_the_mean_probability() -> None:
    better, worse = [-0.1, -1.0, -1e-5], [-0.5, -0.01, -7.0]
    expected = [
        math.log(math.exp(w) / (1 - math.exp(w))) - math.log(math.exp(x) / (1 - math.exp(x)))
        for w, x in zip(better, worse, strict=True)
    ]
    ratio = log_odds_ratio(torch.tensor(better), torch.tensor(worse))
    torch.testing.assert_close(
        ratio.double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-4, atol=1e-5
    )


def test_kto_weighs_gain_and_loss_apart() -> None:
    desirable = [True, False, True, False]
    expected = [
        1.5 * (1 - sigma(0.3 * (u - 0.6))) if good else 0.5 * (1 - sigma(0.3 * (0.6 - u)))
        for u, good in zip(BETTER, desirable, strict=True)
    ]
    each = kto(
        torch.tensor(BETTER),
        torch.tensor(desirable),
        beta=0.3,
        baseline=torch.tensor(0.6),
        desirable_weight=1.5,
        undesirable_weight=0.5,
    )
    assert_equal(each, expected)


@pytest.mark.parametrize("name", list(OF_LOGITS))
def test_losses_of_differences_are_right_in_double(name: str) -> None:
    z = torch.linspace(-4, 4, 9, dtype=torch.float64, requires_grad=True)
    # The hinge has a kink at 1.
    assert torch.autograd.gradcheck(OF_LOGITS[name], (z + 1e-3,))


@pytest.mark.parametrize("name", list(OF_LOGITS))
def test_losses_of_differences_bear_extremes(name: str) -> None:
    z = torch.tensor([-1e4, -100.0, 0.0, 100.0, 1e4], requires_grad=True)
    loss = OF_LOGITS[name](z)
    (gradient,) = torch.autograd.grad(loss.sum(), z)
    assert loss.isfinite().all() and gradient.isfinite().all()
    if not name.startswith("discopop"):
        assert loss[0] > loss[1] > loss[2] or name == "exo_pair"


@pytest.mark.parametrize("name", list(OF_ANSWERS))
def test_losses_of_answers_bear_extremes(name: str) -> None:
    better = torch.tensor([-1e4, 1e4, -1e4, 1e4, 0.0], requires_grad=True)
    worse = torch.tensor([-1e4, -1e4, 1e4, 1e4, 0.0], requires_grad=True)
    loss = OF_ANSWERS[name](better, worse)
    gradients = torch.autograd.grad(loss.sum(), [better, worse], allow_unused=True)
    assert loss.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients if gradient is not None)
