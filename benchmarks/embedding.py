"""Dual encoders: Swift beside sentence-transformers, the same model on the same batches in the same order."""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from functools import cache
from pathlib import Path

from benchmarks.machine import begin, demo_model
from benchmarks.workload import (
    Workload,
    distinct_batches,
    read_rows,
    repeated,
    token_counts,
    with_lengths,
    without_dropout,
)

_ROOT = Path(__file__).parent.parent
_DATA = _ROOT / "plugins/swift-embedding/examples/cmrc2018/train.jsonl"
_LOSS_TOLERANCE = 1e-5
_PACKAGES = ("swift-embedding", "sentence-transformers", "transformers", "torch", "accelerate")


def main(arguments: list[str]) -> int:
    """Run both sides and print the table; the exit code is 1 when their losses differ."""
    parsed = _parser().parse_args(arguments)
    begin(_PACKAGES, parsed.threads)
    from benchmarks.contest import run_contest
    from benchmarks.peers import Peer, Swift
    from benchmarks.report import table

    with tempfile.TemporaryDirectory() as folder:
        source = parsed.model or demo_model()
        if parsed.decoder:
            from benchmarks.decoder import write_decoder

            source = write_decoder(source, Path(folder) / "decoder", parsed.max_length)
        model = source if parsed.dropout else without_dropout(source, Path(folder) / "model")
        work = _workload(parsed, model)
        print("\n".join(_work_lines(parsed, work, source)), flush=True)
        peer, swift = run_contest(
            [Peer(), Swift(parsed.gradient_cache_tokens)],
            work,
            parsed.repeats,
            parsed.warmup_steps,
            lambda line: print(line, flush=True),
        )
    lines, difference = table(peer, swift, work, parsed.warmup_steps)
    print("\n" + "\n".join(lines))
    if parsed.dropout:
        return 0
    if difference > _LOSS_TOLERANCE:
        print(f"the losses differ by more than {_LOSS_TOLERANCE:g}: the two sides do not train the same")
    return int(difference > _LOSS_TOLERANCE)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks embedding", description=__doc__)
    add = parser.add_argument
    add("--model", type=Path, help="folder of an encoder (default: MiniLM of the demo)")
    add("--data", type=Path, default=_DATA, help="jsonl with query, positive and perhaps negatives")
    add("--rows", type=int, help="use the first rows of the data only (default: all)")
    add("--steps", type=int, default=5, help="training steps of a repeat (default: 5)")
    add("--warmup-steps", type=int, default=1, help="steps at the start that are not timed (default: 1)")
    add("--repeats", type=int, default=5, help="times that each side trains (default: 5)")
    add("--batch-size", type=int, default=8, help="rows of a batch (default: 8)")
    add("--max-length", type=int, default=512, help="longest text in tokens (default: 512)")
    add("--learning-rate", type=float, default=2e-5, help="default: 2e-5")
    add("--temperature", type=float, default=0.05, help="1 / scale of the peer's loss (default: 0.05)")
    add("--threads", type=int, help="threads of torch (default: torch's own)")
    add("--negatives", type=int, help="negatives of a row at most (default: all)")
    add("--lengths", type=_range, metavar="LOW-HIGH", help="cut documents to lengths drawn log-uniformly")
    add("--decoder", action="store_true", help="a decoder of 20 M random parameters instead of a model")
    add("--gradient-cache-tokens", type=int, help="gradient caching on Swift's side")
    add("--dropout", action="store_true", help="leave the model's dropout on; losses then differ")
    return parser


def _range(text: str) -> tuple[int, int]:
    low, _, high = text.partition("-")
    return int(low), int(high)


def _workload(parsed: argparse.Namespace, model: Path) -> Workload:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)

    @cache
    def tokens_of(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text, truncation=True, max_length=parsed.max_length)["input_ids"])

    rows = read_rows(parsed.data, parsed.rows, parsed.negatives)
    if parsed.lengths:
        rows = with_lengths(rows, tokenizer, *parsed.lengths)
    batches = distinct_batches(rows, parsed.batch_size, tokens_of)
    if not batches:
        sys.exit(f"{parsed.data}: no {parsed.batch_size} rows that differ in all texts; lower --batch-size")
    rows = repeated(batches, parsed.steps)
    counts = [
        token_counts(rows[start : start + parsed.batch_size], tokens_of)
        for start in range(0, len(rows), parsed.batch_size)
    ]
    return Workload(
        model=model,
        rows=rows,
        tokens=[useful for useful, _ in counts],
        padded_tokens=[padded for _, padded in counts],
        steps=parsed.steps,
        batch_size=parsed.batch_size,
        max_length=parsed.max_length,
        learning_rate=parsed.learning_rate,
        temperature=parsed.temperature,
    )


def _work_lines(parsed: argparse.Namespace, work: Workload, model: Path) -> list[str]:
    useful, padded = sum(work.tokens), sum(work.padded_tokens)
    data = parsed.data.resolve()
    shown = data.relative_to(_ROOT) if data.is_relative_to(_ROOT) else data
    return [
        f"model     {model.parent.name}/{model.name}, dropout {'on' if parsed.dropout else 'off'}, float32",
        f"data      {shown}, {work.negatives} negatives a row, at most {work.max_length} tokens a text"
        + (f", documents cut to {parsed.lengths[0]} to {parsed.lengths[1]} tokens" if parsed.lengths else ""),
        f"training  {work.steps} steps of {work.batch_size} rows, the first {parsed.warmup_steps} not timed; "
        f"AdamW, learning rate {work.learning_rate:g}, temperature {work.temperature:g}",
        f"tokens    {useful:,} useful ones; padded {padded:,}, {padded / useful:.2f} for each useful one; "
        f"median step {statistics.median(work.tokens):,.0f}",
    ]
