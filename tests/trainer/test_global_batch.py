"""The gradient is that of the mean over the global batch, however it is cut into pieces and processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from swift_core.batching import share_of_loss

# Without in-batch negatives a row's loss does not depend on its neighbours, so that every cut must agree.
# SGD without clipping: the weights after a step show the gradient itself.
EXACT: dict[str, Any] = {
    "use_inbatch_negatives": False,
    "optim": "sgd",
    "learning_rate": 0.1,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0.0,
    "max_steps": 2,
    "num_train_epochs": 1,
}


def distance(first: Path, second: Path) -> float:
    a, b = (load_file(folder / "model" / "model.safetensors") for folder in (first, second))
    return max((a[name] - b[name]).abs().max().item() for name in a)


@pytest.mark.parametrize(("batch", "accumulate"), [(4, 2), (2, 4), (3, 3)])
def test_accumulation_does_not_change_a_step(make_trainer, rows, still_encoder, batch, accumulate):
    # 8 rows in one step; cut by threes the last piece has two rows, each of which must count as much.
    whole = make_trainer(rows(8, 2), model_name_or_path=still_encoder, **EXACT, per_device_train_batch_size=8)
    whole.train()
    cut = make_trainer(
        rows(8, 2),
        model_name_or_path=still_encoder,
        **EXACT,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulate,
    )
    cut.train()
    assert distance(whole.run.folder, cut.run.folder) < 1e-5
    losses = [trainer.state.log_history[0]["loss"] for trainer in (whole, cut)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


TWO_PROCESSES = """
import json, os
from swift_core import LossOutput, SwiftTrainer, TrainingArguments, hookimpl

class OneRankOnly:
    @hookimpl(wrapper=True)
    def compute_loss(self):
        output = yield
        extra = {"only_here": 3.0} if os.environ["RANK"] == "0" else {}
        return LossOutput(output.loss, {**output.metrics, **extra})

options, rows, eval_rows = json.load(open("job.json"))
trainer = SwiftTrainer(
    TrainingArguments(**options), train_dataset=rows, eval_dataset=eval_rows, extensions=[OneRankOnly()]
)
trainer.train()
metrics = trainer.evaluate()
trainer.save_model(format="hf")
if trainer.run is not None:
    json.dump([str(trainer.run.folder), metrics, trainer.state.log_history[0]], open("result.json", "w"))
"""


def test_two_processes_do_not_change_a_step_and_evaluate_alike(
    make_trainer, rows, options, still_encoder, tmp_path, on_processes
):
    whole = make_trainer(
        rows(8, 2),
        eval_rows=rows(8),
        model_name_or_path=still_encoder,
        **EXACT,
        per_device_train_batch_size=8,
    )
    whole.train()
    metrics = whole.evaluate()

    changed = {
        **options,
        **EXACT,
        "model_name_or_path": still_encoder,
        "per_device_train_batch_size": 4,
        "ddp_backend": "gloo",
        "use_cpu": True,
    }
    (tmp_path / "job.json").write_text(json.dumps([changed, rows(8, 2), rows(8)]))
    (tmp_path / "job.py").write_text(TWO_PROCESSES)
    on_processes(2, tmp_path, "job.py")
    folder, figures, first_log = json.loads((tmp_path / "result.json").read_text())
    assert len(list(Path(folder).parent.iterdir())) == 2, "one run folder a run, not one a process"
    assert distance(whole.run.folder, Path(folder)) < 1e-5
    assert first_log["loss"] == pytest.approx(whole.state.log_history[0]["loss"], abs=1e-6)
    assert first_log["only_here"] == 3.0, "a figure that one process has must not stop the others"
    assert figures["eval_ndcg@10"] == pytest.approx(metrics["eval_ndcg@10"], abs=1e-6)
    assert (Path(folder) / "exports" / "hf" / "modules.json").exists()


def test_the_command_line_trains_evaluates_and_exports_under_torchrun(rows, tiny_encoder, tmp_path):
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(16)))
    options = {
        "task_type": "embedding",
        "model_name_or_path": str(tiny_encoder),
        "dataset": "train.jsonl",
        "eval_split": 0.25,
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "cache_dir": "cache",
        "export_formats": ["hf"],
        "use_cpu": True,
        "ddp_backend": "gloo",
    }
    (tmp_path / "run.yaml").write_text(json.dumps(options))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    told = subprocess.run(
        [sys.executable, *launcher, "-m", "swift_core", "train", "run.yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    ).stdout
    assert (told.count("exported"), told.count("finished")) == (1, 1), told
    (folder,) = (tmp_path / "output" / "task-type=embedding").iterdir()
    record = json.loads((folder / "run.json").read_text())
    assert (record["state"], list(record["exports"])) == ("finished", ["hf"])
    assert "eval_ndcg@10" in record["metrics"]


def test_several_means_are_each_weighed_by_their_own_count():
    # Two pieces of one step: 2 pairs and 10 tokens, 1 pair and 30 tokens.
    total = torch.tensor([3, 40])
    shares = [
        share_of_loss(torch.tensor([0.5, 2.0]), (2, 10), total),
        share_of_loss(torch.tensor([0.8, 1.0]), (1, 30), total),
    ]
    assert sum(shares).item() == pytest.approx((2 * 0.5 + 0.8) / 3 + (10 * 2.0 + 30 * 1.0) / 40)
    assert share_of_loss(torch.tensor([0.5, 0.0]), (2, 0), None).item() == 0.5
