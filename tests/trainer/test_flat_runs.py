"""Runs without padding: nothing to switch on, told at the start, batches by tokens, resumed exactly."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from swift_core import SwiftTrainer, TrainingArguments, UserError
from swift_core.flat import FlatBatch, Rung, settle, state_of


def test_a_run_is_flat_by_default_and_says_what_padding_would_cost(
    make_trainer: Any, rows: Any, capsys: Any
) -> None:
    trainer = make_trainer(rows(16))
    trainer.train()
    assert state_of(trainer.network).rung is Rung.FLAT
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("padding")]
    told = float(line.split("compute ")[1].split(" tokens")[0])
    batches = [
        trainer.collator([trainer.train_data.features[i] for i in range(n, n + 4)]) for n in range(0, 16, 4)
    ]
    flat = [part for batch in batches for part in batch.values() if isinstance(part, FlatBatch)]
    expected = sum(part.padded_tokens for part in flat) / sum(part.num_tokens for part in flat)
    assert line.startswith("padding   none; padded batches would compute")
    assert 1.0 < told < 2 * expected


def test_check_tells_what_padding_would_cost_too(
    swift: Any, rows: Any, tiny_encoder: Path, tmp_path: Path
) -> None:
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(40)))
    options = {"task_type": "embedding", "model_name_or_path": str(tiny_encoder), "dataset": "train.jsonl"}
    (tmp_path / "run.yaml").write_text(json.dumps(options))
    costs = [
        json.loads(swift("check", "run.yaml", "--json", *more, code=0).stdout)["padding_cost"]
        for more in ([], ["per_device_train_batch_size=2"], ["max_tokens_per_batch=40"])
    ]
    assert costs[0] > costs[1] > 1.0, "fewer rows differ less in length"
    assert costs[0] > costs[2] > 1.0, "so do those that fit into a small budget"
    told = swift("check", "run.yaml", code=0).stdout
    assert f"padding   padded batches would compute {costs[0]:.2f} tokens for each useful one" in told


def test_the_longest_texts_decide_how_a_model_is_run(make_trainer: Any, monkeypatch: Any) -> None:
    looked_at = []
    monkeypatch.setattr(
        "swift_core.flat.data.settle",
        lambda model, batch: looked_at.append(max(batch.lengths)) or settle(model, batch),
    )
    trainer = make_trainer([{"query": "sea", "positive": "rain " * 30}, {"query": "fox", "positive": "snow"}])
    trainer.train()
    assert looked_at == [32]


def test_the_attention_that_is_asked_for_is_told(make_trainer: Any, capsys: Any) -> None:
    make_trainer(attn_implementation="eager").train()
    told = "padding   sub-batches of similar length (attn_implementation=eager was asked for); padded batches"
    assert told in capsys.readouterr().out


def token_counts(trainer: SwiftTrainer) -> list[int]:
    return [batch["num_tokens"] for batch in trainer.get_train_dataloader()]


def test_batches_are_filled_up_to_a_number_of_tokens(make_trainer: Any, rows: Any) -> None:
    trainer = make_trainer(rows(60), max_tokens_per_batch=120, per_device_train_batch_size=50, max_steps=-1)
    counts = token_counts(trainer)
    assert max(counts) <= 120 and sum(counts) == trainer.train_data.stats.tokens
    assert min(sorted(counts)[1:]) > 60
    trainer.train()
    assert trainer.state.global_step == 3 * len(counts)


def test_rows_are_bounded_only_where_that_is_asked_for(options: Any, rows: Any) -> None:
    del options["per_device_train_batch_size"]
    trainer = SwiftTrainer(TrainingArguments(**options, max_tokens_per_batch=2000), train_dataset=rows(60))
    assert [batch["num_items"] for batch in trainer.get_train_dataloader()] == [60]


class Stops(TrainerCallback):
    """Ends a run in the middle of an epoch."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 7:
            raise RuntimeError("the power went out")


