"""``swift label-noise``: rows of a run file whose label may be wrong, the surest first."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift_core.cli.package_commands import CommandParser, parse_command
from swift_core.cli.work import quiet_libraries
from swift_core.errors import UserError, listed

if TYPE_CHECKING:
    import datasets
    import numpy as np

    from swift_cls.collator import ClassificationCollator
    from swift_core.arguments import TrainingArguments
    from swift_core.data.dataset import TaskData
    from swift_core.preparation import Preparation

# Nothing heavy is imported up here: `swift label-noise --help` answers at once.

_NO_EVALUATION: dict[str, Any] = {
    "eval_dataset": None,
    "eval_split": None,
    "eval_strategy": "no",
    "eval_on_start": False,
    "load_best_model_at_end": False,
    "early_stopping_patience": None,
    "sampling": None,
    "threshold": "auto",
}
"""Nothing is trained, so what a run file says of that has no say here."""
_SHOWN = 5
_TEXT_SHOWN = 60


def build_parser() -> CommandParser:
    """The parser of the command."""
    parser = CommandParser(
        prog="swift label-noise",
        description="Find training rows whose label may be wrong: confident learning on the vectors of the "
        "run's untrained model, each row judged by a classifier that did not see it.",
    )
    parser.add_run_file()
    parser.add_argument("--output", metavar="FILE", required=True, help="jsonl file for the suspected rows")
    parser.add_argument("--folds", metavar="N", type=int, default=5, help="parts of the data (default: 5)")
    parser.add_argument("--overwrite", action="store_true", help="replace the output file if there is one")
    parser.add_argument("--json", action="store_true", help="print the result as JSON on stdout")
    return parser


def main(arguments: list[str]) -> int:
    """Run the command and return its exit code."""
    parsed = parse_command(build_parser(), arguments)
    with quiet_libraries(parsed.json):
        result = _find(parsed)
    print(json.dumps(result, ensure_ascii=False) if parsed.json else "\n".join(_lines(result)))
    return 0


def _find(parsed: argparse.Namespace) -> dict[str, Any]:
    import numpy as np

    from swift_cls.noise import confident_learning, confused_pairs, out_of_fold
    from swift_core.arguments import TrainingArguments
    from swift_core.preparation import prepare_task
    from swift_core.runs.json_lines import write_lines

    output = Path(parsed.output)
    faults = []
    if output.is_dir() or not output.parent.is_dir():
        faults.append(f"--output: expected a file in a folder that is there, found {output}")
    elif output.exists() and not parsed.overwrite:
        faults.append(f"--output: {output} is there already; write --overwrite to replace it")
    if parsed.folds < 2:
        faults.append(f"--folds: expected 2 or more, found {parsed.folds}")
    if faults:
        raise UserError(*faults)
    args = TrainingArguments.from_file(parsed.run_file, parsed.options)
    # An adapter that is not trained changes no vector.
    args = args.replace(**_NO_EVALUATION, use_lora=False)
    ready = prepare_task(args)
    train, features, names = _checked(ready, args)
    ids = np.array([int(row[0]) for row in features["targets"]])  # [N]
    few = np.bincount(ids, minlength=len(names)) < 2
    judged = np.flatnonzero(~few[ids])
    kept = [name for name, left_out in zip(names, few, strict=True) if not left_out]
    if len(kept) < 2:
        raise UserError("label: expected at least 2 labels with 2 rows or more, found fewer")
    own = np.searchsorted(np.flatnonzero(~few), ids[judged])
    vectors = _vectors(ready, args, features.select(judged))
    folds = min(parsed.folds, int(np.bincount(own).min()))
    probabilities = out_of_fold(vectors, own, folds=folds, seed=args.trainer.seed)
    noise = confident_learning(probabilities, own)
    rows = [
        {
            "row": int(judged[row]) + 1,
            "place": train.place(int(judged[row])),
            **{name: value for name, value in train.records[int(judged[row])].items() if value is not None},
            "label": kept[own[row]],
            "suggested": kept[label],
            "margin": round(margin, 4),
            "probability_of_label": round(float(probabilities[row, own[row]]), 4),
        }
        for row, label, margin in zip(noise.suspects, noise.suggested, noise.margins, strict=True)
    ]
    write_lines(output, rows)
    return {
        "output": str(output),
        "rows": len(judged),
        "folds": folds,
        "folds_asked": parsed.folds,
        "suspects": len(rows),
        "agreement": round(float((probabilities.argmax(1) == own).mean()), 4),
        "pairs": confused_pairs(noise, kept)[:_SHOWN],
        "surest": rows[:_SHOWN],
        "left_out": [name for name in names if name not in kept],
    }


def _checked(ready: Preparation, args: TrainingArguments) -> tuple[TaskData, datasets.Dataset, Sequence[str]]:
    from swift_cls.collator import ClassificationCollator

    if not isinstance(ready.collator, ClassificationCollator):
        raise UserError(
            f"task_type: `swift label-noise` is for runs of the type sequence-classification, found "
            f"{args.task_type}"
        )
    labels = ready.collator.known_labels
    if labels.problem != "single_label":
        raise UserError(f"label: `swift label-noise` judges rows with one label, found {labels.problem} data")
    if ready.train is None or ready.train.features is None:
        raise UserError("dataset: expected training data (a file, a folder or a hub id), found none")
    return ready.train, ready.train.features, labels.names


def _vectors(ready: Preparation, args: TrainingArguments, features: datasets.Dataset) -> np.ndarray:
    """[N, D] means over the tokens of each row, by the untrained model."""
    from swift_cls.predicting import row_vectors

    collator: ClassificationCollator = ready.collator  # type: ignore[assignment]
    model: Any = ready.runtime.make_model(args=args, collator=collator).to(args.trainer.device).eval()
    model.pooling_method = "mean"
    return row_vectors(model, collator, features, progress=args.shows_progress)


def _lines(result: Mapping[str, Any]) -> list[str]:
    share = result["suspects"] / max(result["rows"], 1)
    lines = [
        f"rows      {result['rows']:,}, {result['agreement']:.1%} labelled as the others suggest",
        f"suspects  {result['suspects']:,} ({share:.1%}), written to {result['output']}",
    ]
    if result["folds"] < result["folds_asked"]:
        lines.append(f"folds     {result['folds']}, for some label has no more rows than that")
    if result["left_out"]:
        lines.append(f"left out  labels with a single row: {listed(result['left_out'])}")
    lines += [f"          {count:>5,}  {given} -> {other}" for given, other, count in result["pairs"]]
    lines += [
        f"          {row['place']}: {str(row.get('text', row.get('messages')))[:_TEXT_SHOWN]!r} "
        f"{row['label']} -> {row['suggested']} (margin {row['margin']:.2f})"
        for row in result["surest"]
    ]
    return lines
