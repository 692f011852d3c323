"""The table of a contest."""

from __future__ import annotations

import statistics

from benchmarks.contest import Figures, largest_difference, ratio
from benchmarks.workload import Workload

_MEGABYTE = 1e6


def table(
    peer: Figures, swift: Figures, work: Workload, warmup_steps: int, *, pairs: int | None = None
) -> tuple[list[str], float]:
    """Lines of a Markdown table, and the largest difference of the losses.

    Args:
        pairs: how many pairs the timed steps have, where rows are lists of them.
    """
    tokens = sum(work.tokens[warmup_steps:])
    difference = largest_difference(swift.losses, peer.losses)
    peer_cpu, swift_cpu = [s.cpu for s in peer.steps], [s.cpu for s in swift.steps]
    rows = [
        ("", peer.name, swift.name, f"{swift.name} / peer"),
        ("---", "---:", "---:", "---:"),
        *([] if pairs is None else [_speeds("pairs per CPU-second", peer_cpu, swift_cpu, pairs)]),
        _speeds("useful tokens per CPU-second", peer_cpu, swift_cpu, tokens),
        _speeds(
            "useful tokens per second", [s.wall for s in peer.steps], [s.wall for s in swift.steps], tokens
        ),
        (
            "peak memory above the weights, MB",
            f"{peer.peak_bytes / _MEGABYTE:.1f}",
            f"{swift.peak_bytes / _MEGABYTE:.1f}",
            f"{swift.peak_bytes / peer.peak_bytes:.3f}",
        ),
        (
            "CPU-seconds between the steps, making batches",
            f"{_median([s.cpu for s in peer.between]):.3f}",
            f"{_median([s.cpu for s in swift.between]):.3f}",
            "",
        ),
        (
            "CPU-seconds tokenising before the first step",
            f"{_median([s.cpu for s in peer.preparation]):.3f}",
            f"{_median([s.cpu for s in swift.preparation]):.3f}",
            "",
        ),
    ]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines += [
        "",
        f"Speeds: training steps only, medians of {len(swift.steps)} repeats in turns; the ratio is the "
        "median of the pairs' ratios.",
        "Memory: peak of torch's CPU allocator over the first two steps, with gradients and AdamW's state.",
        f"Largest difference of the loss over {len(swift.losses)} steps: {difference:.2e}",
    ]
    return lines, difference


def _speeds(what: str, theirs: list[float], mine: list[float], count: int) -> tuple[str, str, str, str]:
    digits = 0 if count / _median(mine) >= 100 else 1
    return (
        what,
        f"{count / _median(theirs):,.{digits}f}",
        f"{count / _median(mine):,.{digits}f}",
        f"{ratio(theirs, mine):.3f}",  # fewer seconds are more tokens a second
    )


def _median(values: list[float]) -> float:
    return statistics.median(values)
