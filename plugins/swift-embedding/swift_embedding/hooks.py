"""The five hooks of the task type ``embedding``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers

from swift_core.errors import UserError
from swift_core.hookspecs import Evaluation, LossOutput, hookimpl
from swift_core.models import load_backbone
from swift_embedding import collator as collating
from swift_embedding.encoding import TextEncoder, embed
from swift_embedding.losses import info_nce

if TYPE_CHECKING:
    from torch import nn

    from swift_core.arguments import TrainingArguments
    from swift_core.data.dataset import TaskData
    from swift_embedding.collator import EmbeddingCollator


@hookimpl
def make_model(args: TrainingArguments) -> nn.Module:
    """The backbone itself, so that a saved model or adapter is keyed to the class that users load."""
    model: nn.Module = load_backbone(args, transformers.AutoModel)
    for name, parameter in model.named_parameters():
        # BERT's own pooler takes no part here; with gradients expected of it, DDP would wait for them.
        if "pooler." in name:
            parameter.requires_grad_(False)
    return model


@hookimpl
def make_collator(args: TrainingArguments) -> EmbeddingCollator:
    """Tokenizer, lengths, prompts and pooling."""
    return collating.make_collator(args)


@hookimpl
def compute_loss(
    model: nn.Module, batch: Mapping[str, Any], collator: EmbeddingCollator, args: TrainingArguments
) -> LossOutput:
    """InfoNCE over the documents of the batch."""
    queries, documents = (  # [B, D], [N, D]
        embed(
            model,
            batch[side],
            method=collator.pooling_method,
            normalize=collator.normalize_embeddings,
            cache_tokens=args.task.gradient_cache_tokens,
        )
        for side in ("query", "document")
    )
    loss, accuracy = info_nce(
        queries, documents, batch["targets"], temperature=args.task.temperature, excluded=batch["excluded"]
    )
    return LossOutput(loss, {"accuracy": accuracy})


@hookimpl
def evaluate(
    model: nn.Module, collator: EmbeddingCollator, data: TaskData | None, args: TrainingArguments
) -> Evaluation:
    """Exact search over the evaluation corpus."""
    from swift_embedding.retrieval import evaluate_retrieval, load_retrieval, retrieval_from_rows

    if data is not None:
        retrieval = retrieval_from_rows(data.records)
    elif args.task.eval_retrieval is not None:
        retrieval = load_retrieval(Path(args.task.eval_retrieval), args.task.eval_retrieval_split)
    else:
        raise UserError("eval_retrieval: expected a BEIR folder (or eval_dataset with rows), found neither")
    metrics, rows = evaluate_retrieval(
        retrieval,
        _encoder(model, collator),
        {*args.task.eval_k, 10, 100},
        progress=args.shows_progress,
    )
    return Evaluation(metrics, {"per_query": rows})


@hookimpl
def export(
    model: nn.Module,
    collator: EmbeddingCollator,
    format: str,
    folder: Path,
    data: TaskData | None,
    args: TrainingArguments,
) -> Mapping[str, Any]:
    """Write a sentence-transformers folder or a FAISS bundle."""
    from swift_embedding.exports import WRITERS

    return WRITERS[format](folder, _encoder(model, collator), data, args)


def _encoder(model: nn.Module, collator: EmbeddingCollator) -> TextEncoder:
    return TextEncoder(
        model=model,
        tokenizer=collator.tokenizer,
        max_length=collator.max_length,
        pooling_method=collator.pooling_method,
        normalize_embeddings=collator.normalize_embeddings,
        query_prompt=collator.query_prompt,
        document_prompt=collator.document_prompt,
    )
