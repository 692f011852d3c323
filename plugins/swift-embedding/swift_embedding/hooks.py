"""The five hooks of the task type ``embedding``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers

from swift_core.errors import UserError
from swift_core.hookspecs import Evaluation, LossOutput, hookimpl
from swift_core.models import load_backbone
from swift_embedding import collator as collating
from swift_embedding.encoding import embed
from swift_embedding.objective import Vectors, compute, loss_name

if TYPE_CHECKING:
    from torch import nn

    from swift_core.arguments import TrainingArguments
    from swift_core.data.dataset import TaskData
    from swift_core.runs.record import Run
    from swift_embedding.collator import EmbeddingCollator


@hookimpl
def make_model(args: TrainingArguments) -> nn.Module:
    """The backbone itself, so that a saved model or adapter is keyed to the class that users load."""
    model: Any = load_backbone(args, transformers.AutoModel)
    for name, parameter in model.named_parameters():
        # BERT's own pooler takes no part here; with gradients expected of it, DDP would wait for them.
        if "pooler." in name:
            parameter.requires_grad_(False)
    wanted, size = args.task.export_dimensions, int(model.config.get_text_config().hidden_size)
    if wanted is not None and wanted > size:
        raise UserError(f"export_dimensions: the model's vectors have {size} numbers, found {wanted}")
    return model  # type: ignore[no-any-return]


@hookimpl
def make_collator(args: TrainingArguments) -> EmbeddingCollator:
    """Tokenizer, lengths, prompts and pooling."""
    return collating.make_collator(args)


@hookimpl
def compute_loss(
    model: nn.Module, batch: Mapping[str, Any], collator: EmbeddingCollator, args: TrainingArguments
) -> LossOutput:
    """The loss of the batch's data set, see :mod:`swift_embedding.objective`."""
    skips = {"query": collator.query_skip, "document": collator.document_skip}
    if batch["kind"] == "scored":
        skips["document"] = collator.query_skip
    sides = [side for side in ("query", "document") if side in batch]
    found = [
        embed(
            model,
            batch[side],
            method=collator.pooling_method,
            normalize=collator.normalize_embeddings,
            skip=skips[side],
            cache_tokens=args.task.gradient_cache_tokens,
        )
        for side in sides
    ]
    vectors = Vectors(found[0], found[-1])  # labelled texts are documents and queries
    guide = None
    reads_guide = loss_name(args.task, batch["source"], batch["kind"]) == "infonce"
    if collator.guide is not None and reads_guide:
        guide = collator.guide.vectors(batch["query_texts"], batch.get("document_texts"), found[0].device)
    loss, figures = compute(vectors, batch, args.task, guide)
    return LossOutput(loss, figures)


@hookimpl
def evaluate(
    model: nn.Module, collator: EmbeddingCollator, data: TaskData | None, args: TrainingArguments
) -> Evaluation:
    """What the data allows, see :mod:`swift_embedding.evaluation`."""
    from swift_embedding.evaluation import evaluate_model

    return evaluate_model(collator.encoder(model), data, args)


@hookimpl
def export(
    model: nn.Module,
    collator: EmbeddingCollator,
    format: str,
    folder: Path,
    data: TaskData | None,
    args: TrainingArguments,
    run: Run,
) -> Mapping[str, Any]:
    """Write a sentence-transformers folder, a FAISS bundle or an ONNX graph."""
    from swift_embedding.exports import WRITERS

    encoder = replace(collator.encoder(model), dimensions=args.task.export_dimensions)
    return WRITERS[format](folder, encoder, data, args, run)
