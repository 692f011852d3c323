"""Memory and time of a training step on one long document, on one process and shared by several.

Each figure is measured in processes of its own. A step is forward and backward pass through the engine, with
gradient checkpointing, and a head with two classes on the pooled vector; models have random weights.
"""

from __future__ import annotations

import argparse
import ctypes
import multiprocessing
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.machine import begin

if TYPE_CHECKING:
    from torch import Tensor, nn

_PACKAGES = ("transformers", "torch")
_VOCABULARY = 50_000
_M_MMAP_THRESHOLD = -3
"""Of malloc.h."""
_SHAPE: dict[str, Any] = {
    "vocab_size": _VOCABULARY,
    "hidden_size": 384,
    "num_attention_heads": 6,
    "intermediate_size": 1024,
    "max_position_embeddings": 32_768,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MODELS: dict[str, dict[str, Any]] = {
    "qwen3": {"num_hidden_layers": 2, "num_key_value_heads": 2, "head_dim": 64},
    # The first layer sees the whole text, the others 128 tokens.
    "modernbert": {
        "num_hidden_layers": 3,
        "global_attn_every_n_layers": 3,
        "cls_token_id": 1,
        "sep_token_id": 2,
    },
}


@dataclass(frozen=True)
class Figures:
    """What one process measured: bytes above what it held before the step, its time, and the loss."""

    parameters: int
    peak: int
    cpu_seconds: float
    seconds: float
    loss: float


def main(arguments: list[str]) -> int:
    """Measure and print the table; the exit code is 1 when one process needs more than the limit."""
    parsed = _parser().parse_args(arguments)
    begin(_PACKAGES, 1)
    print(
        "| model | tokens | processes | peak above the weights, MiB a process | CPU-seconds a process "
        "| seconds | loss |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        flush=True,
    )
    worst = 0
    for model in parsed.model:
        for tokens in parsed.tokens:
            for processes in parsed.processes:
                found = measure(model, tokens, processes)
                peak = max(figures.peak for figures in found)
                worst = max(worst, peak)
                print(
                    f"| {model}, {found[0].parameters / 1e6:.1f} M | {tokens:,} | {processes} | "
                    f"{peak / 2**20:,.0f} | {max(f.cpu_seconds for f in found):,.0f} | "
                    f"{max(f.seconds for f in found):,.0f} | {found[0].loss:.6f} |",
                    flush=True,
                )
    return int(worst > parsed.limit_gib * 2**30)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks long-document", description=__doc__)
    add = parser.add_argument
    add("--model", nargs="+", choices=MODELS, default=list(MODELS), help="default: all")
    add("--tokens", nargs="+", type=int, default=[4096, 16_384, 32_768], help="lengths of the document")
    add("--processes", nargs="+", type=int, default=[1, 2], help="1, or how many share the document")
    add("--limit-gib", type=float, default=4.0, help="memory that must be enough (default: 4)")
    return parser


def measure(model: str, tokens: int, processes: int) -> list[Figures]:
    """One step of a fresh model on ``processes`` fresh processes, one thread each."""
    context = multiprocessing.get_context("spawn")
    results: Any = context.SimpleQueue()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    workers = [
        context.Process(target=_work, args=(results, model, tokens, rank, processes, port))
        for rank in range(processes)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        if worker.exitcode:
            raise RuntimeError(f"{model}, {tokens} tokens: a process ended with {worker.exitcode}")
    return [results.get() for _ in workers]


def _work(results: Any, family: str, tokens: int, rank: int, processes: int, port: int) -> None:
    import torch
    from torch import distributed

    from swift_core.flat import flat_batch, settle, share_tokens
    from swift_core.matmul import fastest_float32_matmul

    torch.set_num_threads(1)
    # glibc keeps freed blocks of up to 32 MiB for later; with a fixed limit the peak is what is in use.
    ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 2**20)
    if processes > 1:
        address = f"tcp://127.0.0.1:{port}"
        distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=processes)
    model, head = _built(family)
    ids = torch.randint(4, _VOCABULARY, (tokens,), generator=torch.Generator().manual_seed(1))
    batch = flat_batch([ids])
    settle(model, batch)
    share_tokens(model, processes)
    # The name before transformers 5.23, which warns of it.
    enable: Any = (
        getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    )
    enable({"use_reentrant": False})
    model.train()
    with fastest_float32_matmul(torch.device("cpu")):
        before, peak_of = _watch()
        began, cpu = time.perf_counter(), time.process_time()
        loss = _step(model, head, batch, "lasttoken" if family == "qwen3" else "mean")
        took = time.process_time() - cpu, time.perf_counter() - began
    parameters = sum(p.numel() for p in model.parameters())
    results.put(Figures(parameters, peak_of() - before, *took, float(loss)))
    if processes > 1:
        distributed.barrier()
        distributed.destroy_process_group()


def _built(family: str) -> tuple[nn.Module, nn.Module]:
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, **_SHAPE, **MODELS[family])
    return transformers.AutoModel.from_config(config).float(), torch.nn.Linear(config.hidden_size, 2)


def _step(model: nn.Module, head: nn.Module, batch: Any, pooling: Any) -> Tensor:
    import torch
    from torch import distributed

    from swift_core.flat import pool_segments, segment_vectors

    vector = segment_vectors(
        model, batch, lambda hidden, part: pool_segments(hidden, part, pooling)
    )  # [1, D]
    loss = torch.nn.functional.cross_entropy(head(vector), torch.tensor([1]))
    loss.backward()  # type: ignore[no-untyped-call]
    if distributed.is_initialized():  # as DDP does it
        for parameter in model.parameters():
            if parameter.grad is not None:
                distributed.all_reduce(parameter.grad)
                parameter.grad /= distributed.get_world_size()
    return loss.detach()


def _watch() -> tuple[int, Callable[[], int]]:
    """Bytes that this process holds now, and what tells the most that it has held since (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    return _status("VmRSS"), lambda: _status("VmHWM")


def _status(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])
