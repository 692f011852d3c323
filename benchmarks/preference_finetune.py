"""One training on preferences by one of two systems, and one evaluation for both.

Both systems get the same pairs in the same order with the same options, start from the same model and, with
LoRA, from the same matrices. What was trained is written to a folder, which Swift loads and measures beside
the model as it was, whoever wrote it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
import trl
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.measure import RecordsLoss, Span, now
from benchmarks.preference_sides import PeerTrainer, SameAdapter, answers_only, peer_lora
from benchmarks.sides import recipe_options
from benchmarks.workload import Row
from swift_core import SwiftTrainer, TrainingArguments
from swift_core.preparation import prepare_for_evaluation

_PAIR_METRICS = {"rewards/accuracies": "reward accuracy", "rewards/margins": "reward margin"}
_JUDGED_METRICS = {
    "judge_score_reference": "judge score, untrained",
    "judge_score": "judge score",
    "win_rate": "win rate",
    "elo_gain": "Elo gain, %",
}
_MORE = ("loss", "elo", "elo_gain_low", "elo_gain_high", "tie_rate", "answer_tokens", "answer_complete")


@dataclass(frozen=True, kw_only=True)
class PreferenceRecipe:
    """What both systems are told; the learning rate rises, then falls to 0 linearly.

    Attributes:
        batch_size: pairs of a batch.
        warmup: share of the steps in which the learning rate rises.
        beta: of the loss, which is DPO's.
        max_length: longest prompt with answer in tokens.
        lora_rank: None: all weights are trained.
    """

    epochs: float
    batch_size: int
    learning_rate: float
    warmup: float
    beta: float
    max_length: int
    lora_rank: int | None


@dataclass(frozen=True, kw_only=True)
class Arena:
    """How answers are judged.

    Attributes:
        judge: FILE.py:FUNCTION that scores an answer; None: no prompt is answered.
        prompts: how many of the test prompts are answered.
        max_new_tokens: longest answer.
    """

    judge: str | None
    prompts: int
    max_new_tokens: int


@dataclass(frozen=True)
class Trained:
    """Where the model is, the time from the rows to it, and the loss of each step."""

    model: Path
    time: Span
    losses: Sequence[float]


@dataclass(frozen=True)
class Figures:
    """What was measured of a model: what is compared, and more of the same."""

    metrics: dict[str, float]
    more: dict[str, float]


class _SwiftTrainer(RecordsLoss, SwiftTrainer):
    pass


def train_swift(
    model: Path, rows: Sequence[Row], recipe: PreferenceRecipe, seed: int, folder: Path
) -> Trained:
    """Train with SwiftTrainer.

    The time is that of loading the weights, tokenising, training and writing the model.
    """
    lora = {} if recipe.lora_rank is None else {"use_lora": True, "lora_rank": recipe.lora_rank}
    args = TrainingArguments(
        "dpo",
        **recipe_options(recipe, seed, folder),
        **lora,
        model_name_or_path=str(model),
        max_length=recipe.max_length,
        beta=recipe.beta,
        train_sampling_strategy="sequential",
        cache_dir=str(folder / "cache"),
        max_bad_rows=1.0,
        # The peer does not reload what it has written.
        verify_saves=False,
    )
    began = now()
    trainer = _SwiftTrainer(args, train_dataset=_shuffled(rows, seed), callbacks=[SameAdapter(seed)])
    trainer.train()
    took = now() - began
    assert trainer.run is not None
    return Trained(trainer.run.model, took, _floats(trainer.losses))


def train_peer(
    model: Path, rows: Sequence[Row], recipe: PreferenceRecipe, seed: int, folder: Path
) -> Trained:
    """Train with TRL's DPOTrainer, in its leanest form.

    The time is that of the same things as in :func:`train_swift`.
    """
    began = now()
    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    with answers_only():
        trainer = PeerTrainer(
            model=AutoModelForCausalLM.from_pretrained(model, local_files_only=True, dtype=torch.float32),
            args=trl.DPOConfig(
                **recipe_options(recipe, seed, folder),
                max_length=recipe.max_length,
                beta=recipe.beta,
                bf16=False,
                activation_checkpointing=False,
                train_sampling_strategy="sequential",
            ),
            train_dataset=datasets.Dataset.from_list(_shuffled(rows, seed)),
            processing_class=tokenizer,
            peft_config=peer_lora(recipe.lora_rank),
            callbacks=[SameAdapter(seed)],
        )
        trainer.train()
        trainer.save_model(str(folder / "model"))
    return Trained(folder / "model", now() - began, _floats(trainer.losses))


def _shuffled(rows: Sequence[Row], seed: int) -> list[Row]:
    """The same order for both: their own samplers may draw differently. Columns of the judge are left out."""
    found = [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in rows]
    random.Random(seed).shuffle(found)
    return found


def _floats(losses: Sequence[torch.Tensor]) -> list[float]:
    return [float(loss) for loss in losses]


def evaluate(
    model: Path, reference: Path, recipe: PreferenceRecipe, test: Sequence[Row], arena: Arena, folder: Path
) -> Figures:
    """Measure ``model`` beside ``reference``, the model that it was made from.

    Args:
        model: a folder with all weights or an adapter.
        reference: see there.
        recipe: what it was trained with.
        test: rows as :func:`benchmarks.preference_rows.read_pairs` reads them; their prompts are answered.
        arena: who judges these answers.
        folder: for files that are needed.
    """
    path = folder / "test.jsonl"
    lines = [json.dumps(row, ensure_ascii=False) for row in test]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    judged: dict[str, Any] = {"eval_samples": 0}
    if arena.judge is not None:
        judged = {
            "judge": arena.judge,
            "eval_prompts": str(path),
            "eval_samples": arena.prompts,
            "eval_max_new_tokens": arena.max_new_tokens,
        }
    args = TrainingArguments(
        "dpo",
        **judged,
        model_name_or_path=str(model),
        reference=str(reference),
        eval_dataset=str(path),
        max_length=recipe.max_length,
        beta=recipe.beta,
        output_dir=str(folder / "evaluation"),
        cache_dir=str(folder / "cache"),
        max_bad_rows=1.0,
        report_to="none",
        disable_tqdm=True,
    )
    found = SwiftTrainer(args, prepared=prepare_for_evaluation(args)).evaluate()
    names = _PAIR_METRICS if arena.judge is None else _PAIR_METRICS | _JUDGED_METRICS
    return Figures(
        {shown: round(found[f"eval_{name}"], 6) for name, shown in names.items()},
        {name: found[f"eval_{name}"] for name in _MORE if f"eval_{name}" in found},
    )
