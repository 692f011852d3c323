"""Decoders too large for the machine: measured at their width with few layers, and extrapolated.

All layers are alike, so memory grows by the same number of bytes with each; without gradient checkpointing
this is exact but for what is only held for a moment. What the vocabulary costs is counted, not measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.lora_memory import Case
from benchmarks.machine import demo_model

_FEW = (2, 4)
_ADAMW_BYTES = 12
"""Of each trained number: gradient and two moments, float32."""

SHAPES: dict[str, dict[str, int]] = {
    # https://huggingface.co/Qwen/Qwen3-0.6B/blob/main/config.json
    "Qwen3-0.6B": {
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151_936,
    },
    # https://huggingface.co/Qwen/Qwen3-1.7B/blob/main/config.json
    "Qwen3-1.7B": {
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151_936,
    },
    # For tests.
    "tiny": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 6,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "vocab_size": 40_000,
    },
}


def write_shape(shape: str, layers: int, target: Path) -> Path:
    """Save a random Qwen3 with so many layers, and the demo's tokenizer and vocabulary size."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(demo_model(), local_files_only=True)
    sizes = {**SHAPES[shape], "num_hidden_layers": layers, "vocab_size": len(tokenizer)}
    config = transformers.Qwen3Config(**sizes, pad_token_id=tokenizer.pad_token_id)
    torch.manual_seed(0)
    transformers.Qwen3ForCausalLM(config).save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target


def extrapolated(cases: Sequence[Case], measure: Callable[[Case], int]) -> list[str]:
    """Lines of a table for ``cases``, all of one shape."""
    shape = cases[0].shape
    assert shape is not None
    sizes = SHAPES[shape]
    lines = [
        f"| {shape}, micro-batches of {cases[0].tokens}-token texts | full, GB | LoRA, GB | LoRA / full |",
        "| --- | ---: | ---: | ---: |",
    ]
    for case in cases:
        full, lora = (_of_all_layers(replace(case, lora=lora), measure) for lora in (False, True))
        full += _ADAMW_BYTES * (sizes["vocab_size"] - _small_vocabulary()) * sizes["hidden_size"]
        size = f"{case.accumulate}x{case.rows}" if case.accumulate > 1 else f"{case.rows}"
        name = size + ("+checkpointing" if case.checkpointing else "")
        lines.append(f"| {name} | {full / 1e9:.2f} | {lora / 1e9:.2f} | {lora / full:.3f} |")
    return lines


def _of_all_layers(case: Case, measure: Callable[[Case], Any]) -> float:
    few, more = (measure(replace(case, layers=layers)) for layers in _FEW)
    each = (more - few) / (_FEW[1] - _FEW[0])
    assert case.shape is not None
    return float(few + each * (SHAPES[case.shape]["num_hidden_layers"] - _FEW[0]))


def _small_vocabulary() -> int:
    return len(transformers.AutoTokenizer.from_pretrained(demo_model(), local_files_only=True))
