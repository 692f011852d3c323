"""The table of the benchmark of quality."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

Result = dict[str, Any]


_RETRIEVAL = ("nDCG@10", "MRR@10", "recall@10", "recall@100")


def table(results: Sequence[Result], metrics: Sequence[str] = _RETRIEVAL) -> list[str]:
    """Lines of a Markdown table: one row for the untrained model and one for each system.

    Args:
        metrics: what the metrics of the results are called, in their order.
    """
    lines = [
        f"| | {' | '.join(metrics)} | training, CPU s | training, s |",
        f"| --- |{' ---: |' * (len(metrics) + 2)}",
    ]
    for system in ("untrained", "peer", "swift"):
        found = [result for result in results if result["system"] == system]
        if found:
            figures = [spread([r["metrics"][name] for r in found]) for name in found[0]["metrics"]]
            times = [_mean(found, name) for name in ("train_cpu_seconds", "train_wall_seconds")]
            lines.append(f"| {' | '.join([system, *figures, *times])} |")
    for name, what in (("train_cpu_seconds", "CPU-seconds"), ("train_wall_seconds", "seconds")):
        ratios = _ratios(results, name)
        if ratios:
            shown = ", ".join(f"{ratio:.2f}" for ratio in ratios)
            lines.append(
                f"\n{what}, peer / swift, seed by seed: {shown}; median {statistics.median(ratios):.2f}"
            )
    return lines


def spread(values: Sequence[float]) -> str:
    """Mean and, of several, standard deviation (n - 1 in the denominator)."""
    mean = f"{statistics.mean(values):.4f}"
    return f"{mean} ± {statistics.stdev(values):.4f}" if len(values) > 1 else mean


def _mean(results: Sequence[Result], name: str) -> str:
    values = [result[name] for result in results if name in result]
    return f"{statistics.mean(values):,.0f}" if values else ""


def _ratios(results: Sequence[Result], name: str) -> list[float]:
    """Time of the peer / time of Swift, for the seeds that both have."""
    times = {(r["system"], r["seed"]): r[name] for r in results if name in r}
    seeds = sorted({seed for _, seed in times})
    return [
        times["peer", seed] / times["swift", seed]
        for seed in seeds
        if ("peer", seed) in times and ("swift", seed) in times
    ]
