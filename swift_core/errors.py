"""What goes wrong, told so that the reader knows what to do next.

Exit codes of the command line: 1 the run failed, 2 a mistake in the command, the configuration, the
data or a plugin, 130 interrupted.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class SwiftError(Exception):
    """A run failed for a reason that we can name."""

    exit_code = 1


class UserError(SwiftError):
    """Mistakes that the reader can mend: each fault says what was expected, what was found, what to do.

    All faults found at the same time are told at the same time.
    """

    exit_code = 2

    def __init__(self, *faults: str, total: int | None = None) -> None:
        """Keep ``faults`` (at least one); ``total`` counts also those that are not listed."""
        self.faults: tuple[str, ...] = faults
        self.total = len(faults) if total is None else total
        hidden = self.total - len(faults)
        lines = [*faults, f"... and {hidden:,} more like these"] if hidden > 0 else list(faults)
        super().__init__("\n".join(lines))


class PluginError(UserError):
    """An installed package that claims a task type, a command or a hook does not keep the contract."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the closest of ``known``, or an empty string."""
    close = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""


def listed(names: Sequence[str]) -> str:
    """Join names for a sentence; ``none`` when there are none."""
    return ", ".join(names) if names else "none"


def first_line(error: BaseException) -> str:
    """The first line of what an error says, cut when it is long."""
    return str(error).strip().split("\n")[0][:300]
