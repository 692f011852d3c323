"""Gates: what a run of a label must reach, as a comparison of one recorded figure with a number.

f1_macro >= 0.90
elo_gain >= 5 %                 5 % is 0.05: figures are recorded as fractions
f1_macro >= baseline - 0.01     the same figure of the baseline run, less 0.01
f1_macro >= baseline - 1 %      less 1 % of that figure
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from swift_core.errors import did_you_mean

_NUMBER = r"\d+(?:\.\d*)?(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?"
_GATE = re.compile(
    rf"(?P<metric>[^\s<>=!]+)\s*(?P<sign>>=|<=|>|<)\s*"
    rf"(?:(?P<number>[-+]?(?:{_NUMBER}))\s*(?P<percent>%)?"
    rf"|baseline(?:\s*(?P<change>[-+])\s*(?P<by>{_NUMBER})\s*(?P<by_percent>%)?)?)"
)
_COMPARE = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}


@dataclass(frozen=True, kw_only=True)
class Gate:
    """A gate that was read.

    Attributes:
        text: as it was written.
        metric: the figure, without ``eval_``.
        sign: one of ``>=  <=  >  <``.
        number: what it is compared with; for a baseline what is added to its figure.
        percent: the number was given in percent: of 1, or of the baseline's figure.
        baseline: whether the baseline run's figure is compared with.
    """

    text: str
    metric: str
    sign: str
    number: float
    percent: bool
    baseline: bool


@dataclass(frozen=True, kw_only=True)
class GateResult:
    """What a run made of a gate.

    Attributes:
        gate: as it was written.
        metric: name of the recorded figure, such as ``eval_f1_macro``.
        wanted: the comparison in numbers, such as ``>= 0.9``; None when there is no number to compare with.
        found: the recorded figure; None when there is none, or it is no finite number.
        note: what else must be said: why a gate failed without a comparison, or how a percentage was read.
    """

    gate: str
    metric: str
    wanted: str | None
    found: float | None
    passed: bool
    note: str | None = None

    @property
    def told(self) -> str:
        """What was found, in one line."""
        found = "nothing" if self.found is None else f"{self.found:.6g}"
        compared = f" ({self.wanted})" if self.wanted and self.wanted not in self.gate else ""
        note = f"; {self.note}" if self.note else ""
        return f"{self.gate}{compared}: found {found}{note}"

    @property
    def line(self) -> str:
        """The same with the verdict, as commands print it."""
        return f"gate      {'passed' if self.passed else 'FAILED'}  {self.told}"


def parse_gate(text: str) -> Gate:
    """Read a gate.

    Raises:
        ValueError: it is none; the message says how one is written.
    """
    match = _GATE.fullmatch(text.strip())
    if match is None:
        equal = (
            " Figures are never exactly equal: use >= or <=."
            if re.search(r"[^<>]=(?!.*baseline)", text)
            else ""
        )
        raise ValueError(
            f"expected such as 'f1_macro >= 0.90', 'elo_gain >= 5 %' or 'f1_macro >= baseline - 0.01', found "
            f"{text!r}.{equal}"
        )
    percent = bool(match["percent"] or match["by_percent"])
    number = float(match["number"] or match["by"] or 0) * (-1 if match["change"] == "-" else 1)
    return Gate(
        text=text.strip(),
        metric=match["metric"].removeprefix("eval_"),
        sign=match["sign"],
        number=number / 100 if percent else number,
        percent=percent,
        baseline=match["number"] is None,
    )


def judge(gate: Gate, metrics: Mapping[str, Any], baseline: Mapping[str, Any] | str | None) -> GateResult:
    """Compare the recorded ``metrics`` of a run with a gate. What can't be compared has failed, and says why.

    Args:
        gate: the gate.
        metrics: figures by recorded name.
        baseline: the baseline's figures, or why there are none, in words.
    """
    name = recorded_name(gate.metric, metrics)
    found = _figure(metrics, name)
    wanted, missing = _wanted(gate, baseline)
    if name not in metrics:
        hint = did_you_mean(gate.metric, [key.removeprefix("eval_") for key in metrics])
        missing = f"the run has no figure '{gate.metric}'.{hint} Was it evaluated?"
    elif found is None:
        missing = f"the run's figure is {metrics[name]}, which is no number"
    passed = found is not None and wanted is not None and bool(_COMPARE[gate.sign](found, wanted))
    return GateResult(
        gate=gate.text,
        metric=name,
        wanted=None if wanted is None else f"{gate.sign} {wanted:.6g}",
        found=found,
        passed=passed,
        note=missing or _note(gate, found),
    )


def recorded_name(metric: str, metrics: Mapping[str, Any]) -> str:
    """The name under which a run records a figure: ``eval_f1_macro``, or ``train_loss``."""
    return metric if metric in metrics and f"eval_{metric}" not in metrics else f"eval_{metric}"


def _figure(metrics: Mapping[str, Any], name: str) -> float | None:
    value = metrics.get(name)
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable and value is not None else None


def _wanted(gate: Gate, baseline: Mapping[str, Any] | str | None) -> tuple[float | None, str | None]:
    if not gate.baseline:
        return gate.number, None
    if not isinstance(baseline, Mapping):
        return None, baseline or "there is no baseline"
    base = _figure(baseline, recorded_name(gate.metric, baseline))
    if base is None:
        return None, f"the baseline has no figure '{gate.metric}'"
    # Of the size of the figure: a log-probability may be negative, and 5 % more of it is still more.
    return base + gate.number * (abs(base) if gate.percent else 1), None


def _note(gate: Gate, found: float | None) -> str | None:
    if found is None or gate.baseline:
        return None
    if gate.percent and abs(found) > 1:
        return (
            f"{gate.number:.2%} was read as the fraction {gate.number:.6g}, and {found:.6g} is more "
            "than 1; if this "
            f"figure is recorded in percent, write '{gate.metric} {gate.sign} {gate.number * 100:.6g}'"
        )
    if not gate.percent and gate.number > 1 and 0 <= found <= 1:
        return (
            f"{found:.6g} looks like a fraction, compared with {gate.number:.6g}; if percent was "
            "meant, write "
            f"'{gate.metric} {gate.sign} {gate.number:.6g} %'"
        )
    return f"{gate.number * 100:.6g} % is {gate.number:.6g}, found {found:.4%}" if gate.percent else None
