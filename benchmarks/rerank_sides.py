"""The sides of the benchmark of rerankers: SwiftTrainer, CrossEncoderTrainer, and pairs padded by hand.

Loop, optimizer, clipping and schedule are the same code with the same options. sentence-transformers
tokenises inside its losses, so inside the step; that is how it ships, and its steps' time holds it. It pads
the pairs of a batch to the longest (without flash-attn); its LambdaLoss does so for as many pairs at a time
as a batch has lists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from sentence_transformers.cross_encoder import (
    CrossEncoder,
    CrossEncoderTrainer,
    CrossEncoderTrainingArguments,
)
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss, LambdaLoss
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from benchmarks.measure import RecordsLoss, Span, now
from benchmarks.peers import in_given_order
from benchmarks.rerank_lists import pairs_of
from benchmarks.sides import Trained, loop_options, train_swift
from benchmarks.workload import Row, Workload
from swift_reranker.template import Template


class CrossEncoderSide:
    """sentence-transformers: its trainer, its collator, its losses; of a causal model its LogitScore."""

    name = "sentence-transformers"

    def __init__(self, loss: str) -> None:
        self._loss = loss

    def train(self, work: Workload, folder: Path, callbacks: Sequence[TrainerCallback]) -> Trained:
        """See :class:`benchmarks.sides.Side`."""
        model = CrossEncoder(
            str(work.model),
            max_length=work.max_length,
            local_files_only=True,
            model_kwargs={"dtype": torch.float32},
        )
        listwise = self._loss == "lambda_loss"
        rows = list(work.rows) if listwise else pairs_of(work.rows)
        options = loop_options(work, folder)
        if not listwise:
            options["per_device_train_batch_size"] *= len(work.rows[0]["documents"])
        trainer = _PeerTrainer(
            model=model,
            args=CrossEncoderTrainingArguments(**options, batch_sampler=in_given_order),
            train_dataset=datasets.Dataset.from_list(rows),
            loss=LambdaLoss(model) if listwise else BinaryCrossEntropyLoss(model),
            callbacks=list(callbacks),
        )
        trainer.train()
        return Trained([float(loss) for loss in trainer.losses], Span(0.0, 0.0))


class _PeerTrainer(RecordsLoss, CrossEncoderTrainer):
    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """No model card: it draws examples, with a bar on the terminal, before anything is timed."""


class PaddedPairs:
    """transformers: a causal model on whole pairs, padded on the left; logits of the last token only.

    Its loss is the binary cross-entropy of logit(yes) - logit(no).
    """

    name = "padded pairs"

    def __init__(self, template: str, instruction: str) -> None:
        self._template = Template(template)
        self._instruction = instruction

    def train(self, work: Workload, folder: Path, callbacks: Sequence[TrainerCallback]) -> Trained:
        """See :class:`benchmarks.sides.Side`; it tokenises before the first step."""
        tokenizer = AutoTokenizer.from_pretrained(work.model, local_files_only=True, padding_side="left")
        model = AutoModelForCausalLM.from_pretrained(work.model, local_files_only=True, dtype=torch.float32)
        began = now()
        encoded = datasets.Dataset.from_list([self._encoded(row, tokenizer) for row in pairs_of(work.rows)])
        took = now() - began
        options = loop_options(work, folder)
        options["per_device_train_batch_size"] *= len(work.rows[0]["documents"])
        trainer = _PairTrainer(
            model=model,
            args=transformers.TrainingArguments(**options, train_sampling_strategy="sequential"),
            train_dataset=encoded,
            data_collator=transformers.DataCollatorWithPadding(tokenizer),
            callbacks=list(callbacks),
        )
        trainer.answers = [
            tokenizer(token, add_special_tokens=False)["input_ids"][0] for token in ("yes", "no")
        ]
        trainer.train()
        return Trained([float(loss) for loss in trainer.losses], took)

    def _encoded(self, row: Row, tokenizer: Any) -> dict[str, Any]:
        before, after = self._template.parts(row["query"], self._instruction)
        ids = tokenizer(f"{before}{row['document']}{after}", add_special_tokens=False)["input_ids"]
        return {"input_ids": ids, "labels": row["label"]}


class _PairLoss(transformers.Trainer):
    answers: Sequence[int] = ()

    def compute_loss(self, model: Any, inputs: dict[str, torch.Tensor], *_: Any, **__: Any) -> torch.Tensor:
        labels = inputs.pop("labels")
        logits = model(**inputs, logits_to_keep=1).logits[:, -1]
        yes, no = self.answers
        return functional.binary_cross_entropy_with_logits(logits[:, yes] - logits[:, no], labels)


class _PairTrainer(RecordsLoss, _PairLoss):
    pass


class Swift:
    """Swift: SwiftTrainer with the hooks of swift-reranker; it tokenises before the first step."""

    name = "swift"

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = options

    def train(self, work: Workload, folder: Path, callbacks: Sequence[TrainerCallback]) -> Trained:
        """See :class:`benchmarks.sides.Side`."""
        return train_swift(work, folder, callbacks, "reranker", self._options)
