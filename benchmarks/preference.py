"""Training on preferences (DPO): Swift beside TRL, the same weights on the same pairs.

A random Qwen3 of some 30 M parameters reads real text, cut to lengths that are drawn. Swift computes a prompt
once for all of its answers; with ``--ranked`` TRL gets all pairs of each prompt's answers.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.machine import begin, demo_model
from benchmarks.preference_rows import (
    Lengths,
    Shape,
    cut_rows,
    lengths_of,
    preference_workload,
    read_text,
    write_chat_model,
)
from benchmarks.reranking import low_high
from benchmarks.workload import Workload

if TYPE_CHECKING:
    from benchmarks.sides import Side

_TOLERANCE = 1e-5
_PACKAGES = ("swift-dpo", "trl", "transformers", "torch", "accelerate", "peft")


def main(arguments: list[str]) -> int:
    """Run all sides and print a table for each form of TRL; the exit code is 1 when losses differ."""
    parsed = _parser().parse_args(arguments)
    begin(_PACKAGES, parsed.threads)
    from transformers import AutoTokenizer

    from benchmarks.contest import run_contest

    shape = Shape(answers=parsed.ranked, prompt=parsed.prompt_tokens, answer=parsed.answer_tokens)
    with tempfile.TemporaryDirectory() as folder:
        model = write_chat_model(parsed.tokenizer or demo_model(), Path(folder) / "model")
        tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
        steps = parsed.warmup_steps + parsed.batches
        rows = cut_rows(read_text(parsed.data), tokenizer, steps * parsed.batch_size, shape)
        lengths = [lengths_of(row, tokenizer) for row in rows]
        work = preference_workload(
            rows,
            model,
            lengths,
            batch_size=parsed.batch_size,
            max_length=parsed.max_length,
            learning_rate=parsed.learning_rate,
        )
        print("\n".join(_work_lines(parsed, work, lengths)), flush=True)
        *peers, swift = run_contest(
            _sides(parsed), work, parsed.repeats, parsed.warmup_steps, lambda line: print(line, flush=True)
        )
    return max(_report(parsed, peer, swift, work) for peer in peers)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks preference", description=__doc__)
    add = parser.add_argument
    add("--data", type=Path, required=True, help="jsonl of prompt, chosen, rejected: its text is cut anew")
    add("--tokenizer", type=Path, help="folder of a tokenizer (default: MiniLM's of the demo)")
    add("--lora", type=int, nargs="?", const=16, metavar="RANK", help="train LoRA (rank 16)")
    add("--cached", action="store_true", help="Swift knows the reference ahead; TRL with and without")
    add("--ranked", type=int, default=2, metavar="ANSWERS", help="answers of a prompt, all pairs (2)")
    add("--checkpointing", action="store_true", help="gradient checkpointing on all sides")
    add("--as-shipped", action="store_true", help="TRL as it ships too: logits of all tokens")
    add(
        "--same-library",
        choices=("fastest", "torch"),
        nargs="?",
        const="fastest",
        default="own",
        help="all sides multiply by the library that Swift finds faster (or by torch's own choice)",
    )
    add("--batch-size", type=int, default=4, help="prompts of a batch (default: 4)")
    add("--batches", type=int, default=8, help="timed batches of a repeat (default: 8)")
    add("--warmup-steps", type=int, default=1, help="batches before them, not timed (default: 1)")
    add("--repeats", type=int, default=3, help="times that each side trains (default: 3)")
    add("--prompt-tokens", type=low_high, default=(200, 500), metavar="LOW-HIGH", help="default: 200-500")
    add("--answer-tokens", type=low_high, default=(50, 200), metavar="LOW-HIGH", help="default: 50-200")
    add("--max-length", type=int, default=1024, help="longest prompt and answer (default: 1024)")
    add("--learning-rate", type=float, default=1e-5, help="default: 1e-5")
    add("--threads", type=int, help="threads of torch (default: torch's own)")
    return parser


def _sides(parsed: argparse.Namespace) -> list[Side]:
    from benchmarks.preference_sides import Setting, Swift, Trl

    setting = Setting(lora_rank=parsed.lora, checkpointing=parsed.checkpointing, library=parsed.same_library)
    sides: list[Side] = [Trl(setting, lean=True)]
    if parsed.cached:
        sides.append(Trl(setting, lean=True, precomputed=True))
    if parsed.as_shipped:
        sides.append(Trl(setting, lean=False))
    return [*sides, Swift(setting, cached=parsed.cached)]


def _work_lines(parsed: argparse.Namespace, work: Workload, lengths: Sequence[Lengths]) -> list[str]:
    useful, padded = sum(work.tokens), sum(work.padded_tokens)
    computed = sum(row.computed for row in lengths)
    prompt = statistics.median(row.prompt for row in lengths)
    answer = statistics.median(whole - row.prompt for row in lengths for whole in row.wholes)
    what = f"LoRA of rank {parsed.lora}" if parsed.lora else "all weights"
    more = ", gradient checkpointing" if parsed.checkpointing else ""
    libraries = {
        "own": "each side's own",
        "fastest": "the faster one for all",
        "torch": "torch's own for all",
    }
    return [
        f"model     random Qwen3 of some 30 M parameters, float32; {what}{more}",
        f"data      text of {parsed.data.parent.name}/{parsed.data.name}; prompts of {prompt:,.0f}, answers "
        f"of {answer:,.0f} tokens (medians), {parsed.ranked} answers of a prompt",
        f"training  dpo, reference {'known ahead' if parsed.cached else 'computed online'}; {work.steps} "
        f"steps of {work.batch_size} prompts, {_pairs(parsed)} pairs, the first {parsed.warmup_steps} "
        f"not timed; AdamW, learning rate {work.learning_rate:g}",
        f"tokens    {useful:,} useful ones (a prompt counts twice in each pair); TRL computes {padded:,}, "
        f"{padded / useful:.2f} for each useful one; Swift {computed:,}, {computed / useful:.2f}",
        f"library   of matrix products: {libraries[parsed.same_library]}",
    ]


def _pairs(parsed: argparse.Namespace) -> int:
    return int(parsed.batch_size * len(list(combinations(range(parsed.ranked), 2))))


def _report(parsed: argparse.Namespace, peer: Any, swift: Any, work: Workload) -> int:
    from benchmarks.report import table

    lines, difference = table(peer, swift, work, parsed.warmup_steps, pairs=_pairs(parsed) * parsed.batches)
    print("\n" + "\n".join(lines))
    if difference > _TOLERANCE:
        print(f"the losses differ by more than {_TOLERANCE:g}: the two sides do not train the same")
        return 1
    return 0
