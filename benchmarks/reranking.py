"""Training of rerankers: Swift beside sentence-transformers, the same weights on the same lists.

With ``--causal`` a random Qwen3 of some 20 M parameters judges pairs by its yes and no: Swift computes what
the pairs of a list begin with once, the peers compute it for each pair.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.machine import begin, demo_model
from benchmarks.rerank_lists import cut_documents, list_workload, one_positive, read_lists
from benchmarks.workload import Row, Workload

if TYPE_CHECKING:
    from benchmarks.sides import Side
    from swift_reranker.collator import RerankerCollator
    from swift_reranker.pairs import PairEncoding

_TOLERANCE = 1e-5
_PACKAGES = ("swift-reranker", "sentence-transformers", "transformers", "torch", "accelerate")


def main(arguments: list[str]) -> int:
    """Run all sides and print a table for each peer; the exit code is 1 when losses differ."""
    parsed = _parser().parse_args(arguments)
    begin(_PACKAGES, parsed.threads)
    from benchmarks.contest import run_contest

    source = parsed.model or demo_model()
    with tempfile.TemporaryDirectory() as folder:
        model = write_model(source, Path(folder) / "model", causal=parsed.causal, dropout=parsed.dropout)
        pairs = pair_collator(model, parsed.max_length, causal=parsed.causal).pairs
        work = _workload(parsed, model, pairs)
        print("\n".join(_work_lines(parsed, work, source, pairs)), flush=True)
        *peers, swift = run_contest(
            _sides(parsed), work, parsed.repeats, parsed.warmup_steps, lambda line: print(line, flush=True)
        )
    return max(_report(parsed, peer, swift, work) for peer in peers)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks reranking", description=__doc__)
    add = parser.add_argument
    add("--model", type=Path, help="folder of an encoder (default: MiniLM of the demo); see --causal")
    add("--causal", action="store_true", help="a random Qwen3 with the tokenizer of --model")
    add(
        "--data", type=Path, required=True, help="jsonl of query, document, label (and query_id), or of lists"
    )
    add("--loss", choices=("binary_cross_entropy", "lambda_loss"), default="binary_cross_entropy")
    add("--lists", type=int, default=4, help="lists of a batch (default: 4)")
    add("--list-size", type=int, default=5, help="documents of a list, one of them relevant (default: 5)")
    add("--steps", type=int, default=5, help="training steps of a repeat (default: 5)")
    add("--warmup-steps", type=int, default=1, help="steps at the start that are not timed (default: 1)")
    add("--repeats", type=int, default=5, help="times that each side trains (default: 5)")
    add("--max-length", type=int, default=512, help="longest pair in tokens (default: 512)")
    add("--learning-rate", type=float, default=2e-5, help="default: 2e-5")
    add("--threads", type=int, help="threads of torch (default: torch's own)")
    add("--lengths", type=low_high, metavar="LOW-HIGH", help="cut documents to lengths drawn log-uniformly")
    add("--dropout", action="store_true", help="leave the model's dropout on; losses then differ")
    return parser


def low_high(text: str) -> tuple[int, int]:
    """Read ``LOW-HIGH``."""
    low, _, high = text.partition("-")
    return int(low), int(high)


def write_model(source: Path, target: Path, *, causal: bool, dropout: bool) -> Path:
    """Write the model that all sides start from.

    Args:
        source: folder of an encoder.
        causal: take its tokenizer only, for a random decoder.
        dropout: whether to leave the encoder's on.
    """
    if causal:
        from benchmarks.judge import write_judge
        from swift_reranker.template import QWEN3_INSTRUCTION, QWEN3_RERANKER

        return write_judge(source, target, QWEN3_RERANKER, QWEN3_INSTRUCTION)
    from benchmarks.class_sides import write_classifier

    return write_classifier(source, ["relevant"], target, dropout=dropout)


def _sides(parsed: argparse.Namespace) -> list[Side]:
    from benchmarks.rerank_sides import CrossEncoderSide, PaddedPairs, Swift
    from swift_reranker.template import QWEN3_INSTRUCTION, QWEN3_RERANKER

    sides: list[Side] = [CrossEncoderSide(parsed.loss)]
    if parsed.causal and parsed.loss == "binary_cross_entropy":
        sides.append(PaddedPairs(QWEN3_RERANKER, QWEN3_INSTRUCTION))
    options = {"scoring": "generative"} if parsed.causal else {}
    return [*sides, Swift({"loss": parsed.loss, **options})]


def pair_collator(model: Path, max_length: int, *, causal: bool) -> RerankerCollator:
    """How Swift reads pairs for a model of :func:`write_model`."""
    from swift_core import TrainingArguments
    from swift_reranker.collator import make_collator

    args = TrainingArguments(
        "reranker",
        model_name_or_path=str(model),
        max_length=max_length,
        scoring="generative" if causal else None,
        report_to="none",
    )
    return make_collator(args)


def _workload(parsed: argparse.Namespace, model: Path, pairs: PairEncoding) -> Workload:
    rows = one_positive(read_lists(parsed.data), parsed.list_size)
    random.Random(0).shuffle(rows)
    if len(rows) < parsed.lists:
        sys.exit(
            f"{parsed.data}: expected {parsed.lists} lists with a relevant document and "
            f"{parsed.list_size - 1} others, found {len(rows)}; lower --lists or --list-size"
        )
    rows = rows[: parsed.lists * parsed.steps]
    if parsed.lengths:
        rows = cut_documents(rows, pairs.tokenizer, *parsed.lengths)
    # Each side cuts in a way of its own where a template surrounds the document.
    if parsed.causal and any(any(pairs.of_list(row["query"], row["documents"]).cut) for row in rows):
        sys.exit(f"--max-length {parsed.max_length}: a pair is longer; raise it, or give --lengths")
    listwise = parsed.loss == "lambda_loss"
    return list_workload(
        rows,
        model,
        lambda row: pairs.of_list(row["query"], row["documents"]).lengths,
        lists=parsed.lists,
        steps=parsed.steps,
        chunk=parsed.lists * (1 if listwise else parsed.list_size),
        max_length=parsed.max_length,
        learning_rate=parsed.learning_rate,
    )


def _work_lines(parsed: argparse.Namespace, work: Workload, source: Path, pairs: PairEncoding) -> list[str]:
    useful, padded = sum(work.tokens), sum(work.padded_tokens)
    cut = f", cut to {parsed.lengths[0]} to {parsed.lengths[1]} tokens" if parsed.lengths else ""
    lines = [
        f"model     {_model_line(parsed, source)}, float32",
        f"data      {parsed.data}, at most {work.max_length} tokens a pair; documents{cut or ' as they are'}",
        f"training  {parsed.loss}; {work.steps} steps of {work.batch_size} lists of {parsed.list_size} "
        f"documents, the first {parsed.warmup_steps} not timed; AdamW, learning rate {work.learning_rate:g}",
        f"tokens    {useful:,} useful ones; padded {padded:,}, {padded / useful:.2f} for each useful one; "
        f"median step {statistics.median(work.tokens):,.0f}",
    ]
    return [*lines, *_shared_lines(work.rows, pairs, useful)] if parsed.causal else lines


def _model_line(parsed: argparse.Namespace, source: Path) -> str:
    name = f"{source.parent.name}/{source.name}"
    if parsed.causal:
        return f"random Qwen3 with the tokenizer of {name}, template of Qwen3-Reranker"
    return f"{name}, dropout {'on' if parsed.dropout else 'off'}"


def _shared_lines(rows: Sequence[Row], pairs: PairEncoding, useful: int) -> list[str]:
    found = [pairs.of_list(row["query"], row["documents"]) for row in rows]
    computed = sum(tokens.computed for tokens in found)
    prefix = statistics.median(len(tokens.prefix) for tokens in found)
    pair = statistics.median(n for tokens in found for n in tokens.lengths)
    return [
        f"shared    {prefix:,.0f} tokens at the start of a list's pairs, of {pair:,.0f} of a pair (medians); "
        f"computed once: {useful / computed:.2f} useful tokens for each computed one"
    ]


def _report(parsed: argparse.Namespace, peer: Any, swift: Any, work: Workload) -> int:
    from benchmarks.report import table

    pairs = parsed.list_size * work.batch_size * (work.steps - parsed.warmup_steps)
    lines, _ = table(peer, swift, work, parsed.warmup_steps, pairs=pairs)
    relative = max(abs(a - b) / abs(b) for a, b in zip(swift.losses, peer.losses, strict=True))
    print("\n" + "\n".join([*lines, f"Largest relative difference: {relative:.2e}"]))
    if relative > _TOLERANCE and not parsed.dropout:
        print(f"the losses differ by more than {_TOLERANCE:g}: the two sides do not train the same")
        return 1
    return 0
