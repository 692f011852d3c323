"""What a training does: steps, seeds, resuming, and that it learns."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

from swift_core import SwiftTrainer, TrainingArguments
from swift_core.errors import UserError

Make = Callable[..., TrainingArguments]

# SGD without clipping or dropout: the weights after a step show the gradient itself.
EXACT: dict[str, Any] = {
    "optim": "sgd",
    "learning_rate": 0.1,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0.0,
    "max_steps": 2,
}


@pytest.fixture(scope="session")
def still_bert(bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small BERT without dropout."""
    folder = tmp_path_factory.mktemp("still")
    for path in bert.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_scores_are_learned(bert: Path, make_args: Make, rows: list[dict[str, Any]]) -> None:
    scored = [{"text": row["text"], "label": len(row["text"]) / 10} for row in rows]
    args = make_args(bert, max_steps=60, learning_rate=5e-3, per_device_train_batch_size=9)
    trainer = SwiftTrainer(args, scored, scored)
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_mse"] < before["eval_mse"] / 10
    assert after["eval_pearson"] > 0.5
    assert trainer.network.config.problem_type == "regression"


@pytest.mark.parametrize("lora", [False, True])
def test_a_decoder_learns_what_it_is_shown(
    lora: bool, qwen: Path, make_args: Make, rows: list[dict[str, Any]]
) -> None:
    args = make_args(
        qwen, max_steps=60, learning_rate=1e-2, per_device_train_batch_size=9, use_lora=lora, lora_rank=8
    )
    trainer = SwiftTrainer(args, rows, rows)
    trainer.train()
    assert trainer.evaluate()["eval_accuracy"] == 1.0
    assert trainer.run is not None
    assert evaluate_run_on(trainer, rows) == 1.0


def evaluate_run_on(trainer: SwiftTrainer, rows: list[dict[str, Any]]) -> float:
    """Accuracy of the saved model, built anew."""
    from swift_core.preparation import prepare_task
    from swift_core.runner import open_trained

    assert trainer.run is not None
    args = open_trained(trainer.run, [])
    again = SwiftTrainer(args, prepared=prepare_task(args, None, rows, check=False), run=trainer.run)
    return again.evaluate()["eval_accuracy"]


@pytest.mark.parametrize(("batch", "accumulate"), [(3, 3), (2, 5)])
def test_accumulation_does_not_change_a_step(
    batch: int, accumulate: int, still_bert: Path, make_args: Make, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    # Weighted rows: a mean over the weights of a piece would differ from that of the whole.
    weights = {"体育": 5.0, "科技": 0.5, "财经": 1.0}
    runs = []
    for name, size, pieces in (("whole", 9, 1), ("cut", batch, accumulate)):
        args = make_args(
            still_bert,
            **EXACT,
            class_weights=weights,
            output_dir=str(tmp_path / name),
            per_device_train_batch_size=size,
            gradient_accumulation_steps=pieces,
        )
        trainer = SwiftTrainer(args, rows)
        trainer.train()
        assert trainer.run is not None
        runs.append(load_file(trainer.run.model / "model.safetensors"))
    assert all(torch.allclose(runs[0][name], runs[1][name], atol=1e-5) for name in runs[0])


def test_a_resumed_run_ends_where_an_unbroken_one_does(
    bert: Path, make_args: Make, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    options = {
        "save_strategy": "steps",
        "save_steps": 2,
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "sampling": "balanced",
        "use_lora": True,
        "lora_rank": 2,
        "lora_dropout": 0.1,
    }
    whole = SwiftTrainer(make_args(bert, **options, output_dir=str(tmp_path / "a")), rows)
    whole.train()

    class Stop(Exception):
        pass

    from transformers import TrainerCallback

    class Stopper(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 3:
                raise Stop

    broken = SwiftTrainer(
        make_args(bert, **options, output_dir=str(tmp_path / "b")), rows, callbacks=[Stopper()]
    )
    with pytest.raises(Stop):
        broken.train()
    resumed = SwiftTrainer(make_args(bert, **options, output_dir=str(tmp_path / "b")), rows)
    resumed.train(resume_from_checkpoint=True)
    assert whole.run is not None and resumed.run is not None
    first, second = (load_file(t.run.model / "adapter_model.safetensors") for t in (whole, resumed))
    assert any("classifier" in name for name in first)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_training_stops_when_the_figure_gets_no_better(
    bert: Path, make_args: Make, rows: list[dict[str, Any]]
) -> None:
    args = make_args(
        bert,
        learning_rate=0.0,
        max_steps=20,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        load_best_model_at_end=True,
        early_stopping_patience=2,
    )
    trainer = SwiftTrainer(args, rows, rows)
    trainer.train()
    assert trainer.state.global_step == 6
    with pytest.raises(UserError, match="early_stopping_patience: counts the evaluations"):
        SwiftTrainer(make_args(bert, early_stopping_patience=2), rows, rows)


def test_a_diverged_model_is_told_and_no_figure_is_made_up(
    bert: Path, make_args: Make, rows: list[dict[str, Any]]
) -> None:
    trainer = SwiftTrainer(make_args(bert), rows, rows)
    with torch.no_grad():
        trainer.network.classifier.weight.fill_(float("nan"))
    with pytest.raises(UserError, match="not finite"):
        trainer.evaluate()


@pytest.mark.parametrize("lora", [False, True])
def test_a_seed_gives_the_run_that_transformers_has_with_it(
    lora: bool, still_bert: Path, make_args: Make, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    """From the weights at the start, head and adapter included, over the order of the rows to the end."""
    loop = {"seed": 7, "per_device_train_batch_size": 2, "max_steps": 8, "learning_rate": 1e-3}
    alike = {**loop, "weight_decay": 0.01, "warmup_steps": 0.2, "lr_scheduler_type": "linear"}
    adapter = {"use_lora": True, "lora_rank": 4} if lora else {}
    trainer = SwiftTrainer(make_args(still_bert, **alike, **adapter), rows)
    trainer.train()

    names = sorted({row["label"] for row in rows})
    transformers.set_seed(7)
    model: Any = transformers.AutoModelForSequenceClassification.from_pretrained(still_bert, num_labels=3)
    if lora:
        config = LoraConfig(
            task_type="SEQ_CLS", r=4, lora_alpha=8, target_modules="all-linear", lora_dropout=0.0
        )
        model = get_peft_model(model, config)
    tokenizer = transformers.AutoTokenizer.from_pretrained(still_bert)
    peer = transformers.Trainer(
        model,
        transformers.TrainingArguments(
            str(tmp_path), **alike, report_to="none", use_cpu=True, disable_tqdm=True
        ),
        transformers.DataCollatorWithPadding(tokenizer),
        [{**tokenizer(row["text"]), "label": names.index(row["label"])} for row in rows],
    )
    peer.train()
    expected = dict(model.named_parameters())
    for name, weight in trainer.network.named_parameters():
        torch.testing.assert_close(weight, expected[name], atol=2e-6, rtol=1e-4, msg=name)
