"""Quality and safety weighed against each other, for the constrained form of ``cpo``. Imports no torch.

Answers have a quality s and a violation c: 0 for none, more for worse. With lambda (``constraint_weight``),
the quality that one unit of violation costs, what counts is the Lagrangian s - lambda c of Dai et al. 2023,
"Safe RLHF: Safe Reinforcement Learning from Human Feedback"; lambda is given here, and learned there.

1. Of two answers the better one is that with the larger s - lambda c (:func:`judged_scores`; equal ones make
   no pair). Chosen and rejected answers, whose s are 1 and 0, change places where the rejected one violates
   less by more than 1 / lambda.
2. The target margin of the pair grows by lambda (c_l - c_w), the part of the difference of the Lagrangians
   that is known as a number: the better answer is to win by more the safer it is, and may win by less where
   it is the less safe one. An offset of that kind is due to Amini et al. 2024, "Direct Preference
   Optimization with an Offset"; for pairs that quality orders it is the margin of Zhou et al. 2024, "Beyond
   One-Preference-Fits-All Alignment: Multi-Objective Direct Preference Optimization", in whose terms the
   policy's reward stands for r - lambda c, while the label tells of r alone. The margin of a row is the other
   part, the difference of qualities: it is taken away where the pair was turned round, and is 0 where
   violations alone decide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from swift_core.errors import UserError
from swift_dpo.functions import load_function, source_of


def judged_scores(
    scores: Sequence[float], violations: Sequence[float] | None, *, constraint_weight: float | None
) -> list[float]:
    """The scores that say which answers of a row are better than which: s - lambda c.

    Args:
        scores: s of each answer of a row, higher is better.
        violations: c of each, or None: not known, nothing is taken away.
        constraint_weight: lambda; None: quality alone.
    """
    if violations is None or constraint_weight is None:
        return list(scores)
    return [s - constraint_weight * c for s, c in zip(scores, violations, strict=True)]


@dataclass(frozen=True)
class Constraint:
    """How violations are found, and what they cost.

    Attributes:
        weight: lambda.
        function: ``module:function`` or ``file.py:function`` that tells the violation of an answer, given
            (prompt, answer); None: rows have them.
    """

    weight: float
    function: str | None = None

    def violations(self, record: Mapping[str, Any]) -> list[float] | None:
        """Of each answer of a row: what the row says, else what the function says; None: nothing is known.

        Raises:
            ValueError: the function fails, or gives something else than a number.
        """
        told: list[float] | None = record["violations"]
        if told is not None or self.function is None:
            return told
        found = [self._measured(record["prompt"], answer) for answer in record["answers"]]
        for value in found:
            if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
                raise ValueError(
                    f"violation_function: expected a number from {self.function}, found {value!r}"
                )
        return [float(value) for value in found]

    def judged(self, scores: Sequence[float], violations: Sequence[float] | None) -> list[float]:
        """See :func:`judged_scores`."""
        return judged_scores(scores, violations, constraint_weight=self.weight)

    def _measured(self, prompt: Any, answer: Any) -> Any:
        try:
            return self._measure(prompt, answer)
        except UserError:
            raise
        except Exception as error:  # code of the user, which may fail in any way
            raise ValueError(
                f"violation_function: {self.function} failed ({type(error).__name__}: {error})"
            ) from error

    @cached_property
    def _measure(self) -> Callable[[Any, Any], float]:
        return load_function(str(self.function), "violation_function")

    @property
    def source(self) -> str:
        """The code of the module that the function is in."""
        return "" if self.function is None else source_of(self.function, "violation_function")

    def __getstate__(self) -> dict[str, Any]:
        # A function of a file can't be pickled for DataLoader workers, which need none.
        return {"weight": self.weight, "function": self.function}


def constraint_of(options: Any) -> Constraint | None:
    """That of a task's options; None where they have none."""
    weight = getattr(options, "constraint_weight", None)
    return None if weight is None else Constraint(weight, options.violation_function)
