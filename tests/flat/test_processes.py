"""Two gloo processes: gradients under DDP and FSDP2 are those of one process with the joint batch."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = """
import os, sys, warnings
warnings.filterwarnings("ignore")
sys.path.insert(0, sys.argv[1])
wrap, cache_tokens, family, method = sys.argv[2], int(sys.argv[3]) or None, *sys.argv[4:]
import torch
from torch import distributed
from torch.distributed.nn.functional import all_gather
from benchmarks import families
from swift_core.flat import flat_batch, pool_segments, segment_vectors, settle, state_of

def pool(hidden, batch):
    return pool_segments(hidden, batch, method)

def loss_of(vectors):
    return -(vectors @ vectors.T).log_softmax(-1).diagonal().mean()

rows = [row * 2 for row in families.rows()[:40]]
joint = families.build(family)
loss_of(segment_vectors(joint, flat_batch(rows), pool)).backward()

distributed.init_process_group("gloo")
rank = distributed.get_rank()
model = families.build(family)
settle(model, flat_batch(rows))
if hasattr(model, "pooler"):
    model.pooler.requires_grad_(False)
if "ddp" in wrap:
    wrapped = torch.nn.parallel.DistributedDataParallel(model)
    if "compiled" in wrap:
        wrapped = torch.compile(wrapped, backend="eager", dynamic=True)
else:
    from torch.distributed.fsdp import fully_shard
    for layer in getattr(model, "layers", None) or model.encoder.layer:
        fully_shard(layer)
    wrapped = fully_shard(model)
seen = []
if family == "bert":
    last = model.encoder.layer[-1].intermediate
    last.register_forward_hook(lambda _, given, __: seen.append(given[0].shape[1]))
for _ in range(2):  # the second step is the first with DDP's final buckets
    wrapped.zero_grad()
    part = flat_batch(rows[:8] if rank == 0 else rows[8:])
    own = segment_vectors(wrapped, part, method, cache_tokens=cache_tokens)
    # Uneven shares: padded for the collective, which hands gradients back to where the vectors came from.
    parts = all_gather(torch.cat([own, own.new_zeros(32 - len(own), own.shape[1])]).contiguous())
    vectors = torch.cat([parts[0][:8], parts[1][:32]])
    # Each process has the whole loss, and both sum up its gradient: averaging takes the 2 away again.
    loss_of(vectors).backward()
assert not seen or "compiled" in wrap or (max(seen) <= len(part)) == (method != "mean")
assert state_of(wrapped).rung.name == {"bert": "FLAT", "stablelm": "SUB_BATCHES"}[family]
for (name, mine), theirs in zip(model.named_parameters(), joint.parameters()):
    if theirs.grad is None:
        continue
    found = mine.grad.full_tensor() if hasattr(mine.grad, "full_tensor") else mine.grad
    difference = (found - theirs.grad).abs().max().item()
    assert difference < 1e-5, (name, difference)
print("equal\\n", end="")
distributed.barrier()
sys.stdout.flush()
os._exit(0)  # gloo's threads may still be busy, and end a process that takes its leave with SIGABRT
"""


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("wrap", "family", "cache_tokens", "method"),
    [
        # bert runs flat, stablelm by sub-batches. Compiling takes long: only twice.
        *itertools.product(["ddp", "fsdp2"], ["bert", "stablelm"], [0, 100], ["mean"]),
        ("compiled ddp", "bert", 0, "mean"),
        ("compiled ddp", "stablelm", 100, "mean"),
        # The last layer on few tokens.
        *itertools.product(["ddp", "fsdp2"], ["bert"], [0, 100], ["lasttoken"]),
    ],
)
def test_gradients_equal_those_of_one_process(
    tmp_path: Path, on_processes: Callable[..., str], wrap: str, family: str, cache_tokens: int, method: str
) -> None:
    script = tmp_path / "job.py"
    script.write_text(SCRIPT)
    told = on_processes(2, tmp_path, str(script), str(ROOT), wrap, str(cache_tokens), family, method)
    assert told.count("equal") == 2


AGREE = """
import os, sys
sys.path.insert(0, sys.argv[1])
from accelerate import PartialState
from benchmarks import families
from swift_core.flat import FlatState, Rung, set_state, state_of
from swift_core.flat.attention import FLAT
from swift_core.flat.check import agree

state = PartialState(cpu=True)
model = families.build("bert")
model.set_attn_implementation(FLAT if state.process_index else "sdpa")
set_state(model, FlatState(rung=Rung.FLAT if state.process_index else Rung.SUB_BATCHES, original="sdpa"))
agree(model)
# In one piece: both processes write to the same pipe.
print(f"{state_of(model).rung.name} {model.config._attn_implementation}\\n", end="")
state.wait_for_everyone()
sys.stdout.flush()
os._exit(0)
"""


@pytest.mark.timeout(240)
def test_all_processes_run_a_model_as_the_first_one_does(
    tmp_path: Path, on_processes: Callable[..., str]
) -> None:
    script = tmp_path / "job.py"
    script.write_text(AGREE)
    assert on_processes(2, tmp_path, str(script), str(ROOT)).count("SUB_BATCHES sdpa") == 2
