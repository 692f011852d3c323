"""``swift add-scores``: a bigger reranker's scores for the rows of a run file, for a smaller one to learn."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift_core.cli.package_commands import CommandParser, parse_command
from swift_core.cli.work import quiet_libraries
from swift_core.errors import SwiftError, UserError

if TYPE_CHECKING:
    import numpy as np

    from swift_core.arguments import TrainingArguments
    from swift_core.data.dataset import TaskData

# Nothing heavy is imported up here: `swift add-scores --help` answers at once.


def build_parser() -> CommandParser:
    """The parser of the command."""
    parser = CommandParser(
        prog="swift add-scores",
        description="Score the rows of a run file with its model, and write them with these scores: a "
        "smaller reranker learns them with loss=margin_mse or loss=kl_divergence.",
    )
    parser.add_run_file()
    parser.add_argument("--output", metavar="FILE", required=True, help="jsonl file for lists with scores")
    parser.add_argument("--overwrite", action="store_true", help="replace the output file if there is one")
    parser.add_argument("--json", action="store_true", help="print the result as JSON on stdout")
    return parser


def main(arguments: list[str]) -> int:
    """Run the command and return its exit code."""
    parsed = parse_command(build_parser(), arguments)
    with quiet_libraries(parsed.json):
        result = _add(parsed)
    print(json.dumps(result, ensure_ascii=False) if parsed.json else "\n".join(_lines(result)))
    return 0


def _add(parsed: argparse.Namespace) -> dict[str, Any]:
    import numpy as np

    from swift_core.arguments import TrainingArguments
    from swift_core.runs.json_lines import write_lines

    output = Path(parsed.output)
    if output.is_dir() or not output.parent.is_dir():
        raise UserError(f"--output: expected a file in a folder that is there, found {output}")
    if output.exists() and not parsed.overwrite:
        raise UserError(f"--output: {output} is there already; write --overwrite to replace it")
    args = TrainingArguments.from_file(parsed.run_file, parsed.options)
    data, scores = _scored(args)
    broken = [number for number, values in enumerate(scores) if not np.isfinite(values).all()]
    if broken:
        raise SwiftError(
            f"{args.core.model_name_or_path} gives scores that are not finite (NaN or infinite) in "
            f"{len(broken):,} of {len(scores):,} lists, the first is {data.place(broken[0])}; nothing was "
            "written: set another model_dtype, or choose another model"
        )
    rows = [
        {
            **{name: value for name, value in record.items() if value is not None and name != "source"},
            "scores": [round(float(score), 6) for score in values],
        }
        for record, values in zip(data.records, scores, strict=True)
    ]
    write_lines(output, rows)
    agree = [
        _agreement(row["labels"], values)
        for row, values in zip(rows, scores, strict=True)
        if row.get("labels") is not None
    ]
    return {
        "output": str(output),
        "lists": len(rows),
        "pairs": sum(len(row["scores"]) for row in rows),
        "agreement": round(sum(agree) / len(agree), 4) if agree else None,
    }


def _scored(args: TrainingArguments) -> tuple[TaskData, Sequence[np.ndarray]]:
    from swift_core.preparation import prepare_data
    from swift_core.runtime import Runtime
    from swift_reranker.collator import RerankerCollator
    from swift_reranker.reranker import is_reranker, needs_template
    from swift_reranker.scoring import score_lists

    runtime = Runtime(args.claim)
    collator = runtime.make_collator(args=args)
    faults = []
    if not isinstance(collator, RerankerCollator):
        raise UserError(
            f"task_type: `swift add-scores` is for runs of the type reranker, found {args.task_type}"
        )
    if args.core.dataset is None:
        faults.append("dataset: expected rows to score (a file, a folder or a hub id), found none")
    if collator.settings.scoring == "head" and not is_reranker(args):
        faults.append(
            f"model_name_or_path: {args.core.model_name_or_path} is no trained reranker: its head would be "
            "random; name one, or set scoring=generative for a causal model"
        )
    elif needs_template(args, collator):
        faults.append(
            f"template: expected the text that {args.core.model_name_or_path} was trained to read, which "
            "this decoder does not say (it has no reranker.json), found none; set it, with {query} and "
            "{document} in their places"
        )
    if faults:
        raise UserError(*faults)
    data = prepare_data(args.core.dataset, "train", args, collator)
    model: Any = runtime.make_model(args=args.replace(use_lora=False), collator=collator)
    features: Any = data.features
    model = model.to(args.trainer.device).eval()
    return data, score_lists(model, collator, features, progress=args.shows_progress)


def _agreement(labels: Sequence[float], scores: np.ndarray) -> float:
    """Share of the best-scored documents (several where they tie) that have the best label."""
    top = [label for label, score in zip(labels, scores, strict=True) if score == scores.max()]
    return sum(label == max(labels) for label in top) / len(top)


def _lines(result: Mapping[str, Any]) -> list[str]:
    lines = [f"scored    {result['pairs']:,} documents of {result['lists']:,} lists, in {result['output']}"]
    if result["agreement"] is not None:
        lines.append(f"agreement in {result['agreement']:.1%} of them the best score has the best label")
    return lines
