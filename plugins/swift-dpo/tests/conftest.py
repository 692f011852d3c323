"""Small causal models made on the spot, and preferences that they can learn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from swift_core import TrainingArguments

Make = Callable[..., TrainingArguments]

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""ChatML, as Qwen and SmolLM2 write it, but for the system text."""

PAIRS = [
    {"prompt": "what is a cat", "chosen": " a cat is a small animal", "rejected": " the bank raised rates"},
    {"prompt": "who won the match", "chosen": " the red team won two to one", "rejected": " rain"},
    {"prompt": "how far is the moon", "chosen": " very far away", "rejected": " a chip is fast and small"},
]


@pytest.fixture(scope="session")
def pairs() -> list[dict[str, Any]]:
    """Three prompts with two answers each."""
    return PAIRS


@pytest.fixture(scope="session")
def causal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen3 of two layers with a tokenizer of bytes and merges, ChatML, and an end token."""
    folder = tmp_path_factory.mktemp("qwen3")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([text for row in PAIRS for text in row.values()], trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=256,
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=256,
        initializer_range=0.5,
        tie_word_embeddings=True,
        eos_token_id=2,
        pad_token_id=0,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def make_args(tmp_path: Path) -> Make:
    """Options of a short run in a folder of its own."""

    def make(model: Path, task_type: str = "dpo", **options: Any) -> TrainingArguments:
        defaults = {
            "output_dir": str(tmp_path / "output"),
            "cache_dir": str(tmp_path / "cache"),
            "report_to": "none",
            "max_steps": 2,
            "save_strategy": "no",
            "disable_tqdm": True,
            "use_cpu": True,
            "logging_steps": 1,
            "eval_samples": 0,
            "max_bad_rows": 1.0,
        }
        return TrainingArguments(task_type, model_name_or_path=str(model), **{**defaults, **options})

    return make


@pytest.fixture
def train_trl(causal: Path, pairs: list[dict[str, Any]], tmp_path: Path) -> Callable[..., Any]:
    """Train the same model on the same pairs by TRL."""
    # Most tests need no TRL, whose import takes seconds.
    from trl import DPOConfig, DPOTrainer

    def train(reference: Any = None, **options: Any) -> Any:
        trainer = DPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(causal),
            ref_model=reference,
            args=DPOConfig(
                output_dir=str(tmp_path / "trl"),
                report_to="none",
                save_strategy="no",
                disable_tqdm=True,
                use_cpu=True,
                bf16=False,
                logging_steps=1,
                gradient_checkpointing=False,
                dataloader_pin_memory=False,
                **options,
            ),
            train_dataset=datasets.Dataset.from_list(pairs),
            processing_class=AutoTokenizer.from_pretrained(causal),
        )
        trainer.train()
        return trainer

    return train
