"""Whole runs that answer, are judged and are exported, and train as if they had done nothing of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from swift_core import SwiftTrainer, TrainingArguments
from swift_core.errors import UserError
from swift_core.evaluation_inputs import evaluation_inputs, other_inputs
from swift_dpo.generation import Sampling, answers_of, rendered

Make = Callable[..., TrainingArguments]
Rows = list[dict[str, Any]]
TOYS = str(Path(__file__).parent / "toy_judge.py")
ANSWERED = {"eval_samples": 3, "eval_max_new_tokens": 6, "judge": f"{TOYS}:length"}
LOOP = {
    "max_steps": 3,
    "learning_rate": 5e-3,
    "eval_on_start": True,
    "eval_strategy": "steps",
    "eval_steps": 1,
}


def run(args: TrainingArguments, rows: Rows) -> SwiftTrainer:
    trainer = SwiftTrainer(args, train_dataset=rows, eval_dataset=rows)
    trainer.train()
    return trainer


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_a_run_that_answers_trains_like_one_that_does_not(
    causal: Path, pairs: Rows, make_args: Make, tmp_path: Path, lora: bool
) -> None:
    shared = {**LOOP, "use_lora": lora, "lora_rank": 2, "lora_dropout": 0.3 if lora else 0.0}
    quiet = run(make_args(causal, **shared), pairs)
    asked = run(
        make_args(causal, **shared, **ANSWERED, eval_temperature=1.0, output_dir=str(tmp_path / "asked")),
        pairs,
    )
    weights = [load_file(next(one.run.model.glob("*model.safetensors"))) for one in (quiet, asked)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_model_meets_the_one_that_was_given(
    causal: Path, pairs: Rows, make_args: Make, tmp_path: Path
) -> None:
    trainer = run(make_args(causal, **LOOP, **ANSWERED), pairs)
    history = [entry for entry in trainer.state.log_history if "eval_win_rate" in entry]
    assert [entry["step"] for entry in history] == [0, 1, 2, 3]
    start, *_, last = history
    # Before the first step both are the same model.
    assert (start["eval_win_rate"], start["eval_tie_rate"], start["eval_elo"]) == (0.5, 1.0, 1000.0)
    assert start["eval_elo_gain_low"] < 0 < start["eval_elo_gain_high"]
    assert last["eval_judge_score_reference"] == start["eval_judge_score"]
    table = trainer.run.folder / "evaluations" / "step-3" / "samples.jsonl"
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(causal)
    ids = [rendered(tokenizer, row["prompt"]) for row in pairs]
    how = Sampling(max_new_tokens=6)
    for name, model in (
        ("answer", AutoModelForCausalLM.from_pretrained(trainer.run.model)),
        ("reference_answer", AutoModelForCausalLM.from_pretrained(causal)),
    ):
        assert [row[name] for row in rows] == [one.text for one in answers_of(model, tokenizer, ids, how)]
    assert [row["answer"] for row in rows] != [row["reference_answer"] for row in rows]


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_in_mixed_precision_an_untrained_model_answers_as_its_reference(
    causal: Path, make_args: Make, lora: bool
) -> None:
    rows = [{"prompt": f"what is a cat {n}", "chosen": " a", "rejected": " b"} for n in range(24)]
    args = make_args(
        causal, use_lora=lora, bf16=True, eval_samples=24, eval_max_new_tokens=24, judge=f"{TOYS}:length"
    )
    # Before training nothing has told the policy of mixed precision; an adapter never hears of it.
    measured = SwiftTrainer(args, train_dataset=rows, eval_dataset=rows).evaluate()
    assert measured["eval_tie_rate"] == 1.0
    assert measured["eval_judge_score"] == measured["eval_judge_score_reference"]


def test_prompts_that_training_cuts_are_cut_for_evaluations(causal: Path, make_args: Make) -> None:
    rows = [
        {"prompt": [{"role": "user", "content": text}], "chosen": "a", "rejected": "b"}
        for text in ("who won the match", "the red team won " * 90)  # more than the model reads
    ]
    args = make_args(causal, overlong="truncate_prompt", eval_samples=2, eval_max_new_tokens=8)
    trainer = SwiftTrainer(args, train_dataset=rows, eval_dataset=rows)
    render, tokenizer = trainer.collator.render(args), trainer.collator.tokenizer
    short, long = (render(tokenizer, row["prompt"], None) for row in rows)
    assert short == rendered(tokenizer, rows[0]["prompt"])
    # As in training: the beginning stays that the template writes, and the end of what was asked.
    assert len(long) == 256 - 8
    whole = rendered(tokenizer, rows[1]["prompt"])
    assert (long[:3], long[-200:]) == (whole[:3], whole[-200:])
    assert trainer.evaluate()["eval_answer_tokens"] > 0


@pytest.mark.parametrize("task_type", ["dpo", "kto", "orpo"])
def test_a_run_exports_both_formats(
    task_type: str, causal: Path, pairs: Rows, make_args: Make, tmp_path: Path
) -> None:
    args = make_args(
        causal, task_type, use_lora=True, lora_rank=2, learning_rate=5e-3, export_formats=["hf", "adapter"]
    )
    rows: Rows = pairs
    if task_type == "kto":
        rows = [
            {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
            for row in pairs
            for side in ("chosen", "rejected")
        ]
    trainer = SwiftTrainer(args, train_dataset=rows)
    with trainer.recorded():
        trainer.train()
        folders = {name: trainer.save_model(str(tmp_path / name), format=name) for name in ("hf", "adapter")}
    tokenizer = AutoTokenizer.from_pretrained(causal)
    ids, how = [rendered(tokenizer, row["prompt"]) for row in pairs], Sampling(max_new_tokens=6)
    expected = answers_of(trainer.network, tokenizer, ids, how)
    for name, kind in (("hf", AutoModelForCausalLM), ("adapter", AutoPeftModelForCausalLM)):
        manifest = json.loads((folders[name] / "manifest.json").read_text())
        assert manifest["reload_rows"] == len(rows) and manifest["reload_difference"] < 1e-3
        assert answers_of(kind.from_pretrained(folders[name]), tokenizer, ids, how) == expected
        assert f"`{task_type}`" in (folders[name] / "README.md").read_text()


def test_a_judge_that_can_not_be_used_is_told_before_the_first_step(
    causal: Path, pairs: Rows, make_args: Make
) -> None:
    args = make_args(causal, eval_samples=3, judge="https://judge.example/v1", eval_prompts="nowhere.jsonl")
    with pytest.raises(UserError) as caught:
        SwiftTrainer(args, train_dataset=pairs, eval_dataset=pairs)
    assert [fault.split(":")[0] for fault in caught.value.faults] == ["judge_model", "nowhere.jsonl"]


def test_the_prompts_belong_to_what_evaluations_read(causal: Path, make_args: Make, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    args = make_args(causal, eval_prompts=str(path))
    before = evaluation_inputs(args)
    path.write_text('{"prompt": "a"}\n')
    assert other_inputs(before, evaluation_inputs(args)) == ["eval_prompts"]
