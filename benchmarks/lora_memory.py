"""Memory of LoRA beside full fine-tuning: gradients, optimizer, activations and adapter, above the weights.

Every training is a process of its own. Memory is counted by torch's allocator, and in another process read
as the peak of the resident set, above what it was with the model loaded.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import multiprocessing
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.machine import begin, demo_model

_PACKAGES = ("swift-cls", "transformers", "peft", "torch", "accelerate")
_CASES = ("8", "8+checkpointing", "32", "32+checkpointing", "4x8+checkpointing")
_BAR = 0.30
_STEPS = 2
"""The second step is the first one with the optimizer's state in memory."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A batch of ``accumulate`` micro-batches of ``rows`` texts; ``layers`` and ``shape`` for a decoder."""

    rows: int
    accumulate: int
    checkpointing: bool
    lora: bool
    rank: int
    tokens: int
    model: Path | None
    shape: str | None = None
    layers: int = 0
    threads: int | None = None


def read_case(text: str, base: Case) -> Case:
    """``ROWS``, ``TIMESxROWS``, both perhaps with ``+checkpointing``."""
    size, _, more = text.partition("+")
    times, _, rows = size.rpartition("x")
    return replace(base, rows=int(rows), accumulate=int(times or 1), checkpointing=more == "checkpointing")


def main(arguments: list[str]) -> int:
    """Measure all cases and print the tables; the exit code is 1 when no case meets the bar."""
    parsed = _parser().parse_args(arguments)
    begin(_PACKAGES, parsed.threads)
    base = Case(
        rows=0,
        accumulate=1,
        checkpointing=False,
        lora=False,
        rank=parsed.rank,
        tokens=parsed.tokens,
        model=None if parsed.shape else (parsed.model or demo_model()),
        shape=parsed.shape,
        threads=parsed.threads,
    )
    if parsed.shape:
        from benchmarks.lora_shapes import extrapolated

        print("\n".join(extrapolated([read_case(text, base) for text in parsed.cases], measure)))
        return 0
    ratios = _print_table([(text, read_case(text, base)) for text in parsed.cases], parsed.allocator_only)
    met = sum(ratio <= _BAR for ratio in ratios)
    print(f"\n{met} of {len(ratios)} cases have LoRA at no more than {_BAR:.0%} of full fine-tuning")
    return int(met == 0)


def _print_table(cases: Sequence[tuple[str, Case]], allocator_only: bool) -> list[float]:
    """A row for each case as soon as it is measured; gives the ratios of the allocator's figures."""
    heads = ["full, MB", "LoRA, MB", "LoRA / full"]
    if not allocator_only:
        heads += ["resident: full, MB", "LoRA, MB", "LoRA / full"]
    print(f"| micro-batches of {cases[0][1].tokens}-token texts | {' | '.join(heads)} |")
    print("| --- |" + " ---: |" * len(heads), flush=True)
    ratios = []
    for text, case in cases:
        cells = []
        for resident in (False,) if allocator_only else (False, True):
            full, lora = (measure(replace(case, lora=lora), resident=resident) for lora in (False, True))
            cells += [f"{full / 1e6:,.0f}", f"{lora / 1e6:,.0f}", f"{lora / full:.3f}"]
            ratios += [] if resident else [lora / full]
        print(f"| {text} | {' | '.join(cells)} |", flush=True)
    return ratios


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks lora-memory", description=__doc__)
    add = parser.add_argument
    add("--model", type=Path, help="folder of an encoder (default: MiniLM of the demo)")
    add("--shape", help="instead of a model: a decoder's published shape, measured with few layers")
    add("--tokens", type=int, default=128, help="length of each text (default: 128)")
    add("--rank", type=int, default=64, help="rank of LoRA, on all linear modules (default: 64)")
    add("--cases", nargs="+", default=list(_CASES), help="ROWS or TIMESxROWS, perhaps +checkpointing")
    add("--allocator-only", action="store_true", help="leave out the resident set: half the time")
    add("--threads", type=int, help="threads of torch (default: torch's own)")
    return parser


def measure(case: Case, *, resident: bool = False) -> int:
    """Bytes at the peak of a training, above the bare weights; ``resident``: of the resident set."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_measured, case, resident).result()


def _measured(case: Case, resident: bool) -> int:
    with contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as name:
        begin(_PACKAGES, case.threads)
        from benchmarks.lora_training import resident_peak, watched_peak

        return (resident_peak if resident else watched_peak)(case, _STEPS, Path(name))
