"""A reference that follows the policy: TRL's curve, across checkpoints, and never where it can't be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from swift_core import SwiftTrainer, TrainingArguments
from swift_core.errors import UserError
from swift_core.runner import evaluate_run, train_run
from swift_core.testing.forks import run_forked
from swift_dpo.model import memory_of
from swift_dpo.requirements import sync_faults

Make = Callable[..., TrainingArguments]
Rows = list[dict[str, Any]]

EXACT: dict[str, Any] = {
    "optim": "sgd",
    "learning_rate": 0.02,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0.0,
    "train_sampling_strategy": "sequential",
    "per_device_train_batch_size": 3,
}
SYNC: dict[str, Any] = {**EXACT, "reference_sync_steps": 2}
SAVED: dict[str, Any] = {"save_strategy": "steps", "save_steps": 1, "max_steps": 5}


def losses_of(trainer: Any) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def trained(make_args: Make, model: Path, rows: Rows, task_type: str = "dpo", **options: Any) -> SwiftTrainer:
    trainer = SwiftTrainer(make_args(model, task_type, **options), train_dataset=rows)
    trainer.train()
    return trainer


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def distance(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # TRL sets options that transformers renamed
@pytest.mark.parametrize("optim", ["sgd", "adamw_torch"])
def test_the_curve_is_trls(causal, pairs, make_args, train_trl, optim):
    rate = 0.01 if optim == "sgd" else 2e-3
    shared = {**EXACT, "max_steps": 5, "optim": optim, "learning_rate": rate}
    ours = trained(make_args, causal, pairs, **shared, reference_sync_steps=2)
    reference = AutoModelForCausalLM.from_pretrained(causal)
    theirs = train_trl(reference, sync_ref_model=True, ref_model_sync_steps=2, **shared)
    # Four decimals are what the library keeps of a logged loss.
    assert losses_of(ours) == pytest.approx(losses_of(theirs), abs=2e-4)
    still = trained(make_args, causal, pairs, **shared)
    assert losses_of(ours)[:2] == losses_of(still)[:2]
    assert abs(losses_of(ours)[2] - losses_of(still)[2]) > 0.01
    moved = weights(memory_of(ours.network).reference.second_model(ours.network))
    assert distance(moved, weights(theirs.ref_model)) < 1e-5
    assert distance(moved, weights(ours.network)) > 1e-4


@pytest.mark.parametrize("task_type", ["dpo", "kto"])
def test_a_copy_makes_policy_and_reference_equal_again(causal, pairs, make_args, task_type):
    options = {**SYNC, "max_steps": 3, "reference_mixup_alpha": 1.0}
    if task_type == "kto":
        options |= {"loss": "apo_zero_unpaired", "learning_rate": 0.1}
    trainer = trained(make_args, causal, pairs, task_type, **options)
    first, second, third = losses_of(trainer)
    assert third == pytest.approx(first, abs=1e-4)
    assert abs(second - first) > 1e-3


def test_a_cut_run_goes_on_exactly(causal, pairs, make_args):
    whole = trained(make_args, causal, pairs, **SYNC, **SAVED)
    whole.run.end("interrupted", None)
    for step in (3, 4):
        resumed = SwiftTrainer(make_args(causal, **SYNC, **SAVED), train_dataset=pairs)
        resumed.train(resume_from_checkpoint=str(whole.run.folder / f"checkpoint-{step}"))
        assert losses_of(resumed) == losses_of(whole)
        assert distance(weights(resumed.network), weights(whole.network)) == 0
        resumed.run.end("interrupted", None)


def test_a_checkpoint_holds_the_reference_and_the_model_does_not(causal, pairs, make_args):
    trainer = trained(make_args, causal, pairs, **SYNC, **SAVED)
    kept = load_file(trainer.run.folder / "checkpoint-4" / "reference.safetensors")
    assert distance(kept, weights(memory_of(trainer.network).reference.second_model(trainer.network))) == 0
    assert not list(trainer.run.model.glob("reference*"))
    plain = trained(make_args, causal, pairs, **EXACT, **{**SAVED, "max_steps": 1})
    assert not list(plain.run.folder.rglob("reference.safetensors"))


@pytest.mark.parametrize("harm", ["gone", "other"])
def test_a_checkpoint_without_its_reference_is_refused(causal, pairs, make_args, harm):
    options = {**SYNC, **SAVED, "max_steps": 3}
    trainer = trained(make_args, causal, pairs, **options)
    trainer.run.end("interrupted", None)
    checkpoint = trainer.run.folder / "checkpoint-3"
    if harm == "gone":
        (checkpoint / "reference.safetensors").unlink()
    else:
        AutoModelForCausalLM.from_pretrained(causal).model.save_pretrained(checkpoint / "x")
        (checkpoint / "x" / "model.safetensors").replace(checkpoint / "reference.safetensors")
    again = SwiftTrainer(make_args(causal, **options), train_dataset=pairs)
    told = "has no reference.safetensors" if harm == "gone" else "weights of another model"
    with pytest.raises(UserError, match=rf"checkpoint-3.*{told}"):
        again.train(resume_from_checkpoint=str(checkpoint))


def samples_of(run: Any) -> Rows:
    text = (run.folder / "evaluations/step-2/samples.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_answers_are_judged_against_step_0_and_figures_against_the_moved_reference(
    causal, pairs, make_args, tmp_path
):
    data = tmp_path / "pairs.jsonl"
    data.write_text("\n".join(json.dumps(row) for row in pairs))
    options = {
        **SYNC,
        "dataset": str(data),
        "eval_dataset": str(data),
        "eval_samples": 3,
        "eval_max_new_tokens": 6,
        "max_steps": 2,
        "learning_rate": 0.2,
    }
    run = train_run(make_args(causal, **options, reference_mixup_alpha=1.0))
    assert run is not None
    # The reference has just become a copy.
    assert run.record["metrics"]["eval_rewards/margins"] == pytest.approx(0, abs=1e-5)
    rows = samples_of(run)
    still = train_run(make_args(causal, **{**options, "reference_sync_steps": 100, "learning_rate": 0.0}))
    assert still is not None
    given = samples_of(still)
    assert [row["reference_answer"] for row in rows] == [row["answer"] for row in given]
    assert [row["answer"] for row in rows] != [row["reference_answer"] for row in rows]
    # A finished run has no reference beside it but the model that it began with.
    assert evaluate_run(run.folder, [])["eval_rewards/margins"] > 0.01


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"use_lora": True}, ["use_lora to false"]),
        ({"reference_cache": "lazy"}, ["reference_cache to off or leave it out"]),
        ({"reference_cache": "ahead", "use_lora": True}, ["use_lora", "ahead keeps"]),
        ({"reference_cache": "off"}, []),
        ({}, []),
        ({"reference_sync_steps": None, "reference_mixup_alpha": 0.6}, ["without reference_sync_steps"]),
    ],
)
def test_what_can_not_move_is_refused_before_anything_is_loaded(make_args, tmp_path, options, told):
    faults = sync_faults(make_args(tmp_path / "nowhere", **{"reference_sync_steps": 2, **options}))
    assert len(faults) == len(told)
    assert all(words in fault for words, fault in zip(told, faults, strict=True))


@pytest.mark.parametrize("strategy", ["fsdp", "deepspeed"])
def test_spread_weights_are_refused(make_args, tmp_path, strategy):
    args = make_args(tmp_path / "nowhere", reference_sync_steps=2)
    setattr(args.trainer, strategy, "full_shard")
    (fault,) = sync_faults(args)
    assert strategy in fault


def test_a_run_with_lora_is_refused_with_all_faults(causal, pairs, make_args):
    args = make_args(causal, reference_sync_steps=2, use_lora=True, loss="ipo", label_smoothing=0.1)
    with pytest.raises(UserError, match=r"label_smoothing[\s\S]*reference_sync_steps"):
        SwiftTrainer(args, train_dataset=pairs)


def test_a_reference_of_another_shape_is_refused(causal, pairs, make_args, tmp_path):
    config = Qwen3Config.from_pretrained(causal)
    config.intermediate_size = 32
    Qwen3ForCausalLM(config).save_pretrained(tmp_path / "other")
    AutoTokenizer.from_pretrained(causal).save_pretrained(tmp_path / "other")
    args = make_args(causal, **SYNC, reference=str(tmp_path / "other"))
    with pytest.raises(UserError, match="reference: expected the weights of the policy"):
        SwiftTrainer(args, train_dataset=pairs).train()


JOB = """
import json
from swift_core import SwiftTrainer, TrainingArguments

options, rows = json.load(open("job.json"))
trainer = SwiftTrainer(TrainingArguments(**options), train_dataset=rows)
trainer.train()
if trainer.run is not None:
    json.dump(str(trainer.run.model), open("result.json", "w"))
"""


def test_two_processes_move_it_alike(causal, pairs, make_args, tmp_path):
    rows = [*pairs, {"prompt": "who won", "chosen": " the red team", "rejected": " rain fell"}]
    options = {**SYNC, "max_steps": 4}
    whole = trained(make_args, causal, rows, **{**options, "per_device_train_batch_size": 4})
    args = make_args(causal, **{**options, "per_device_train_batch_size": 2})
    (tmp_path / "job.json").write_text(json.dumps([{"task_type": "dpo", **args.given}, rows]))
    (tmp_path / "job.py").write_text(JOB)
    done = run_forked("job.py", folder=tmp_path, processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    (path,) = Path(json.loads((tmp_path / "result.json").read_text())).glob("*.safetensors")
    alone = load_file(whole.run.model / "model.safetensors")
    assert distance(load_file(path), alone) < 1e-5
