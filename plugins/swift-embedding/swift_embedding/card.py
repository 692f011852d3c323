"""The model card: what a folder holds, how it is used, and what is known of its training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from huggingface_hub import EvalResult, ModelCardData

from swift_core.cards import (
    Training,
    eval_results,
    hub_datasets,
    hub_id,
    training_of,
    training_sections,
    write_readme,
)
from swift_core.flat import PoolingMethod
from swift_embedding.card_code import onnx_code, sentence_transformers_code, transformers_code

if TYPE_CHECKING:
    from swift_core.arguments import TrainingArguments
    from swift_core.runs.record import Run
    from swift_embedding.encoding import TextEncoder

_TOLD_ELSEWHERE = ("pooling_method", "normalize_embeddings", "query_prompt", "document_prompt")


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a card tells.

    Attributes:
        kind: a whole ``model``, an ``adapter`` beside its base model, or an ``onnx`` graph.
        size: length of a vector, where it is known.
        dimensions: the same where vectors are cut to it.
        base_model: hub id; a local folder is of no use to a reader and is left out.
    """

    kind: Literal["model", "adapter", "onnx"]
    pooling_method: PoolingMethod
    normalize: bool
    max_length: int
    prompts: Mapping[str, str]
    size: int | None
    dimensions: int | None = None
    base_model: str | None = None
    training: Training = field(default_factory=Training)


def card_of(encoder: TextEncoder, kind: Literal["model", "onnx"], args: TrainingArguments, run: Run) -> Card:
    """The card of an export of ``run``."""
    return Card(
        kind=kind,
        pooling_method=encoder.pooling_method,
        normalize=encoder.normalize_embeddings,
        max_length=encoder.max_length,
        prompts=encoder.prompts,
        size=encoder.size,
        dimensions=encoder.dimensions,
        base_model=hub_id(run.base_model),
        training=training_of(
            args, run, told_elsewhere=_TOLD_ELSEWHERE, evaluated_on=getattr(args.task, "eval_retrieval", None)
        ),
    )


def write_card(folder: Path, card: Card) -> None:
    """Write ``README.md``, in place of one that is there."""
    parts = [_front_matter(card), _what_it_is(card), *_how_to_use(card), _prompts(card)]
    how = ", with the uncut vectors" if card.dimensions else ""
    write_readme(folder, [*parts, *training_sections(card.training, measured=how)])


def _front_matter(card: Card) -> str:
    libraries = {"model": "sentence-transformers", "adapter": "peft", "onnx": "onnx"}
    tags = ["sentence-transformers", "sentence-similarity", "feature-extraction"]
    data = ModelCardData(
        library_name=libraries[card.kind],
        pipeline_tag="sentence-similarity" if card.kind == "model" else "feature-extraction",
        tags=[*tags, *(["lora"] if card.kind == "adapter" else [])],
        base_model=card.base_model,
        datasets=hub_datasets(card.training),
        model_name="text embeddings" if _results(card) else None,
        eval_results=_results(card) or None,
    )
    return f"---\n{data.to_yaml()}\n---"


def _results(card: Card) -> list[EvalResult]:
    """Figures for the hub, of the vectors as they are here: those of uncut vectors are not theirs."""
    if card.dimensions is not None:
        return []
    return eval_results(card.training, task_type="information-retrieval", task_name="Information retrieval")


def _what_it_is(card: Card) -> str:
    what = {"model": "This model", "adapter": "This LoRA adapter", "onnx": "This ONNX graph"}[card.kind]
    base = f" `{card.base_model}`" if card.base_model else ""
    of = {"adapter": f", on its base model{base},"}.get(card.kind, f", trained from{base}," if base else "")
    size = f" of {card.size} numbers" if card.size else ""
    length = " and length 1" if card.normalize and size else " of length 1" if card.normalize else ""
    cut = " The model's own vectors are longer and were cut (Matryoshka)." if card.dimensions else ""
    return (
        "# Text embeddings\n\n"
        f"{what}{of} maps a text to a vector{size}{length} ({card.pooling_method} pooling). Texts that "
        f"answer a query lie close to it. Texts longer than {card.max_length} tokens are cut.{cut} Trained "
        "with swift-embedding."
    )


def _how_to_use(card: Card) -> list[str]:
    if card.kind == "onnx":
        return ["## Use", "`model.onnx` holds pooling and all. Pad on the right.", onnx_code(card.prompts)]
    plain = transformers_code(
        method=card.pooling_method,
        normalize=card.normalize,
        dimensions=card.dimensions,
        max_length=card.max_length,
        prompts=card.prompts,
        adapter=card.kind == "adapter",
    )
    packages = "peft and transformers" if card.kind == "adapter" else "transformers"
    return [
        "## Use with sentence-transformers",
        sentence_transformers_code(),
        f"## Use with plain {packages}",
        *(["`adapter_config.json` says where the base model is."] if card.kind == "adapter" else []),
        plain,
    ]


def _prompts(card: Card) -> str:
    before = {name: f"`{text!r}`" if text else "nothing" for name, text in card.prompts.items()}
    return f"Before a query stands {before['query']}, before a document {before['document']}."
