"""``sequence_parallel_size``: runs whose processes share tokens are those of fewer processes, or of one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from swift_core import UserError

# SGD without clipping: the weights after a step show the gradient itself.
EXACT: dict[str, Any] = {
    "optim": "sgd",
    "learning_rate": 0.1,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0.0,
    "max_steps": 2,
    "logging_steps": 1,
}
JOB = """
import json
import torch
from swift_core import SwiftTrainer, TrainingArguments, hookimpl
from swift_core.flat.data import flat_batches_in

class Watch:
    @hookimpl(wrapper=True)
    def compute_loss(self, batch):
        tokens.clear()
        output = yield
        if torch.is_grad_enabled():  # and not the look at what was saved
            halves = [-(-flat.num_tokens // 2) for flat in flat_batches_in(batch)]
            assert tokens == halves, "half of the tokens each"
        return output

options, rows, eval_rows = json.load(open("job.json"))
arguments = TrainingArguments(**options)
trainer = SwiftTrainer(arguments, train_dataset=rows, eval_dataset=eval_rows, extensions=[Watch()])
tokens = []
words = trainer.network.get_input_embeddings()
words.register_forward_pre_hook(lambda module, inputs: tokens.append(inputs[0].numel()))
seen = [batch["num_items"] for batch in trainer.get_train_dataloader()]
trainer.train()
metrics = trainer.evaluate()
if trainer.run is not None:
    json.dump([str(trainer.run.folder), metrics, trainer.state.log_history, seen], open("result.json", "w"))
"""


@pytest.mark.parametrize(("processes", "checkpointing"), [(2, True), (4, False)])
def test_a_step_is_that_of_one_process(
    make_trainer: Any,
    rows: Any,
    options: dict[str, Any],
    still_encoder: str,
    tmp_path: Path,
    on_processes: Any,
    processes: int,
    checkpointing: bool,
) -> None:
    changes = {**EXACT, "model_name_or_path": still_encoder}
    data = rows(8, 2)
    whole = make_trainer(data, eval_rows=rows(7), **changes, per_device_train_batch_size=8)
    whole.train()
    metrics = whole.evaluate()

    groups = processes // 2
    changes |= {"sequence_parallel_size": 2, "per_device_train_batch_size": 8 // groups}
    changes |= {"gradient_checkpointing": checkpointing, "use_cpu": True, "ddp_backend": "gloo"}
    (tmp_path / "job.json").write_text(json.dumps([{**options, **changes}, data, rows(7)]))
    (tmp_path / "job.py").write_text(JOB)
    told = on_processes(processes, tmp_path, "job.py")
    folder, figures, logs, seen = json.loads((tmp_path / "result.json").read_text())
    assert f"8 rows a step ({8 // groups} a group x 1 accumulated x {groups} groups of 2 processes)" in told
    assert seen == [8 // groups]
    expected = whole.state.log_history
    for step in (0, 1):
        # In-batch negatives come from all groups, and from each text once.
        assert logs[step]["loss"] == pytest.approx(expected[step]["loss"], abs=1e-5)
        assert logs[step]["accuracy"] == pytest.approx(expected[step]["accuracy"])
        assert logs[step]["grad_norm"] == pytest.approx(expected[step]["grad_norm"], rel=1e-4)
    (last,), (wanted,) = ([log for log in part if "total_flos" in log] for part in (logs, expected))
    assert last["total_flos"] == pytest.approx(wanted["total_flos"], rel=0.01), "tokens, each once"
    rows_a_second = last["train_samples_per_second"] * last["train_runtime"]
    assert rows_a_second == pytest.approx(16, rel=0.05)
    ours, theirs = (load_file(Path(f) / "model" / "model.safetensors") for f in (folder, whole.run.folder))
    assert max((ours[name] - theirs[name]).abs().max().item() for name in theirs) < 1e-5
    assert figures["eval_ndcg@10"] == pytest.approx(metrics["eval_ndcg@10"], abs=1e-6)


def test_what_cannot_be_shared_is_refused_before_a_model_is_built(make_trainer: Any, options: Any) -> None:
    with pytest.raises(UserError, match=re.escape("expected a number of processes that 2 divides, found 1")):
        make_trainer(sequence_parallel_size=2)
    with pytest.raises(UserError, match=re.escape("the model's 2 attention heads (1, 2), found 3")):
        make_trainer(sequence_parallel_size=3)


def test_other_orders_of_rows_are_refused(make_trainer: Any) -> None:
    with pytest.raises(UserError, match="'group_by_length' and sequence_parallel_size both decide"):
        make_trainer(sequence_parallel_size=2, train_sampling_strategy="group_by_length")
