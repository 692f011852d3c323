"""Processes that share the tokens of a flat row: outputs and gradients are those of one process."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from swift_core import UserError
from swift_core.flat import flat_batch, settle, share_tokens
from swift_core.flat.sequence import SequenceGroup

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys, warnings
warnings.filterwarnings("ignore")  # the library's new name for gradient_checkpointing_enable
sys.path.insert(0, sys.argv[1])
import copy
import torch
from torch import distributed
from torch.nn.functional import cross_entropy
from transformers import Qwen3Config, Qwen3ForCausalLM
from benchmarks import families
from swift_core import SwiftError
from swift_core.flat import flat_batch, forward_flat, pool_segments, segment_vectors, settle, share_tokens

torch.set_num_threads(1)
distributed.init_process_group("gloo")
rank, world = distributed.get_rank(), distributed.get_world_size()
draw = torch.Generator().manual_seed(1)
token_ids = torch.randint(4, families.VOCABULARY, (4000,), generator=draw).tolist()
tokens = lambda *lengths: [[token_ids.pop() for _ in range(n)] for n in lengths]
RAGGED = [tokens(5, 17, 40, 1, 17, 9, 22), tokens(3, 30, 3, 11, 8, 1, 64)]  # 111 and 120 tokens
LONG = [tokens(101, 2), tokens(99, 3)]  # a text on all processes of a group
FEW = [tokens(1), tokens(1)]  # fewer tokens than processes
PARENTS = [[None] * 6 + [2], [None, 0, None, None, 2, None, 0]]

def loss_of(model, heads, rows, cache_tokens=None, **more):
    def pool(hidden, part):
        pooled = [pool_segments(hidden, part, method) for method in ("mean", "cls", "lasttoken")]
        return torch.cat(pooled, dim=1)

    vectors = segment_vectors(model, flat_batch(rows, **more), pool, cache_tokens=cache_tokens)
    labels = torch.arange(len(rows)) % 3
    return sum(cross_entropy(head(part), labels) for head, part in zip(heads, vectors.chunk(3, dim=1)))

def gradient(model, heads, loss):
    parameters = [*model.parameters(), *heads.parameters()]
    for parameter in parameters:
        parameter.grad = None
    loss.backward()
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])

def compare(what, found, expected):
    difference = (found - expected).abs().max().item()
    assert difference < 1e-5, (what, difference)

def check(what, model, shared, size, rows, cache_tokens=None, parents=None):
    place = rank // size
    torch.manual_seed(2)
    heads = torch.nn.ModuleList(torch.nn.Linear(32, 3) for _ in range(3))
    parents = parents or [None, None]
    losses = [loss_of(model, heads, rows[n], parents=parents[n]) for n in range(world // size)]
    expected = gradient(model, heads, sum(losses) / len(losses))
    loss = loss_of(shared, heads, rows[place], cache_tokens, parents=parents[place])
    compare((what, size, "loss"), loss, losses[place])
    found = gradient(shared, heads, loss)
    distributed.all_reduce(found)  # as DDP does it
    compare((what, size, "gradient"), found / world, expected)

def both(family, size):
    model = families.build(family)
    settle(model, flat_batch(RAGGED[0], parents=PARENTS[0] if family == "qwen3" else None))
    shared = copy.deepcopy(model)
    share_tokens(shared, size)
    return model, shared

for size in (4, 2):
    for family in ("bert", "modernbert", "qwen3"):  # learned positions; rotary, a window; causal, 2 key heads
        model, shared = both(family, size)
        check(family, model, shared, size, RAGGED)
        if size == 2:
            continue
        check((family, "long"), model, shared, size, LONG)
        check((family, "few"), model, shared, size, FEW)
        shared.train().gradient_checkpointing_enable({"use_reentrant": family == "bert"})
        if family == "bert":
            shared.enable_input_require_grads()
        check((family, "checkpointed"), model, shared, size, RAGGED)
    check("cached", model, shared, size, RAGGED, cache_tokens=40)
    check("parents", model, shared, size, RAGGED, parents=PARENTS)

    with torch.no_grad():  # each process alone, with rows of its own; some don't even come
        rows = tokens(3, 4 + rank)
        if rank:
            compare("alone", forward_flat(shared, flat_batch(rows)), forward_flat(model, flat_batch(rows)))
    try:
        forward_flat(shared, flat_batch(rows))
    except SwiftError as error:
        assert "different batches" in str(error)
    else:
        raise AssertionError("different batches passed")

torch.manual_seed(0)
lm = Qwen3ForCausalLM(Qwen3Config(**families._SHAPE, **families._GQA))
batch, picked = flat_batch(RAGGED[0]), torch.tensor([60, 110, 3, 4, 61, 5, 3])
expected = forward_flat(lm, batch, picked=picked)
share_tokens(lm, 4)
watched = []
lm.lm_head.register_forward_hook(lambda module, inputs, output: watched.append(output.shape[1]))
compare("picked", forward_flat(lm, batch, picked=picked), expected)
assert watched == [4], "those of the first process, and as many on the others, meet the vocabulary"

print("equal\\n", end="")
distributed.barrier()
"""


@pytest.mark.timeout(240)
def test_outputs_and_gradients_are_those_of_one_process(
    tmp_path: Path, on_processes: Callable[..., str]
) -> None:
    script = tmp_path / "job.py"
    script.write_text(SCRIPT)
    assert on_processes(4, tmp_path, "job.py", str(ROOT)).count("equal") == 4


@pytest.mark.parametrize(
    ("family", "size", "told"),
    [
        (
            "stablelm",
            2,
            "expected a model that runs on a flat row, found StableLmModel, which runs by sub-batches",
        ),
        ("bert", 3, "expected a divisor of the model's 4 attention heads (1, 2, 4), found 3"),
    ],
)
def test_a_model_that_cannot_be_shared_is_refused(
    build: Any, rows: list[list[int]], family: str, size: int, told: str
) -> None:
    model = build(family)
    settle(model, flat_batch(rows))
    with pytest.raises(UserError, match=re.escape(told)):
        share_tokens(model, size)


def test_a_model_without_flat_batches_is_refused(build: Any) -> None:
    with pytest.raises(UserError, match="found BertModel, which the task runs otherwise; set it to 1"):
        share_tokens(build("bert"), 2)


def test_a_copy_of_a_model_keeps_its_group() -> None:
    group = SequenceGroup(2, 0, object())
    assert copy.deepcopy({"group": group})["group"] is group
