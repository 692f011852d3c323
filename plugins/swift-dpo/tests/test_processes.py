"""Two gloo processes under FSDP2: the gradient of the policy is that of one process with all answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from swift_core.testing.forks import run_forked

SCRIPT = """
import sys, warnings
warnings.filterwarnings("ignore")
import torch
from torch import distributed
from torch.distributed.fsdp import fully_shard
from transformers import Qwen3Config, Qwen3ForCausalLM
from swift_core.flat import flat_batch
from swift_dpo.policy import as_policy
from swift_dpo.scoring import answer_scores

def build():
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=90, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=64, initializer_range=0.3,
        tie_word_embeddings=sys.argv[1] == "tied",
    )
    model = Qwen3ForCausalLM(config)
    as_policy(model)
    return model

def batch(rows):
    prompts = [[5, 6, 7 + row] * (1 + row) for row in rows]
    answers = [[20 + row] * (2 + row + side) for row in rows for side in (0, 1)]
    parents = [n // 2 for n in range(len(answers))]
    flat = flat_batch([*prompts, *answers], parents=[*[None] * len(rows), *parents])
    predictors, owners = [], []
    for n, answer in enumerate(answers):
        first = int(flat.first[len(rows) + n])
        predictors += [int(flat.last[n // 2]), *range(first, first + len(answer) - 1)]
        owners += [n] * len(answer)
    return {
        "flat": flat,
        "predictors": torch.tensor(predictors),
        "targets": torch.tensor([token for answer in answers for token in answer]),
        "owners": torch.tensor(owners),
        "weights": torch.ones(len(owners)),
        "tokens": torch.tensor([float(len(answer)) for answer in answers]),
    }

def loss_of(model, rows):
    logps = answer_scores(model, batch(rows)).logps
    return -torch.nn.functional.logsigmoid(0.1 * (logps[0::2] - logps[1::2])).sum() / 4

joint = build()
loss_of(joint, range(4)).backward()
distributed.init_process_group("gloo")
model = build()
for layer in model.model.layers:
    fully_shard(layer)
fully_shard(model)
for _ in range(2):
    model.zero_grad()
    # FSDP averages over 2 processes.
    (2 * loss_of(model, [0] if distributed.get_rank() == 0 else [1, 2, 3])).backward()
worst = max(
    float((mine.grad.full_tensor() - theirs.grad).abs().max())
    for mine, theirs in zip(model.parameters(), joint.parameters())
)
assert worst < 1e-5, worst
distributed.destroy_process_group()
"""


@pytest.mark.parametrize("head", ["tied", "own"])
def test_sharded_weights_get_the_gradient_of_one_process(tmp_path: Path, head: str) -> None:
    (tmp_path / "job.py").write_text(SCRIPT)
    done = run_forked("job.py", head, folder=tmp_path, processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
