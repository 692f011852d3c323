"""Fine-tuning of rerankers on real data: nDCG@10, MRR@10 and MAP, Swift beside sentence-transformers.

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
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.jobs import Result, in_turns, model_folder, model_name, run_jobs
from benchmarks.machine import begin
from benchmarks.quality_report import table
from benchmarks.rerank_lists import read_lists
from benchmarks.workload import Row

if TYPE_CHECKING:
    from benchmarks.rerank_finetune import RerankRecipe

_PACKAGES = ("swift-reranker", "sentence-transformers", "transformers", "torch", "accelerate")
_METRICS = ("nDCG@10", "MRR@10", "MAP")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One line of the results: train (or not, for the untrained model), then rank the test lists."""

    data: Path
    model: Path
    system: str
    seed: int | None
    recipe: RerankRecipe
    rows: int | None
    dev_share: float | None
    retrieval: Path | None
    depth: int
    threads: int | None

    @property
    def key(self) -> Result:
        """What tells this job from others, as JSON gives it back.

        The untrained model depends on no more than what is evaluated.
        """
        recipe = asdict(self.recipe)
        return {
            "set": self.data.name,
            "split": "dev" if self.dev_share else "test",
            "model": model_name(self.model),
            "system": self.system,
            "seed": self.seed,
            "rows": self.rows,
            "retrieval": self.retrieval.name if self.retrieval else None,
            "depth": self.depth if self.retrieval else None,
            "recipe": {"max_length": recipe["max_length"]} if self.seed is None else recipe,
        }


def main(arguments: list[str]) -> int:
    """Do what is not in the results yet, then print a table of all of it."""
    parsed = parser().parse_args(arguments)
    begin(_PACKAGES, parsed.threads)
    found = run_jobs(jobs_of(parsed), train_and_measure, parsed.results, _line)
    more = [f"BM25 top {parsed.depth}: {name}" for name in _METRICS] if parsed.retrieval else []
    print("\n" + "\n".join(table(found, (*_METRICS, *more))))
    if parsed.retrieval:
        from benchmarks.rerank_finetune import first_stage

        figures = ", ".join(
            f"{name} {value:.4f}" for name, value in first_stage(parsed.retrieval, parsed.depth).items()
        )
        print(f"\nBM25 alone on {parsed.retrieval.name}: {figures}")
    return 0


def parser() -> argparse.ArgumentParser:
    """The options."""
    found = argparse.ArgumentParser(prog="python -m benchmarks reranker-quality", description=__doc__)
    add = found.add_argument
    add("--data", type=Path, required=True, help="folder with a folder for each data set")
    add(
        "--set",
        required=True,
        help="which: train.jsonl and test.jsonl of query, document, label, or of lists",
    )
    add("--retrieval", type=Path, help="BEIR folder; what BM25 finds there is ranked too")
    add("--depth", type=int, default=100, help="candidates of BM25 for each query (default: 100)")
    add("--model", default="minilm", help="folder of an encoder, or minilm (default): that of the demo")
    add("--system", choices=("swift", "peer", "both"), default="both")
    add("--seeds", type=int, nargs="*", default=[0, 1, 2], help="default: 0 1 2; none: untrained only")
    add("--results", type=Path, default=Path("reranker.jsonl"), help="default: reranker.jsonl")
    add("--loss", choices=("binary_cross_entropy", "lambda_loss"), default="binary_cross_entropy")
    add("--epochs", type=float, default=2, help="default: 2")
    add("--lists", type=int, default=4, help="lists of a batch (default: 4)")
    add("--list-size", type=int, default=8, help="documents of a list in training at most (default: 8)")
    add("--learning-rate", type=float, default=5e-5, help="default: 5e-5")
    add("--warmup", type=float, default=0.1, help="share of the steps (default: 0.1)")
    add("--max-length", type=int, default=256, help="longest pair in tokens (default: 256)")
    add("--rows", type=int, help="train on so many lists, drawn at random (default: all)")
    add("--dev", type=float, metavar="SHARE", help="measure on a share of train, held out, not on test")
    add("--threads", type=int, help="threads of torch (default: torch's own)")
    return found


def jobs_of(parsed: argparse.Namespace) -> list[Job]:
    """What the options ask for: the untrained model, then the systems in turns."""
    from benchmarks.rerank_finetune import RerankRecipe

    recipe = RerankRecipe(
        epochs=parsed.epochs,
        lists=parsed.lists,
        list_size=parsed.list_size,
        learning_rate=parsed.learning_rate,
        warmup=parsed.warmup,
        max_length=parsed.max_length,
        loss=parsed.loss,
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
            retrieval=parsed.retrieval and parsed.retrieval.resolve(),
            depth=parsed.depth,
            threads=parsed.threads,
        )
        for system, seed in turns
    ]


def train_and_measure(job: Job) -> Result:
    """Train and evaluate, in this process."""
    with contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as name:
        begin(_PACKAGES, job.threads)
        from benchmarks.measure import now
        from benchmarks.rerank_finetune import evaluate, train_peer, train_swift, write_untrained

        rows, test = _rows(job)
        result: Result = {**job.key, "date": f"{datetime.datetime.now():%Y-%m-%d %H:%M}"}
        result["load"] = round(os.getloadavg()[0], 1)
        if job.seed is None:
            model = write_untrained(job.model, job.recipe, Path(name))
        else:
            train = train_swift if job.system == "swift" else train_peer
            trained = train(job.model, rows, job.recipe, job.seed, Path(name))
            model = trained.model
            result |= {
                "trained_lists": len(rows),
                "steps": trained.steps,
                "train_cpu_seconds": round(trained.time.cpu, 1),
                "train_wall_seconds": round(trained.time.wall, 1),
            }
        began = now()
        result["metrics"] = evaluate(model, job.recipe, test, job.retrieval, job.depth)
        result["evaluation_wall_seconds"] = round((now() - began).wall, 1)
        return result | {"test_lists": len(test)}


def _rows(job: Job) -> tuple[Sequence[Row], Sequence[Row]]:
    """Lists to train on, and lists to measure on."""
    rows = read_lists(job.data / "train.jsonl")
    if job.rows is not None:
        rows = random.Random(0).sample(rows, job.rows)
    if job.dev_share is None:
        return rows, read_lists(job.data / "test.jsonl")
    random.Random(0).shuffle(rows)
    count = round(len(rows) * job.dev_share)
    return rows[count:], rows[:count]


def _line(result: Result) -> str:
    time = ""
    if "steps" in result:
        time = f"{result['train_cpu_seconds']} CPU s, {result['train_wall_seconds']} s, "
    figures = ", ".join(f"{name} {value:.4f}" for name, value in result["metrics"].items())
    return (
        f"{result['set']} {result['system']} seed {result['seed']}: {time}{figures} "
        f"(evaluated in {result['evaluation_wall_seconds']} s)"
    )
