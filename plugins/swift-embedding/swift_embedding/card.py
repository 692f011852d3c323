"""The model card: what a folder holds, how it is used, and what is known of its training."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from huggingface_hub import EvalResult, ModelCardData

from swift_core.flat import PoolingMethod
from swift_embedding.card_code import onnx_code, sentence_transformers_code, transformers_code

if TYPE_CHECKING:
    from swift_core.arguments import TrainingArguments
    from swift_core.runs.record import Run
    from swift_embedding.encoding import TextEncoder

_CORE = ("max_length", "model_dtype", "max_tokens_per_batch")
_LORA = ("lora_rank", "resolved_lora_alpha", "lora_dropout", "lora_target_modules")
_LOOP = (
    "learning_rate",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "bf16",
    "fp16",
    "seed",
)
_TOLD_ELSEWHERE = ("pooling_method", "normalize_embeddings", "query_prompt", "document_prompt")


@dataclass(frozen=True, kw_only=True)
class Training:
    """What is known of how a model was trained.

    Attributes:
        data: for each set of rows its use (``train``, ``eval``), its name and its number of rows.
        options: those that shape the result.
        metrics: figures of the last evaluation of the run; empty when there was none.
        evaluated_on: name of the evaluation data.
    """

    data: Sequence[tuple[str, str, int]] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    evaluated_on: str | None = None


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
        base_model=hub_id(run.record["options"].get("model_name_or_path")),
        training=training_of(args, run),
    )


def training_of(args: TrainingArguments, run: Run) -> Training:
    """What the options and the record of ``run`` tell. Of paths only the last part: the rest is private."""
    core, loop = args.core, args.trainer
    values = {name: getattr(core, name) for name in (*_CORE, *(_LORA if core.use_lora else ()))}
    values |= {name: getattr(loop, name) for name in _LOOP}
    values |= {
        option.name: getattr(args.task, option.name)
        for option in fields(args.task)
        if option.name not in _TOLD_ELSEWHERE and not option.name.startswith(("eval_", "export_"))
    }
    record = run.record
    data = [
        (part["name"], _short(source["name"]), source["rows"])
        for part in record.get("data") or ()
        for source in part["sources"]
    ]
    measured = record.get("metrics") or {}
    metrics = {
        name.removeprefix("eval_"): float(value)
        for name, value in measured.items()
        if name.startswith("eval_") and name not in ("eval_runtime", "eval_loss")
    }
    evaluated_on = getattr(args.task, "eval_retrieval", None) or next(
        (name for use, name, _ in data if use == "eval"), None
    )
    shown = {name: value for name, value in values.items() if value not in (None, "", False, [], -1)}
    return Training(
        data=data,
        options={name: _short(getattr(value, "value", value)) for name, value in shown.items()},
        metrics=metrics,
        evaluated_on=evaluated_on and _short(evaluated_on),
    )


def hub_id(name: str | None) -> str | None:
    """The hub id in ``name``, which may be one, or a copy in the hub's cache; None for any other folder."""
    if not name:
        return None
    cached = re.search(r"models--([\w.-]+?)--([\w.-]+?)[/\\]snapshots", name)
    if cached:
        return "/".join(cached.groups())
    is_id = re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", name) is not None
    return name if is_id and not Path(name).exists() else None


def write_card(folder: Path, card: Card) -> None:
    """Write ``README.md``, in place of one that is there."""
    parts = [_front_matter(card), _what_it_is(card), *_how_to_use(card), _prompts(card), *_trained(card)]
    text = "\n\n".join(part.strip("\n") for part in parts) + "\n"
    (folder / "README.md").write_text(text, encoding="utf-8", newline="\n")


def _front_matter(card: Card) -> str:
    libraries = {"model": "sentence-transformers", "adapter": "peft", "onnx": "onnx"}
    tags = ["sentence-transformers", "sentence-similarity", "feature-extraction"]
    hub_sets = sorted({name for _, name, _ in card.training.data if re.fullmatch(r"[\w.-]+/[\w-]+", name)})
    data = ModelCardData(
        library_name=libraries[card.kind],
        pipeline_tag="sentence-similarity" if card.kind == "model" else "feature-extraction",
        tags=[*tags, *(["lora"] if card.kind == "adapter" else [])],
        base_model=card.base_model,
        datasets=hub_sets or None,
        model_name="text embeddings" if _results(card) else None,
        eval_results=_results(card) or None,
    )
    return f"---\n{data.to_yaml()}\n---"


def _results(card: Card) -> list[EvalResult]:
    """Figures for the hub, of the vectors as they are here: those of uncut vectors are not theirs."""
    training = card.training
    if card.dimensions is not None or training.evaluated_on is None:
        return []
    return [
        EvalResult(
            task_type="information-retrieval",
            task_name="Information retrieval",
            dataset_type="custom",
            dataset_name=training.evaluated_on,
            metric_type=name,
            metric_value=round(value, 6),
        )
        for name, value in training.metrics.items()
    ]


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


def _trained(card: Card) -> list[str]:
    training = card.training
    parts = []
    if training.data:
        rows = [f"| {use} | {name} | {count:,} |" for use, name, count in training.data]
        parts.append("\n".join(["## Data\n", "| used for | name | rows |", "| --- | --- | --- |", *rows]))
    if training.options:
        rows = [f"| `{name}` | {value} |" for name, value in training.options.items()]
        parts.append("\n".join(["## Training\n", "| option | value |", "| --- | --- |", *rows]))
    if training.metrics:
        where = f" on {training.evaluated_on}" if training.evaluated_on else ""
        how = ", with the uncut vectors" if card.dimensions else ""
        head = f"## Evaluation\n\nThe last evaluation of the run{where}{how}:\n"
        rows = [f"| {name} | {value:.4f} |" for name, value in training.metrics.items()]
        parts.append("\n".join([head, "| metric | value |", "| --- | --- |", *rows]))
    return parts


def _short(value: Any) -> Any:
    """A path without the folders it lies in, anything else as it is."""
    if isinstance(value, str) and (Path(value).is_absolute() or Path(value).exists() or value.count("/") > 1):
        return Path(value).name
    return value
