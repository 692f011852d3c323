"""Classifiers: Swift beside transformers' Trainer, the same model on the same batches in the same order."""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.machine import begin, demo_model
from benchmarks.workload import Row, Workload, repeated, with_lengths

_TOLERANCE = 1e-5
_PACKAGES = ("swift-cls", "transformers", "torch", "accelerate")
_MADE_UP_LABELS = 7


def main(arguments: list[str]) -> int:
    """Run both sides and print the table; the exit code is 1 when their losses differ."""
    parsed = _parser().parse_args(arguments)
    begin(_PACKAGES, parsed.threads)
    from benchmarks.class_sides import Peer, Swift, write_classifier
    from benchmarks.contest import run_contest
    from benchmarks.report import table

    source = parsed.model or demo_model()
    with tempfile.TemporaryDirectory() as folder:
        rows = _read(parsed)
        labels = sorted({row["label"] for row in rows})
        model = write_classifier(source, labels, Path(folder) / "model", dropout=parsed.dropout)
        work = _workload(parsed, model, rows)
        print("\n".join(_work_lines(parsed, work, source, len(labels))), flush=True)
        peer, swift = run_contest(
            [Peer(), Swift()],
            work,
            parsed.repeats,
            parsed.warmup_steps,
            lambda line: print(line, flush=True),
        )
    lines, _ = table(peer, swift, work, parsed.warmup_steps)
    relative = max(abs(a - b) / abs(b) for a, b in zip(swift.losses, peer.losses, strict=True))
    print("\n" + "\n".join([*lines, f"Largest relative difference: {relative:.2e}"]))
    if relative > _TOLERANCE and not parsed.dropout:
        print(f"the losses differ by more than {_TOLERANCE:g}: the two sides do not train the same")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks classification", description=__doc__)
    add = parser.add_argument
    add("--model", type=Path, help="folder of an encoder (default: MiniLM of the demo)")
    add("--data", type=Path, required=True, help="jsonl with text and label; or with positive, see --lengths")
    add("--rows", type=int, help="use so many rows, drawn at random (default: all)")
    add("--steps", type=int, default=5, help="training steps of a repeat (default: 5)")
    add("--warmup-steps", type=int, default=1, help="steps at the start that are not timed (default: 1)")
    add("--repeats", type=int, default=5, help="times that each side trains (default: 5)")
    add("--batch-size", type=int, default=32, help="rows of a batch (default: 32)")
    add("--max-length", type=int, default=512, help="longest text in tokens (default: 512)")
    add("--learning-rate", type=float, default=2e-5, help="default: 2e-5")
    add("--threads", type=int, help="threads of torch (default: torch's own)")
    add("--lengths", type=_range, metavar="LOW-HIGH", help="cut texts to lengths drawn log-uniformly")
    add("--dropout", action="store_true", help="leave the model's dropout on; losses then differ")
    return parser


def _range(text: str) -> tuple[int, int]:
    low, _, high = text.partition("-")
    return int(low), int(high)


def _read(parsed: argparse.Namespace) -> list[Row]:
    """Rows in the order of training; what has no label gets one at random."""
    with parsed.data.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    draw = random.Random(0)
    draw.shuffle(rows)
    return [
        {
            "text": row.get("text", row.get("positive")),
            "label": row.get("label") or f"label {draw.randrange(_MADE_UP_LABELS)}",
        }
        for row in islice(rows, parsed.rows)
    ]


def _workload(parsed: argparse.Namespace, model: Path, rows: Sequence[Row]) -> Workload:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    if parsed.lengths:
        documents = [{"positive": row["text"], "negatives": []} for row in rows]
        cut = with_lengths(documents, tokenizer, *parsed.lengths)
        rows = [{**row, "text": new["positive"]} for row, new in zip(rows, cut, strict=True)]
    size = parsed.batch_size
    batches = [list(rows[start : start + size]) for start in range(0, len(rows) - size + 1, size)]
    if not batches:
        sys.exit(f"{parsed.data}: expected {size} rows, found {len(rows)}; lower --batch-size")
    rows = repeated(batches, parsed.steps)
    lengths = [_length(row, tokenizer, parsed.max_length) for row in rows]
    steps = [lengths[start : start + size] for start in range(0, len(lengths), size)]
    return Workload(
        model=model,
        rows=rows,
        tokens=[sum(step) for step in steps],
        padded_tokens=[size * max(step) for step in steps],
        steps=parsed.steps,
        batch_size=size,
        max_length=parsed.max_length,
        learning_rate=parsed.learning_rate,
    )


def _length(row: Row, tokenizer: Any, max_length: int) -> int:
    return len(tokenizer(row["text"], truncation=True, max_length=max_length)["input_ids"])


def _work_lines(parsed: argparse.Namespace, work: Workload, model: Path, labels: int) -> list[str]:
    useful, padded = sum(work.tokens), sum(work.padded_tokens)
    cut = f", cut to {parsed.lengths[0]} to {parsed.lengths[1]} tokens" if parsed.lengths else ""
    return [
        f"model     {model.parent.name}/{model.name}, {labels} labels, "
        f"dropout {'on' if parsed.dropout else 'off'}, float32",
        f"data      {parsed.data}, at most {work.max_length} tokens a text{cut}",
        f"training  {work.steps} steps of {work.batch_size} rows, the first {parsed.warmup_steps} not timed; "
        f"AdamW, learning rate {work.learning_rate:g}",
        f"tokens    {useful:,} useful ones; padded {padded:,}, {padded / useful:.2f} for each useful one; "
        f"median step {statistics.median(work.tokens):,.0f}",
    ]
