"""Ratings against closed forms and against an independent fit."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit
from scipy.stats import beta

from swift_dpo.elo import elo_gain, elo_rating, log_odds


def test_two_players_have_the_closed_form() -> None:
    assert log_odds(30, 40, prior=0) == pytest.approx(math.log(30 / 10))
    assert log_odds(30, 40) == pytest.approx(math.log(30.5 / 10.5))
    # Ten times the odds are 400 points.
    assert elo_rating(math.log(10)) == pytest.approx(1400)
    assert elo_rating(math.log(3), reference=1500) == pytest.approx(1500 + 400 * math.log10(3))


def test_the_strength_maximises_the_likelihood_with_ties_as_half_wins() -> None:
    wins, ties, losses = 12, 7, 5

    def negative(strength: float) -> float:
        won = wins + ties / 2 + 0.5
        lost = losses + ties / 2 + 0.5
        return -(won * math.log(expit(strength)) + lost * math.log(expit(-strength)))

    best = minimize_scalar(negative, bounds=(-5, 5), method="bounded", options={"xatol": 1e-9}).x
    gain = elo_gain([1] * wins + [0.5] * ties + [0] * losses)
    assert gain.elo == pytest.approx(1000 + 400 / math.log(10) * best, abs=1e-3)
    assert gain.gain == pytest.approx((gain.elo - 1000) / 10)  # percent of 1000
    assert (gain.wins, gain.ties, gain.losses) == (wins, ties, losses)
    assert gain.win_rate == pytest.approx((12 + 3.5) / 24)


def test_swapping_the_players_mirrors_the_rating() -> None:
    outcomes = np.array([1, 1, 1, 0, 0.5, 1, 0.5, 0])
    one, other = elo_gain(outcomes, seed=3), elo_gain(1 - outcomes, seed=3)
    assert one.gain == pytest.approx(-other.gain)
    assert one.low == pytest.approx(-other.high, abs=0.5) and one.low < one.gain < one.high


@pytest.mark.parametrize("outcome", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("count", [1, 10, 100])
def test_outcomes_that_are_all_alike_give_finite_ratings_with_an_interval(outcome: float, count: int) -> None:
    gain = elo_gain([outcome] * count)
    assert math.isfinite(gain.elo) and gain.low < gain.gain < gain.high
    assert gain.elo == pytest.approx(
        1000 + 400 * math.log10((outcome * count + 0.5) / (count - outcome * count + 0.5))
    )
    share = beta.ppf(0.025, outcome * count + 0.5, count - outcome * count + 0.5)
    assert gain.low == pytest.approx(40 / math.log(10) * logit(share))


def test_the_interval_holds_what_it_says_and_is_the_same_for_the_same_seed() -> None:
    generator = np.random.default_rng(0)
    true = 40 * math.log10(0.7 / 0.3)
    held = []
    for n in range(200):
        outcomes = generator.random(80) < 0.7
        gain = elo_gain(outcomes, seed=n, resamples=400)
        held.append(gain.low <= true <= gain.high)
    assert 0.9 <= np.mean(held) <= 0.99
    assert elo_gain(outcomes, seed=5) == elo_gain(outcomes, seed=5)
    assert elo_gain(outcomes, seed=5) != elo_gain(outcomes, seed=6)


@pytest.mark.parametrize("outcomes", [[], [0.4], [[1.0]], [math.nan]])
def test_what_is_no_outcome_is_refused(outcomes: list[float]) -> None:
    with pytest.raises(ValueError, match=r"expected at least one of 0, 0\.5 and 1"):
        elo_gain(outcomes)
