"""One fine-tuning of a classifier by one of two systems: Swift, and transformers as its own example does it.

Both get the same rows and options and start from the same weights; heads start at random, with the seed of
the run, unless Swift is told otherwise. The peer tokenises before it trains and pads each batch to its
longest text, as ``run_classification.py`` of transformers does without ``pad_to_max_length``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

from benchmarks.measure import Span, now
from benchmarks.sides import recipe_options
from swift_cls.predicting import predict
from swift_core import SwiftTrainer, TrainingArguments
from swift_core.preparation import prepare_data

Row = dict[str, str]


@dataclass(frozen=True, kw_only=True)
class ClassRecipe:
    """What both systems are told; the learning rate rises, then falls to 0 linearly.

    Attributes:
        warmup: share of the steps in which the learning rate rises.
        max_length: longest text in tokens.
        prompt: put before every text.
        lora_rank: None to train all weights.
        pooling: which vectors the head of Swift reads; None: those that the class of transformers reads.
        head_start: where the head of Swift starts; that of the peer starts at random.
    """

    epochs: float
    batch_size: int
    learning_rate: float
    warmup: float
    weight_decay: float
    max_length: int
    prompt: str
    lora_rank: int | None
    pooling: str | None
    head_start: str = "random"


@dataclass(frozen=True)
class Outcome:
    """The labels that a trained model gives to the test texts, the training's time and its steps."""

    predicted: list[str]
    time: Span
    steps: int


def train_swift(
    model: Path, rows: Sequence[Row], test: Sequence[Row], recipe: ClassRecipe, seed: int, folder: Path
) -> Outcome:
    """Train with SwiftTrainer.

    The time is that of loading the weights, tokenising, training and writing the model.
    """
    lora = {} if recipe.lora_rank is None else {"use_lora": True, "lora_rank": recipe.lora_rank}
    args = TrainingArguments(
        "sequence-classification",
        **_options(recipe, seed, folder),
        **lora,
        **({} if recipe.pooling is None else {"pooling_method": recipe.pooling}),
        head_start=recipe.head_start,
        model_name_or_path=str(model),
        max_length=recipe.max_length,
        cache_dir=str(folder / "cache"),
        # The peer does not reload what it has written.
        verify_saves=False,
    )
    began = now()
    trainer = SwiftTrainer(args, train_dataset=list(rows))
    trainer.train()
    took = now() - began
    data = prepare_data(list(test), "test", args, trainer.collator)
    assert data.features is not None
    logits = predict(trainer.network, trainer.collator, data.features)
    names = trainer.collator.known_labels.names
    return Outcome([names[n] for n in logits.argmax(1)], took, trainer.state.global_step)


def train_peer(
    model: Path, rows: Sequence[Row], test: Sequence[Row], recipe: ClassRecipe, seed: int, folder: Path
) -> Outcome:
    """Train with transformers' Trainer and, for LoRA, peft.

    The time is that of the same things as in :func:`train_swift`.
    """
    began = now()
    transformers.set_seed(seed)
    names = sorted({row["label"] for row in rows})
    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    trainer = transformers.Trainer(
        model=_peer_model(model, names, recipe),
        args=transformers.TrainingArguments(**_options(recipe, seed, folder)),
        train_dataset=_tokenised(rows, names, tokenizer, recipe),
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.save_model(str(folder / "model"))
    took = now() - began
    logits: Any = trainer.predict(_tokenised(test, names, tokenizer, recipe)).predictions
    return Outcome([names[n] for n in logits.argmax(1)], took, trainer.state.global_step)


def _peer_model(folder: Path, names: Sequence[str], recipe: ClassRecipe) -> Any:
    model, info = AutoModelForSequenceClassification.from_pretrained(
        folder,
        local_files_only=True,
        dtype=torch.float32,
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
        output_loading_info=True,
    )
    if recipe.lora_rank is None:
        return model
    from peft import LoraConfig, get_peft_model

    # What starts at random is trained in full on both sides: the head, and a pooler that the file lacks.
    fresh = sorted({name.rpartition(".")[0] for name in info["missing_keys"]})
    config = LoraConfig(
        task_type="SEQ_CLS",
        r=recipe.lora_rank,
        lora_alpha=2 * recipe.lora_rank,
        lora_dropout=0.0,
        target_modules="all-linear",
        modules_to_save=fresh,
        exclude_modules=fresh,
    )
    return get_peft_model(model, config)


def _tokenised(rows: Sequence[Row], names: Sequence[str], tokenizer: Any, recipe: ClassRecipe) -> Any:
    data = datasets.Dataset.from_list([{"text": row["text"], "label": row["label"]} for row in rows])

    def encode(batch: dict[str, list[str]]) -> dict[str, Any]:
        encoded = tokenizer(batch["text"], truncation=True, max_length=recipe.max_length)
        return {**encoded, "label": [names.index(name) for name in batch["label"]]}

    return data.map(encode, batched=True, remove_columns=["text", "label"])


def _options(recipe: ClassRecipe, seed: int, folder: Path) -> dict[str, Any]:
    return {**recipe_options(recipe, seed, folder), "weight_decay": recipe.weight_decay}
