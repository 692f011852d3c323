"""Which answers of a row are compared. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from swift_dpo.data_options import PairChoice


def chosen_pairs(scores: Sequence[float], keys: Sequence[int], choice: PairChoice) -> list[tuple[int, int]]:
    """Places of the better and the worse answer of each pair.

    Answers with equal scores make no pair, nor do equal answers (``keys`` are equal where answers are): a
    loss of differences learns nothing from them.

    Args:
        scores: [K], larger is better.
        keys: [K], what names each answer.
        choice: ``all``, ``best_worst`` (the first of the best and of the worst), or ``neighbours`` in the
            order of scores.
    """
    order = sorted(range(len(scores)), key=lambda place: -scores[place])  # stable
    if choice == "best_worst":
        worst = min(scores)
        candidates = [(order[0], next(place for place in order if scores[place] == worst))]
    elif choice == "neighbours":
        candidates = list(pairwise(order))
    else:
        candidates = [(first, second) for n, first in enumerate(order) for second in order[n + 1 :]]
    return [(i, j) for i, j in candidates if scores[i] > scores[j] and keys[i] != keys[j]]
