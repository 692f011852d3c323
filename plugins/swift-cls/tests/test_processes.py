"""Two processes train and evaluate as one does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from swift_core import SwiftTrainer, TrainingArguments
from swift_core.testing.forks import run_forked

JOB = """
import json
from swift_core import SwiftTrainer, TrainingArguments

options, rows, evaluation = json.load(open("job.json"))
trainer = SwiftTrainer(TrainingArguments(**options), rows, evaluation)
with trainer.recorded():
    trainer.train()
    metrics = trainer.evaluate()
if trainer.run is not None:
    json.dump([str(trainer.run.folder), metrics], open("result.json", "w"))
"""


@pytest.mark.parametrize("more", [{}, {"head_start": "probe"}, {"sequence_parallel_size": 2}], ids=str)
def test_two_processes_are_as_good_as_one(
    more: dict[str, Any],
    bert: Path,
    make_args: Callable[..., TrainingArguments],
    rows: list[dict[str, Any]],
    tmp_path: Path,
) -> None:
    config = json.loads((bert / "config.json").read_text())
    still = tmp_path / "still"
    still.mkdir()
    for path in bert.iterdir():
        (still / path.name).write_bytes(path.read_bytes())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (still / "config.json").write_text(json.dumps(config))
    options = {
        "optim": "sgd",
        "learning_rate": 0.1,
        "max_grad_norm": 0.0,
        "lr_scheduler_type": "constant",
        "class_weights": {"体育": 4.0},
        "label_smoothing_factor": 0.1,
        **{name: value for name, value in more.items() if name == "head_start"},
    }
    # Eight rows, so that no row is repeated to fill a batch.
    train, evaluation = rows[:8], rows
    args = make_args(still, **options, per_device_train_batch_size=8)
    one = SwiftTrainer(args, train, evaluation)
    with one.recorded():
        one.train()
        figures = one.evaluate()
    # Two that share each document see the same rows.
    size = 8 // (2 // more.get("sequence_parallel_size", 1))
    two = make_args(
        still, **{**options, **more}, per_device_train_batch_size=size, output_dir=str(tmp_path / "two")
    )
    given = {"task_type": "sequence-classification", **two.given}
    (tmp_path / "job.json").write_text(json.dumps([given, train, evaluation]))
    (tmp_path / "job.py").write_text(JOB)
    done = run_forked("job.py", folder=tmp_path, processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    folder, found = json.loads((tmp_path / "result.json").read_text())
    assert one.run is not None
    weights = [load_file(place / "model/model.safetensors") for place in (one.run.folder, Path(folder))]
    assert all(torch.allclose(weights[0][name], weights[1][name], atol=1e-5) for name in weights[0])
    for name, value in figures.items():
        if name != "eval_runtime":
            assert abs(found[name] - value) < 1e-4, name
