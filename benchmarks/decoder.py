"""Decoders of some 20 M parameters with random weights, for speed only: no such model is at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, Qwen3Config, Qwen3Model

from swift_embedding.encoding import Recipe
from swift_embedding.st_folder import write_st_config


def write_decoder(tokenizer_folder: Path, target: Path, max_length: int) -> Path:
    """Save a Qwen3 with the tokenizer of ``tokenizer_folder``, pooled at its last token."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder, local_files_only=True)
    torch.manual_seed(0)
    Qwen3Model(decoder_config(len(tokenizer))).save_pretrained(target)
    recipe = Recipe(
        tokenizer=tokenizer, pooling_method="lasttoken", normalize_embeddings=True, max_length=max_length
    )
    write_st_config(target, recipe)
    return target


def decoder_config(vocabulary: int, **options: Any) -> Qwen3Config:
    """Six layers of 384 dimensions; ``options`` are more of its fields."""
    return Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=2048,
        **options,
    )
