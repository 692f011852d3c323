"""Win rate and Elo of a model against its reference, from the verdicts of a judge, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import beta

# Shape legend: N prompts, R resamples.

REFERENCE_RATING = 1000.0
SCALE = 400.0
"""Points of rating that make the odds of winning ten times as large (Elo 1978)."""
PRIOR = 0.5
"""Wins that each side gets beside those that were counted: without them a model that won always would be
infinitely strong. It is Jeffreys' prior of a share, Beta(1/2, 1/2)."""
RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class EloGain:
    """How a model does against its reference, whose rating is 1000.

    Attributes:
        wins: prompts that the model won.
        ties: prompts that nobody won; half a win to each.
        losses: prompts that the reference won.
        win_rate: (wins + ties / 2) / prompts.
        elo: rating of the model.
        gain: ``elo`` less the reference's rating, in percent of the latter.
        low: lower end of the 95 % interval of ``gain``, over prompts.
        high: upper end of it.
    """

    wins: int
    ties: int
    losses: int
    win_rate: float
    elo: float
    gain: float
    low: float
    high: float


def log_odds(wins: np.ndarray | float, count: int, *, prior: float = PRIOR) -> np.ndarray:
    """Strength of a player over another in the model of Bradley and Terry (1952), as a logarithm of odds.

    P(win) = 1 / (1 + exp(-strength)); of two players the likelihood is highest at log(wins / losses).

    Args:
        wins: of any shape; a tie is half a win.
        count: games.
        prior: wins that each side gets beside those counted.
    """
    wins = np.asarray(wins, dtype=np.float64)
    strength: np.ndarray = np.log((wins + prior) / (count - wins + prior))
    return strength


def elo_rating(strength: np.ndarray | float, reference: float = REFERENCE_RATING) -> np.ndarray:
    """Rating of a player whose strength over one rated ``reference`` is ``strength``."""
    rating: np.ndarray = reference + SCALE / np.log(10) * np.asarray(strength)
    return rating


def elo_gain(
    outcomes: Sequence[float] | np.ndarray,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> EloGain:
    """Rate a model by its outcomes against the reference.

    The interval is that of a bootstrap over prompts. Where all outcomes are the same a resample shows no
    spread, however few they are; the interval is then that of the posterior, Beta(wins + 1/2, losses + 1/2).

    Args:
        outcomes: [N] 1 where the model won, 0 where the reference did, 0.5 for a tie; at least one.
        seed: of the draws.
        resamples: how many times prompts are drawn.
        level: share of the gains that the interval holds.

    Raises:
        ValueError: there is no outcome, or one is none of the three.
    """
    won = np.asarray(outcomes, dtype=np.float64)  # [N]
    if won.ndim != 1 or not len(won) or not np.isin(won, (0.0, 0.5, 1.0)).all():
        raise ValueError("outcomes: expected at least one of 0, 0.5 and 1 in a row")
    count = len(won)
    strength = log_odds(won.sum(), count)
    low, high = _interval(won, seed, resamples, level)
    return EloGain(
        wins=int((won == 1).sum()),
        ties=int((won == 0.5).sum()),
        losses=int((won == 0).sum()),
        win_rate=float(won.mean()),
        elo=float(elo_rating(strength)),
        gain=_percent(strength),
        low=_percent(low),
        high=_percent(high),
    )


def _interval(won: np.ndarray, seed: int, resamples: int, level: float) -> np.ndarray:
    """Bounds [2] of the strength."""
    ends, count = [(1 - level) / 2, (1 + level) / 2], len(won)
    if np.ptp(won) == 0:
        shares = beta.ppf(ends, won.sum() + PRIOR, count - won.sum() + PRIOR)
        bounds: np.ndarray = np.log(shares / (1 - shares))
        return bounds
    # Wins, ties and losses of a resample say all that its strength needs.
    shares = np.array([(won == 1).mean(), (won == 0.5).mean(), (won == 0).mean()])
    drawn = np.random.default_rng(seed).multinomial(count, shares, size=resamples)  # [R, 3]
    bounds = np.quantile(log_odds(drawn[:, 0] + drawn[:, 1] / 2, count), ends)
    return bounds


def _percent(strength: np.ndarray | float) -> float:
    return float(100 * (elo_rating(strength) - REFERENCE_RATING) / REFERENCE_RATING)
