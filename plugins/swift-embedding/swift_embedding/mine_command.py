"""``swift mine``: hard negatives for the rows of a run file, written as rows that ``swift train`` reads."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift_core.cli.package_commands import CommandParser, parse_command
from swift_core.cli.work import quiet_libraries
from swift_core.errors import UserError

if TYPE_CHECKING:
    from swift_core.arguments import TrainingArguments
    from swift_embedding.mining import Mined, MiningSettings

# Nothing heavy is imported up here: `swift mine --help` answers at once.


def build_parser() -> CommandParser:
    """The parser of the command."""
    parser = CommandParser(
        prog="swift mine", description="Find hard negatives for the rows of a run file, with its model."
    )
    parser.add_run_file()
    add = parser.add_argument
    add("--output", metavar="FILE", required=True, help="jsonl file for the rows with their negatives")
    add(
        "--corpus",
        metavar="FILE",
        help="documents to search, as a BEIR corpus.jsonl; default: those of the rows",
    )
    add("--num-negatives", metavar="N", type=int, default=3, help="of each query (default: 3)")
    add("--range-min", metavar="N", type=int, default=0, help="skip the N closest candidates (default: 0)")
    add("--range-max", metavar="N", type=int, help="look at the N closest candidates only")
    add("--absolute-margin", metavar="X", type=float, help="score at least X below the positive's")
    add("--relative-margin", metavar="X", type=float, help="the same, X times the positive's score")
    add("--max-score", metavar="X", type=float, help="score at most X")
    add("--min-score", metavar="X", type=float, help="score at least X")
    add("--sampling-strategy", choices=("top", "random"), default="top", help="default: top")
    add("--reranker", metavar="MODEL", help="cross-encoder (folder or hub id) that scores candidates anew")
    add("--keep-negatives", action="store_true", help="keep the negatives of a row before those found")
    add("--scores", action="store_true", help="also write positive_scores and negative_scores")
    add("--cache", metavar="FOLDER", help="keep vectors there; default: beside the output, until it is whole")
    add("--overwrite", action="store_true", help="replace the output file if there is one")
    add("--json", action="store_true", help="print the result as JSON on stdout")
    return parser


def main(arguments: list[str]) -> int:
    """Run the command and return its exit code."""
    parsed = parse_command(build_parser(), arguments)
    with quiet_libraries(parsed.json):
        try:
            result = _mine(parsed)
        except KeyboardInterrupt:
            again = shlex.join(["swift", "mine", *arguments])
            print(f"swift: what is encoded is kept; go on with the same command: {again}", file=sys.stderr)
            raise
    print(json.dumps(result, ensure_ascii=False) if parsed.json else "\n".join(_lines(result)))
    return 0


def _mine(parsed: argparse.Namespace) -> dict[str, Any]:
    from swift_core.arguments import TrainingArguments
    from swift_embedding.mining import MiningSettings
    from swift_embedding.shards import ShardCache, sole_writer

    args = TrainingArguments.from_file(parsed.run_file, parsed.options)
    settings = MiningSettings(
        num_negatives=parsed.num_negatives,
        range_min=parsed.range_min,
        range_max=parsed.range_max,
        absolute_margin=parsed.absolute_margin,
        relative_margin=parsed.relative_margin,
        max_score=parsed.max_score,
        min_score=parsed.min_score,
        sampling_strategy=parsed.sampling_strategy,
        seed=args.trainer.seed,
    )
    output = Path(parsed.output)
    if output.is_dir() or not output.parent.is_dir():
        raise UserError(f"--output: expected a file in a folder that is there, found {output}")
    partial = output.with_name(f"{output.name}.partial")
    with sole_writer(partial, str(output)):
        if output.exists() and not parsed.overwrite:
            raise UserError(f"--output: {output} is there already; write --overwrite to replace it")
        cache = ShardCache(folder=Path(parsed.cache) if parsed.cache else partial / "vectors")
        result = _write_mined(parsed, args, settings, cache, partial / "rows.jsonl")
        (partial / "rows.jsonl").replace(output)
        shutil.rmtree(partial)
    return {"output": str(output), **result}


def _write_mined(
    parsed: argparse.Namespace, args: TrainingArguments, settings: MiningSettings, cache: Any, path: Path
) -> dict[str, Any]:
    from swift_core.runtime import Runtime
    from swift_embedding.collator import EmbeddingCollator
    from swift_embedding.mining import mine_negatives

    # A new adapter changes no vector, but it starts at random, and kept vectors would not be known again.
    args = args.replace(use_lora=False)
    runtime = Runtime(args.claim)
    collator = runtime.make_collator(args=args)
    if not isinstance(collator, EmbeddingCollator):
        raise UserError(f"task_type: `swift mine` is for runs of the type embedding, found {args.task_type}")
    rows = _rows(args)
    corpus = _corpus(parsed.corpus, rows)
    # The run's model as it encodes in an evaluation.
    encoder = collator.encoder(
        runtime.make_model(args=args, collator=collator).to(args.trainer.device).eval()
    )
    reranker = None
    if parsed.reranker:
        from swift_embedding.rescoring import load_cross_encoder

        reranker = load_cross_encoder(parsed.reranker, args)
    mined = mine_negatives(
        encoder,
        [row["query"] for row in rows],
        [row["positive"] for row in rows],
        corpus,
        settings,
        known=[row["negatives"] or () for row in rows] if parsed.keep_negatives else None,
        reranker=reranker,
        cache=cache,
        progress=args.shows_progress and sys.stderr.isatty(),
        say=lambda line: print(line, flush=True),
    )
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for row in mined_rows(rows, mined, keep=parsed.keep_negatives, scores=parsed.scores):
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    return _summary(rows, mined, settings)


def _rows(args: TrainingArguments) -> list[dict[str, Any]]:
    from swift_core.data.dataset import load_data

    core = args.core
    if core.dataset is None:
        raise UserError("dataset: expected rows to find negatives for, found none")
    data = load_data(
        core.dataset,
        name="train",
        spec=args.spec,
        columns=core.columns,
        split=core.dataset_split,
        config=core.dataset_config,
    )
    rows: list[dict[str, Any]] = data.records.to_list()
    others = [source.name for n, source in enumerate(data.sources) if _lacks_queries(rows, n)]
    if others:
        raise UserError(f"dataset: expected queries and answers, found other rows in {', '.join(others)}")
    names = ", ".join(source.name for source in data.sources)
    print(f"rows      {len(rows):,} of {names}", flush=True)
    return rows


def _lacks_queries(rows: Sequence[dict[str, Any]], source: int) -> bool:
    return any(row["source"] == source and row["query"] is None for row in rows)


def _corpus(path: str | None, rows: Sequence[dict[str, Any]]) -> list[str]:
    """The documents to search, in their order, beside the positives."""
    if path is None:
        return [text for row in rows for text in (*row["positive"], *(row["negatives"] or ()))]
    from swift_core.data.beir import read_corpus
    from swift_core.data.values import checked

    texts = []
    for text in read_corpus(Path(path)).values():
        try:
            texts.append(checked(text, "text"))
        except ValueError:
            continue  # an empty document would make a row that can't be trained on
    return texts


def mined_rows(
    rows: Sequence[dict[str, Any]], mined: Mined, *, keep: bool, scores: bool
) -> Iterator[dict[str, Any]]:
    """Rows in their order with the negatives that were found.

    Args:
        rows: with ``query``, ``positive`` (a list of texts) and ``negatives``.
        mined: what was found for these rows.
        keep: put the negatives that a row had before those that were found.
        scores: add ``positive_scores`` and ``negative_scores``.
    """
    for number, row in enumerate(rows):
        answers = row["positive"]
        kept = list(row["negatives"] or ()) if keep else []
        written: dict[str, Any] = {
            "query": row["query"],
            "positive": answers[0] if len(answers) == 1 else answers,
            "negatives": [*kept, *mined.negatives[number]],
        }
        if scores:
            written["positive_scores"] = _rounded(mined.positive_scores[number])
            known = mined.known_scores[number] if keep else []
            written["negative_scores"] = _rounded([*known, *mined.negative_scores[number]])
        yield written


def _rounded(scores: Sequence[float]) -> list[float]:
    return [round(score, 6) for score in scores]


def _summary(rows: Sequence[dict[str, Any]], mined: Mined, settings: MiningSettings) -> dict[str, Any]:
    found = [len(texts) for texts in mined.negatives]
    return {
        "rows": len(rows),
        "queries": mined.queries,
        "documents": mined.documents,
        "negatives": sum(found),
        "rows_with_fewer": sum(count < settings.num_negatives for count in found),
        "num_negatives": settings.num_negatives,
        "mean_positive_score": _mean(mined.positive_scores),
        "mean_negative_score": _mean(mined.negative_scores),
        "removed": mined.removed,
    }


def _mean(scores: Sequence[Sequence[float]]) -> float | None:
    flat = [score for row in scores for score in row]
    return round(sum(flat) / len(flat), 4) if flat else None


def _lines(result: dict[str, Any]) -> list[str]:
    means = [result[f"mean_{kind}_score"] for kind in ("positive", "negative")]
    positive, negative = ("none" if mean is None else f"{mean:.4f}" for mean in means)
    removed = ", ".join(f"{name} {count:,}" for name, count in result["removed"].items())
    lines = [
        f"found     {result['negatives']:,} negatives for {result['rows']:,} rows: {result['queries']:,} "
        f"different queries, {result['documents']:,} documents",
        f"scores    positives {positive}, negatives {negative} on average",
        f"removed   {removed}",
    ]
    if result["rows_with_fewer"]:
        lines.append(
            f"fewer     {result['rows_with_fewer']:,} rows got fewer than {result['num_negatives']}; "
            "raise --range-max or loosen the margins to find more"
        )
    return [*lines, f"written   {result['output']}"]
