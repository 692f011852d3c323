"""Whole runs: TRL's curve, the same however they are cut, and always against the model as it was given."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from swift_core import SwiftTrainer, TrainingArguments
from swift_core.runner import evaluate_run, train_run
from swift_core.testing.forks import run_forked
from swift_dpo.model import memory_of

Make = Callable[..., TrainingArguments]
Rows = list[dict[str, Any]]

# SGD without clipping: the weights after a step show the gradient itself.
EXACT: dict[str, Any] = {
    "optim": "sgd",
    "learning_rate": 0.05,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0.0,
    "train_sampling_strategy": "sequential",
}
LORA = {"use_lora": True, "lora_rank": 4}
RANKED = [
    {
        "prompt": "what is a cat",
        "answers": [" a small animal", " the bank raised rates", " an animal", " x"],
        "scores": [3.0, 0.0, 2.0, 0.0],
    },
    {"prompt": "who won", "answers": [" rain fell on the town", " the red team"], "scores": [0.2, 0.9]},
]


def losses_of(trainer: Any) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def weights_of(run: Any) -> dict[str, torch.Tensor]:
    (path,) = run.model.glob("*model.safetensors")
    return load_file(path)


def distance(first: Any, second: Any) -> float:
    a, b = weights_of(first), weights_of(second)
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def trained(make_args: Make, model: Path, rows: Rows, task_type: str = "dpo", **options: Any) -> SwiftTrainer:
    trainer = SwiftTrainer(make_args(model, task_type, **options), train_dataset=rows)
    trainer.train()
    return trainer


@pytest.mark.filterwarnings("ignore::FutureWarning")  # TRL sets options that transformers renamed
@pytest.mark.parametrize("loss", ["sigmoid", "apo_zero"])
def test_the_curve_is_trls(causal, pairs, make_args, train_trl, loss):
    shared = {**EXACT, "max_steps": 5, "per_device_train_batch_size": 3, "learning_rate": 0.01}
    ours = trained(make_args, causal, pairs, loss=loss, **shared)
    theirs = train_trl(loss_type=[loss], **shared)
    # Four decimals are what the library keeps of a logged loss.
    assert losses_of(ours) == pytest.approx(losses_of(theirs), abs=2e-4)
    assert losses_of(ours)[-1] < losses_of(ours)[0] - 0.05
    names = ["rewards/chosen", "rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected"]
    last = [[e for e in t.state.log_history if "loss" in e][-1] for t in (ours, theirs)]
    assert [last[0][n] for n in names] == pytest.approx([last[1][n] for n in names], rel=1e-3, abs=1e-3)


@pytest.mark.parametrize(
    ("task_type", "options"),
    [
        ("dpo", {"loss": ["sigmoid", "sft"]}),
        ("dpo", LORA),
        ("cpo", {}),
        ("simpo", {}),
        ("orpo", {}),
        ("kto", {"loss": "apo_zero_unpaired"}),
    ],
    ids=["dpo with sft", "dpo with LoRA", "cpo", "simpo", "orpo", "kto"],
)
def test_accumulation_does_not_change_a_step(causal, pairs, make_args, task_type, options):
    whole, cut = (
        trained(
            make_args,
            causal,
            [*pairs, *RANKED_AS_PAIRS] if task_type == "kto" else pairs,
            task_type,
            **{**EXACT, **options},
            per_device_train_batch_size=size,
            gradient_accumulation_steps=count,
        )
        for size, count in ([(10, 1), (3, 4)] if task_type == "kto" else [(3, 1), (1, 3)])
    )
    assert distance(whole.run, cut.run) < 1e-5
    assert losses_of(whole) == pytest.approx(losses_of(cut), abs=2e-4)


RANKED_AS_PAIRS = [
    {"prompt": "what is a dog", "chosen": " an animal", "rejected": " x"},
    {"prompt": "who won", "chosen": " the red team", "rejected": " rain fell on the town"},
]


def test_ranked_answers_count_pair_by_pair(causal, make_args):
    # 4 answers of which two are equally bad make 5 pairs, and the other row has one.
    whole = trained(make_args, causal, RANKED, **EXACT, per_device_train_batch_size=2, max_steps=1)
    pairs = [
        {"prompt": row["prompt"], "chosen": row["answers"][i], "rejected": row["answers"][j]}
        for row in RANKED
        for i in range(len(row["answers"]))
        for j in range(len(row["answers"]))
        if row["scores"][i] > row["scores"][j]
    ]
    assert len(pairs) == 6
    single = trained(make_args, causal, pairs, **EXACT, per_device_train_batch_size=6, max_steps=1)
    assert distance(whole.run, single.run) < 1e-5


@pytest.mark.parametrize("options", [{}, LORA], ids=["all weights", "LoRA"])
def test_the_reference_is_the_model_as_it_was_given(causal, pairs, make_args, tmp_path, options):
    data = tmp_path / "pairs.jsonl"
    data.write_text("\n".join(json.dumps(row) for row in pairs))
    args = make_args(
        causal,
        dataset=str(data),
        eval_dataset=str(data),
        per_device_train_batch_size=3,
        max_steps=4,
        learning_rate=1e-2,
        **options,
    )
    run = train_run(args)
    assert run is not None
    figures = {
        name: value for name, value in run.record["metrics"].items() if name.startswith("eval_rewards")
    }
    assert figures["eval_rewards/margins"] > 0.1
    (table,) = run.folder.glob("evaluations/step-4/pairs.jsonl")
    told = sorted((json.loads(line) for line in table.read_text().splitlines()), key=lambda row: row["row"])
    assert [row["prompt"] for row in told] == [row["prompt"] for row in pairs]
    margins = [
        row["logps_chosen"] - row["reference_chosen"] - row["logps_rejected"] + row["reference_rejected"]
        for row in told
    ]
    assert 0.1 * sum(margins) / 3 == pytest.approx(figures["eval_rewards/margins"], abs=1e-4)
    # Another process, the model from its folder, and nothing that the cache remembers.
    again = evaluate_run(run.folder, [f"cache_dir={tmp_path / 'other'}"])
    assert {name: again[name] for name in figures} == pytest.approx(figures, abs=1e-4)


def test_a_second_run_asks_no_reference(causal, pairs, make_args, monkeypatch):
    options = {**EXACT, "per_device_train_batch_size": 3, "beta": 0.3}
    first = trained(make_args, causal, pairs, **options)
    memory = memory_of(first.network)
    assert len(memory.reference.cached) == 6
    monkeypatch.setattr("swift_dpo.reference.Reference.opened", lambda *_: pytest.fail("it is in the cache"))
    second = trained(make_args, causal, pairs, **options)
    assert losses_of(first) == losses_of(second)


def test_values_of_other_weights_are_not_taken(causal, pairs, make_args, tmp_path):
    other = tmp_path / "other"
    model = AutoModelForCausalLM.from_pretrained(causal)
    with torch.no_grad():
        next(model.parameters()).mul_(1.01)
    model.save_pretrained(other)
    AutoTokenizer.from_pretrained(causal).save_pretrained(other)
    for folder in (causal, other):
        trainer = trained(make_args, folder, pairs, **EXACT, per_device_train_batch_size=3, max_steps=1)
        # Before the first step policy and reference are the same.
        assert losses_of(trainer)[0] == pytest.approx(0.6931, abs=1e-4)


def test_ahead_means_that_no_reference_is_in_memory(causal, pairs, make_args):
    options = {**EXACT, "per_device_train_batch_size": 3, "max_steps": 3}
    lazy = trained(make_args, causal, pairs, **options, reference_cache="off")
    ahead = trained(make_args, causal, pairs, **options, reference_cache="ahead")
    assert losses_of(ahead) == pytest.approx(losses_of(lazy), abs=1e-4)
    assert memory_of(ahead.network).reference._model is None
    assert memory_of(lazy.network).reference._model is not None
    assert distance(lazy.run, ahead.run) < 1e-5


def test_another_model_may_be_the_reference(causal, pairs, make_args, tmp_path):
    first = trained(make_args, causal, pairs, **{**EXACT, "learning_rate": 0.5}, max_steps=3)
    second = trained(make_args, causal, pairs, **EXACT, reference=str(first.run.model), max_steps=1)
    assert abs(losses_of(second)[0] - 0.6931) > 1e-3


def test_a_killed_run_goes_on_exactly(causal, pairs, make_args):
    options = {**EXACT, "per_device_train_batch_size": 2, "max_steps": 4, "save_steps": 2}
    options |= {"save_strategy": "steps", **LORA}
    whole = trained(make_args, causal, pairs, **options, seed=1)
    cut = trained(make_args, causal, pairs, **options, seed=1)
    cut.run.end("interrupted", None)
    resumed = SwiftTrainer(make_args(causal, **options, seed=1), train_dataset=pairs)
    resumed.train(resume_from_checkpoint=str(cut.run.folder / "checkpoint-2"))
    assert distance(whole.run, resumed.run) < 1e-6


@pytest.mark.parametrize("loss", ["bco_pair", "sigmoid"])
def test_a_checkpoint_is_checked_by_its_weights_alone(causal, pairs, make_args, loss):
    options = {"loss": loss, "dynamic_beta": 0.6, "save_strategy": "steps", "save_steps": 2}
    trainer = trained(make_args, causal, pairs, **EXACT, **options, per_device_train_batch_size=2)
    assert (trainer.run.folder / "checkpoint-2").is_dir()


@pytest.mark.parametrize("options", [{}, LORA], ids=["all weights", "LoRA"])
def test_mixed_precision_learns_the_same_and_can_be_reloaded(causal, pairs, make_args, options):
    options = {**options, "per_device_train_batch_size": 3, "learning_rate": 1e-2, "max_steps": 3}
    exact = trained(make_args, causal, pairs, **options)
    mixed = trained(make_args, causal, pairs, **options, bf16=True)
    assert losses_of(mixed) == pytest.approx(losses_of(exact), abs=0.02)
    assert losses_of(mixed)[0] == pytest.approx(0.6931, abs=5e-3)  # the reference is as coarse as the policy


JOB = """
import json
from swift_core import SwiftTrainer, TrainingArguments

