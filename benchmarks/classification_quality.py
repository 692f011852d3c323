"""Fine-tuning of classifiers on real data: accuracy and macro F1, Swift beside transformers' Trainer.

Every training is a process of its own, the two systems in turns. After each, a line goes to ``--results``;
what is there already is not done again, so a benchmark that was killed goes on where it stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import io
import json
import os
import random
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.jobs import Result, in_turns, model_folder, model_name, run_jobs
from benchmarks.machine import begin
from benchmarks.quality_report import table

if TYPE_CHECKING:
    from benchmarks.classify_finetune import ClassRecipe

_PACKAGES = ("swift-cls", "transformers", "peft", "torch", "accelerate", "scikit-learn")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One line of the results: train, then label the test texts."""

    data: Path
    model: Path
    system: str
    seed: int
    recipe: ClassRecipe
    rows: int | None
    dev_share: float | None
    threads: int | None

    @property
    def key(self) -> Result:
        """What tells this job from others, as JSON gives it back."""
        return {
            "set": self.data.name,
            "split": "dev" if self.dev_share else "test",
            "model": model_name(self.model),
            "system": self.system,
            "seed": self.seed,
            "rows": self.rows,
            "recipe": asdict(self.recipe),
        }


def main(arguments: list[str]) -> int:
    """Do what is not in the results yet, then print a table of all of it."""
    parsed = _parser().parse_args(arguments)
    begin(_PACKAGES, parsed.threads)
    found = run_jobs(_jobs(parsed), _do, parsed.results, _line)
    print("\n" + "\n".join(table(found, ("accuracy", "macro F1"))))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks classification-quality", description=__doc__)
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder with a folder for each data set")
    add("--set", required=True, help="which data set: train.jsonl and test.jsonl with text and label")
    add("--model", default="minilm", help="folder of an encoder, or minilm (default): that of the demo")
    add("--system", choices=("swift", "peer", "both"), default="both")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    add("--results", type=Path, default=Path("classification.jsonl"), help="default: classification.jsonl")
    add("--lora", action="store_true", help="train LoRA matrices and the head instead of all weights")
    add("--lora-rank", type=int, default=16, help="default: 16")
    add("--epochs", type=float, default=3, help="default: 3")
    add("--batch-size", type=int, default=32, help="default: 32")
    add("--learning-rate", type=float, default=1e-4, help="default: 1e-4")
    add("--warmup", type=float, default=0.1, help="share of the steps (default: 0.1)")
    add("--weight-decay", type=float, default=0.01, help="default: 0.01")
    add("--max-length", type=int, default=64, help="longest text in tokens (default: 64)")
    add("--prompt", default="", help="text before every text")
    add("--pooling", help="which vectors Swift's head reads: mean, cls, lasttoken (default: the class's own)")
    add("--head-start", default="random", help="where Swift's head starts: random (default), or probe")
    add("--rows", type=int, help="train on so many rows, drawn at random (default: all)")
    add("--dev", type=float, metavar="SHARE", help="measure on a share of train, held out, not on test")
    add("--threads", type=int, help="threads of torch (default: torch's own)")
    return parser


def _jobs(parsed: argparse.Namespace) -> list[Job]:
    from benchmarks.classify_finetune import ClassRecipe

    recipe = ClassRecipe(
        epochs=parsed.epochs,
        batch_size=parsed.batch_size,
        learning_rate=parsed.learning_rate,
        warmup=parsed.warmup,
        weight_decay=parsed.weight_decay,
        max_length=parsed.max_length,
        prompt=parsed.prompt,
        lora_rank=parsed.lora_rank if parsed.lora else None,
        pooling=parsed.pooling,
        head_start=parsed.head_start,
    )
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
        for system, seed in in_turns(parsed.system, parsed.seeds)
    ]


def _do(job: Job) -> Result:
    """Train and measure, in this process."""
    with contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as name:
        begin(_PACKAGES, job.threads)
        from sklearn.metrics import accuracy_score, f1_score

        from benchmarks.classify_finetune import train_peer, train_swift

        rows, test = _rows(job)
        result: Result = {**job.key, "date": f"{datetime.datetime.now():%Y-%m-%d %H:%M}"}
        result["load"] = round(os.getloadavg()[0], 1)
        train = train_swift if job.system == "swift" else train_peer
        outcome = train(job.model, rows, test, job.recipe, job.seed, Path(name))
        truth = [row["label"] for row in test]
        return result | {
            "trained_rows": len(rows),
            "test_rows": len(test),
            "steps": outcome.steps,
            "train_cpu_seconds": round(outcome.time.cpu, 1),
            "train_wall_seconds": round(outcome.time.wall, 1),
            "metrics": {
                "accuracy": float(accuracy_score(truth, outcome.predicted)),
                "f1_macro": float(f1_score(truth, outcome.predicted, average="macro")),
            },
        }


def _rows(job: Job) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Rows to train on, and rows to measure on."""

    def read(name: str) -> list[dict[str, Any]]:
        lines = (job.data / name).read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        return [{"text": job.recipe.prompt + row["text"], "label": row["label"]} for row in rows]

    rows = read("train.jsonl")
    if job.rows is not None:
        rows = random.Random(0).sample(rows, job.rows)
    if job.dev_share is None:
        return rows, read("test.jsonl")
    random.Random(0).shuffle(rows)
    count = round(len(rows) * job.dev_share)
    return rows[count:], rows[:count]


def _line(result: Result) -> str:
    metrics = result["metrics"]
    return (
        f"{result['set']} {result['system']} seed {result['seed']}: {result['train_cpu_seconds']} CPU s, "
        f"{result['train_wall_seconds']} s, accuracy {metrics['accuracy']:.4f}, "
        f"macro F1 {metrics['f1_macro']:.4f}"
    )
