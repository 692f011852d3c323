"""Fine-tuning on real data: nDCG@10 on the test split before and after, Swift beside sentence-transformers.

Every training is a process of its own, the two systems in turns. After each, a line goes to ``--results``;
what is there already is not done again, so a benchmark that was killed goes on where it stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import io
import os
import random
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.holdout import hold_out
from benchmarks.jobs import in_turns, model_folder, model_name, run_jobs
from benchmarks.machine import begin
from benchmarks.quality_report import table
from benchmarks.recipe import Recipe
from benchmarks.workload import read_rows

_PACKAGES = ("swift-embedding", "sentence-transformers", "transformers", "torch", "accelerate")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One line of the results: train (or not, for the untrained model), then evaluate."""

    data: Path
    model: Path
    system: str
    seed: int | None
    recipe: Recipe
    rows: int | None
    dev_share: float | None
    threads: int | None

    @property
    def key(self) -> dict[str, Any]:
        """What tells this job from others, as JSON gives it back.

        The untrained model depends on no more than what is evaluated.
        """
        trained = self.system != "untrained"
        names = None if trained else ("eval_max_length", "query_prompt", "document_prompt")
        recipe = {k: v for k, v in asdict(self.recipe).items() if names is None or k in names}
        return {
            "set": self.data.name,
            "split": "dev" if self.dev_share else "test",
            "model": model_name(self.model),
            "system": self.system,
            "seed": self.seed,
            "rows": self.rows,
            "recipe": recipe,
        }


def main(arguments: list[str]) -> int:
    """Do what is not in the results yet, then print a table of all of it."""
    parsed = _parser().parse_args(arguments)
    begin(_PACKAGES, parsed.threads)
    jobs = _jobs(parsed)
    found = run_jobs(jobs, _do, parsed.results, _line)
    print("\n" + "\n".join(table(found)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks quality", description=__doc__)
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder with a folder for each data set")
    add("--set", required=True, help="which data set: a BEIR folder with train.jsonl")
    add("--model", default="minilm", help="folder of an encoder, or minilm (default): that of the demo")
    add("--system", choices=("swift", "peer", "both"), default="both")
    add(
        "--seeds",
        type=int,
        nargs="*",
        default=[0, 1, 2],
        help="default: 0 1 2; none: the untrained model only",
    )
    add("--results", type=Path, default=Path("quality.jsonl"), help="default: quality.jsonl")
    add("--epochs", type=float, default=1, help="default: 1")
    add("--batch-size", type=int, default=32, help="default: 32")
    add("--learning-rate", type=float, default=1e-4, help="default: 1e-4")
    add("--warmup", type=float, default=0.1, help="share of the steps (default: 0.1)")
    add("--temperature", type=float, default=0.05, help="default: 0.05")
    add("--max-length", type=int, default=128, help="longest text in training, in tokens (default: 128)")
    add("--eval-max-length", type=int, help="the same in the evaluation (default: as in training)")
    add("--negatives", type=int, default=0, help="hard negatives of a row (default: 0)")
    add("--query-prompt", default="", help="text before every query")
    add("--document-prompt", default="", help="text before every document")
    add("--rows", type=int, help="train on so many rows, drawn at random (default: all)")
    add(
        "--dev",
        type=float,
        metavar="SHARE",
        help="evaluate on a share of train, held out, not on test",
    )
    add("--threads", type=int, help="threads of torch (default: torch's own)")
    return parser


def _jobs(parsed: argparse.Namespace) -> list[Job]:
    recipe = Recipe(
        epochs=parsed.epochs,
        batch_size=parsed.batch_size,
        learning_rate=parsed.learning_rate,
        warmup=parsed.warmup,
        temperature=parsed.temperature,
        max_length=parsed.max_length,
        eval_max_length=parsed.eval_max_length or parsed.max_length,
        negatives=parsed.negatives,
        query_prompt=parsed.query_prompt,
        document_prompt=parsed.document_prompt,
    )
    turns: list[tuple[str, int | None]] = [("untrained", None), *in_turns(parsed.system, parsed.seeds)]
    return [
        Job(
            data=(parsed.data / parsed.set).resolve(),
            model=model_folder(parsed.model),
            system=system,
            seed=seed,
            recipe=recipe,
            rows=parsed.rows,
            dev_share=parsed.dev,
            threads=parsed.threads,
        )
        for system, seed in turns
    ]


def _do(job: Job) -> dict[str, Any]:
    """Train and evaluate, in this process."""
    with contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as name:
        begin(_PACKAGES, job.threads)
        from benchmarks.finetune import evaluate, train_peer, train_swift
        from benchmarks.measure import now

        folder, beir, split = Path(name), job.data, "test"
        rows = read_rows(job.data / "train.jsonl", None, job.recipe.negatives)
        if job.rows is not None:
            rows = random.Random(0).sample(rows, job.rows)
        if job.dev_share:
            beir, split = folder / "dev", "dev"
            rows = hold_out(rows, job.dev_share, beir)
        result: dict[str, Any] = {**job.key, "date": f"{datetime.datetime.now():%Y-%m-%d %H:%M}"}
        result["load"] = round(os.getloadavg()[0], 1)
        model = job.model
        if job.seed is not None:
            train = train_swift if job.system == "swift" else train_peer
            trained = train(job.model, rows, job.recipe, job.seed, folder)
            model = trained.model
            result |= {
                "trained_rows": len(rows),
                "steps": trained.steps,
                "train_cpu_seconds": round(trained.time.cpu, 1),
                "train_wall_seconds": round(trained.time.wall, 1),
            }
        began = now()
        result["metrics"] = evaluate(model, job.recipe, beir, split, folder)
        result["evaluation_wall_seconds"] = round((now() - began).wall, 1)
        return result


def _line(result: dict[str, Any]) -> str:
    time = (
        f"{result['train_cpu_seconds']} CPU s, {result['train_wall_seconds']} s, "
        if "steps" in result
        else ""
    )
    return (
        f"{result['system']} seed {result['seed']}: {time}nDCG@10 {result['metrics']['ndcg@10']:.4f} "
        f"(evaluated in {result['evaluation_wall_seconds']} s)"
    )