def test_a_run_by_tokens_resumes_exactly(make_trainer: Any, rows: Any, curve: Any) -> None:
    changes = {"max_tokens_per_batch": 60, "max_steps": 12, "save_steps": 5, "learning_rate": 1e-3}
    whole = make_trainer(rows(30), **changes)
    whole.train()
    broken = make_trainer(rows(30), callbacks=[Stops()], **changes)
    with pytest.raises(RuntimeError, match="power"):
        broken.train()
    again = make_trainer(rows(30), **changes)
    again.train(resume_from_checkpoint=str(broken.run.folder / "checkpoint-5"))
    assert curve(again.run.folder) == curve(whole.run.folder)
    assert again.state.epoch > 1, "the second epoch has an order of its own"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"max_tokens_per_batch": 5}, "max_tokens_per_batch: the longest row has"),
        ({"max_tokens_per_batch": 18}, "max_tokens_per_batch: expected at least 39, three times the longest"),
        ({"max_tokens_per_batch": 0}, "max_tokens_per_batch: expected an integer > 0"),
        (
            {"max_tokens_per_batch": 500, "train_sampling_strategy": "group_by_length"},
            "train_sampling_strategy: 'group_by_length' and max_tokens_per_batch both decide",
        ),
        (
            {"max_tokens_per_batch": 500, "dataloader_drop_last": True},
            "dataloader_drop_last: has no effect with max_tokens_per_batch",
        ),
        ({"gradient_cache_tokens": -1}, "gradient_cache_tokens: expected an integer > 0"),
        ({"accelerator_config": {"dispatch_batches": True}}, "dispatch_batches cuts padded batches"),
        ({"accelerator_config": {"split_batches": True}}, "split_batches cuts padded batches"),
    ],
)
def test_what_can_t_be_is_refused(make_trainer: Any, changes: Any, told: str) -> None:
    with pytest.raises(UserError, match=told):
        make_trainer(**changes)


def test_gradient_caching_gives_the_same_curve(
    make_trainer: Any, rows: Any, still_encoder: str, curve: Any
) -> None:
    changes = {"model_name_or_path": still_encoder, "per_device_train_batch_size": 16, "learning_rate": 1e-3}
    curves, longest = [], []
    for cache in (None, 40):
        trainer = make_trainer(rows(16, 1), gradient_cache_tokens=cache, **changes)
        tokens: list[int] = []
        encoder = trainer.network.encoder  # type: ignore[union-attr]

        def watch(module: Any, inputs: Any, seen: list[int] = tokens) -> None:
            if module.training:  # not what is looked at before training
                seen.append(inputs[0].shape[1])

        encoder.register_forward_pre_hook(watch)
        trainer.train()
        curves.append([loss for _, loss in curve(trainer.run.folder)])
        longest.append(max(tokens))
    assert curves[1] == pytest.approx(curves[0], abs=1e-5)
    assert longest[1] < longest[0], "parts of the batch go through the model one after another"


TWO_PROCESSES = """
import json, os
from swift_core import SwiftTrainer, TrainingArguments

options, rows = json.load(open("job.json"))
trainer = SwiftTrainer(TrainingArguments(**options), train_dataset=rows)
seen = [batch["num_items"] for batch in trainer.get_train_dataloader()]
trainer.train()
json.dump([seen, trainer.state.global_step], open(f"result-{os.environ['RANK']}.json", "w"))
"""


def test_two_processes_take_equally_many_batches_of_tokens(
    rows: Any, options: Any, tmp_path: Path, on_processes: Any
) -> None:
    changed = {
        **options,
        "max_tokens_per_batch": 100,
        "gradient_cache_tokens": 50,
        "max_steps": -1,
        "num_train_epochs": 2,
        "ddp_backend": "gloo",
        "use_cpu": True,
    }
    (tmp_path / "job.json").write_text(json.dumps([changed, rows(60)]))
    (tmp_path / "job.py").write_text(TWO_PROCESSES)
    on_processes(2, tmp_path, "job.py")
    results = [json.loads((tmp_path / f"result-{rank}.json").read_text()) for rank in range(2)]
    assert len(results[0][0]) == len(results[1][0])
    assert sum(results[0][0]) + sum(results[1][0]) == 60
    assert results[0][1] == results[1][1] == 2 * len(results[0][0])


def test_waiting_threads_leave_the_processor_alone(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "from swift_core.cli import main\n"
        "main(['tasks'])\n"
        "print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.splitlines()[-1] == "PASSIVE False"
