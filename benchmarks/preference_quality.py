"""Training on preferences of real data: reward accuracy, and answers that a judge checks; Swift beside TRL.

Every training is a process of its own, the two systems in turns, on the same rows in the same order. After
each, a line goes to ``--results``; what is there already is not done again, so a benchmark that was killed
goes on where it stopped.
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

from benchmarks.jobs import Result, in_turns, model_name, run_jobs
from benchmarks.machine import begin
from benchmarks.preference_rows import fitting, read_pairs
from benchmarks.quality_report import table
from benchmarks.workload import Row

if TYPE_CHECKING:
    from benchmarks.preference_finetune import Arena, PreferenceRecipe

_PACKAGES = ("swift-dpo", "trl", "transformers", "torch", "accelerate", "peft")
_EXAMPLES = Path(__file__).parents[1] / "plugins" / "swift-dpo" / "examples"


@dataclass(frozen=True, kw_only=True)
class Job:
    """One line of the results: train, then measure on the test pairs and prompts."""

    data: Path
    model: Path
    system: str
    seed: int
    recipe: PreferenceRecipe
    rows: int | None
    test_rows: int | None
    arena: Arena
    threads: int | None

    @property
    def key(self) -> Result:
        """What tells this job from others, as JSON gives it back."""
        return {
            "set": self.data.name,
            "model": model_name(self.model),
            "system": self.system,
            "seed": self.seed,
            "rows": self.rows,
            "test_rows": self.test_rows,
            "recipe": asdict(self.recipe),
            "arena": asdict(self.arena),
        }


def main(arguments: list[str]) -> int:
    """Do what is not in the results yet, then print a table of all of it."""
    parsed = parser().parse_args(arguments)
    begin(_PACKAGES, parsed.threads)
    found = run_jobs(jobs_of(parsed), train_and_measure, parsed.results, _line)
    print("\n" + "\n".join([*table(found, list(found[0]["metrics"])), *_curve_lines(found)]))
    return 0


def parser() -> argparse.ArgumentParser:
    """The options."""
    found = argparse.ArgumentParser(prog="python -m benchmarks preference-quality", description=__doc__)
    add = found.add_argument
    add("--data", type=Path, required=True, help="folder with a folder for each data set")
    add("--set", required=True, help="which: train.jsonl and test.jsonl of prompt, chosen, rejected")
    add("--model", type=Path, required=True, help="folder of a causal model with a chat template")
    add("--system", choices=("swift", "peer", "both"), default="both")
    add("--seeds", type=int, nargs="+", default=[0], help="of the order of rows, and of LoRA (default: 0)")
    add("--results", type=Path, default=Path("preference.jsonl"), help="default: preference.jsonl")
    add("--epochs", type=float, default=1, help="default: 1")
    add("--batch-size", type=int, default=8, help="pairs of a batch (default: 8)")
    add("--learning-rate", type=float, help="default: 1e-4 with --lora, 5e-6 without")
    add("--warmup", type=float, default=0.1, help="share of the steps (default: 0.1)")
    add("--beta", type=float, default=0.1, help="default: 0.1")
    add("--max-length", type=int, default=512, help="longer rows are left out (default: 512)")
    add("--lora", type=int, nargs="?", const=16, metavar="RANK", help="train LoRA (rank 16)")
    add("--rows", type=int, help="train on so many rows, drawn at random (default: all)")
    add("--test-rows", type=int, help="measure on the first test rows only (default: all)")
    add("--prompts", type=int, default=64, help="test prompts that are answered and judged (default: 64)")
    add("--max-new-tokens", type=int, default=64, help="longest answer (default: 64)")
    add("--judge", help="FILE.py:FUNCTION, or none (default: that of swift-dpo's example of the set)")
    add("--threads", type=int, help="threads of torch (default: torch's own)")
    return found


def jobs_of(parsed: argparse.Namespace) -> list[Job]:
    """What the options ask for, the systems in turns."""
    from benchmarks.preference_finetune import Arena, PreferenceRecipe

    recipe = PreferenceRecipe(
        epochs=parsed.epochs,
        batch_size=parsed.batch_size,
        learning_rate=parsed.learning_rate or (1e-4 if parsed.lora else 5e-6),
        warmup=parsed.warmup,
        beta=parsed.beta,
        max_length=parsed.max_length,
        lora_rank=parsed.lora,
    )
    judge = parsed.judge or judge_of(parsed.set)
    judged = judge is not None and judge != "none"
    arena = Arena(
        judge=judge if judged else None,
        prompts=parsed.prompts if judged else 0,
        max_new_tokens=parsed.max_new_tokens,
    )
    return [
        Job(
            data=(parsed.data / parsed.set).resolve(),
            model=parsed.model.resolve(),
            system=system,
            seed=seed,
            recipe=recipe,
            rows=parsed.rows,
            test_rows=parsed.test_rows,
            arena=arena,
            threads=parsed.threads,
        )
        for system, seed in in_turns(parsed.system, parsed.seeds)
    ]


def judge_of(name: str) -> str | None:
    """The function that checks answers of a set, where swift-dpo has an example with one."""
    path = _EXAMPLES / name / "judge.py"
    return f"{path}:score" if path.exists() else None


def train_and_measure(job: Job) -> Result:
    """Train and evaluate, in this process."""
    with contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as name:
        begin(_PACKAGES, job.threads)
        from benchmarks.measure import now
        from benchmarks.preference_finetune import evaluate, train_peer, train_swift

        rows, test = _rows(job)
        result: Result = {**job.key, "date": f"{datetime.datetime.now():%Y-%m-%d %H:%M}"}
        result["load"] = round(os.getloadavg()[0], 1)
        train = train_swift if job.system == "swift" else train_peer
        trained = train(job.model, rows, job.recipe, job.seed, Path(name))
        began = now()
        figures = evaluate(trained.model, job.model, job.recipe, test, job.arena, Path(name))
        return result | {
            "trained_rows": len(rows),
            "test_pairs": len(test),
            "steps": len(trained.losses),
            "train_cpu_seconds": round(trained.time.cpu, 1),
            "train_wall_seconds": round(trained.time.wall, 1),
            "evaluation_wall_seconds": round((now() - began).wall, 1),
            "metrics": figures.metrics,
            "more": figures.more,
            "losses": [round(loss, 7) for loss in trained.losses],
        }


def _rows(job: Job) -> tuple[Sequence[Row], Sequence[Row]]:
    """Rows to train on, and rows to measure on."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(job.model, local_files_only=True)
    limit = job.recipe.max_length
    rows = fitting(read_pairs(job.data / "train.jsonl"), tokenizer, limit)
    if job.rows is not None:
        rows = random.Random(0).sample(rows, job.rows)
    test = fitting(read_pairs(job.data / "test.jsonl"), tokenizer, limit)
    return rows, test[: job.test_rows]


def _line(result: Result) -> str:
    figures = ", ".join(f"{name} {value:.4f}" for name, value in result["metrics"].items())
    return (
        f"{result['set']} {result['system']} seed {result['seed']}: {result['train_cpu_seconds']} CPU s, "
        f"{result['train_wall_seconds']} s, {figures} (evaluated in {result['evaluation_wall_seconds']} s)"
    )


def _curve_lines(results: Sequence[Result]) -> list[str]:
    """How far the losses of the two systems are from each other, step by step."""
    losses = {(result["system"], result["seed"]): result["losses"] for result in results}
    seeds = sorted({seed for system, seed in losses if system == "swift" and ("peer", seed) in losses})
    lines = []
    for seed in seeds:
        pairs = list(zip(losses["swift", seed], losses["peer", seed], strict=True))
        differences = [abs(mine - theirs) for mine, theirs in pairs]
        lines.append(
            f"\nlosses of the {len(pairs)} steps of seed {seed}: largest difference {max(differences):.1e}, "
            f"of the first {differences[0]:.1e}; means {sum(a for a, _ in pairs) / len(pairs):.4f} (swift) "
            f"and {sum(b for _, b in pairs) / len(pairs):.4f} (peer)"
        )
    return lines