options, rows = json.load(open("job.json"))
trainer = SwiftTrainer(TrainingArguments(**options), train_dataset=rows, eval_dataset=rows)
trainer.train()
metrics = trainer.evaluate()
if trainer.run is not None:
    json.dump([str(trainer.run.model), metrics], open("result.json", "w"))
"""


def test_two_processes_do_not_change_a_step(causal, pairs, make_args, tmp_path):
    # Each has a part of the step's pairs and tokens; both evaluate, and get the figures of all.
    rows = [*pairs, *RANKED_AS_PAIRS[:1]]
    options = {**EXACT, "beta": 0.2}
    whole = SwiftTrainer(
        make_args(causal, "orpo", **options, per_device_train_batch_size=4), rows, eval_dataset=rows
    )
    whole.train()
    expected = whole.evaluate()
    args = make_args(causal, "orpo", **options, per_device_train_batch_size=2)
    job = {"task_type": "orpo", **args.given, "output_dir": "output"}
    (tmp_path / "job.json").write_text(json.dumps([job, rows]))
    (tmp_path / "job.py").write_text(JOB)
    done = run_forked("job.py", folder=tmp_path, processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    folder, metrics = json.loads((tmp_path / "result.json").read_text())
    a, b = weights_of(whole.run), load_file(Path(folder) / "model.safetensors")
    assert max(float((a[name] - b[name]).abs().max()) for name in a) < 1e-5
    names = ["eval_rewards/margins", "eval_rewards/accuracies", "eval_loss"]
    assert [metrics[n] for n in names] == pytest.approx([expected[n] for n in names], abs=1e-4)


def test_kto_trains_past_the_first_look_of_the_alarm(causal, pairs, make_args, monkeypatch):
    monkeypatch.setattr("swift_dpo.alarm._BATCHES", 2)
    trainer = trained(make_args, causal, pairs, "kto", per_device_train_batch_size=2, max_steps=6)
    assert trainer.state.global_step == 6


def test_an_evaluation_before_training_is_in_the_precision_of_training(causal, pairs, make_args):
    options = {**LORA, "bf16": True, "per_device_train_batch_size": 3, "max_steps": 1}
    trainer = SwiftTrainer(make_args(causal, **options), train_dataset=pairs, eval_dataset=pairs)
    assert trainer.evaluate()["eval_kl/chosen"] == pytest.approx(0, abs=1e-6)
    trainer.train()
    assert losses_of(trainer)[0] == pytest.approx(0.6931, abs=1e-4)


def test_samples_of_the_reference_do_not_keep_it_in_memory(causal, pairs, make_args):
    options = {"reference_cache": "ahead", "eval_samples": 2, "eval_max_new_tokens": 3, "max_steps": 1}
    trainer = SwiftTrainer(make_args(causal, **options), train_dataset=pairs, eval_dataset=pairs)
    trainer.train()
    assert trainer.evaluate()["eval_answer_tokens_reference"] > 0
    assert memory_of(trainer.network).reference._model is None


@pytest.mark.parametrize("family", ["OPT", "BioGpt", "GPTBigCode"])
def test_dropout_is_off_whatever_a_family_calls_it(family):
    import transformers

    from swift_dpo.model import _drop_nothing

    config = getattr(transformers, f"{family}Config")(
        vocab_size=90, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=64
    )
    model = transformers.AutoModelForCausalLM.from_config(config).train()
    ids = torch.arange(5, 25)[None]
    assert not torch.equal(model(ids).logits, model(ids).logits)
    _drop_nothing(model)
    torch.testing.assert_close(model(ids).logits, model(ids).logits, atol=1e-6, rtol=0)
