"""The model card: what a folder answers, how it is loaded, and what is known of its training."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

from huggingface_hub import ModelCardData, metadata_load

from swift_core.cards import (
    Training,
    eval_results,
    hub_datasets,
    hub_id,
    training_of,
    training_sections,
    write_readme,
)
from swift_core.errors import UserError
from swift_core.model_folders import base_folder_of, is_adapter, resolve_model
from swift_dpo.arena_options import ENDPOINT_OPTIONS
from swift_dpo.card_code import adapter_code, transformers_code

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

    from swift_core.arguments import TrainingArguments
    from swift_core.runs.record import Run

Kind: TypeAlias = Literal["hf", "adapter"]

_NO_RESULTS = ("answer_", "judge_", "kl", "logps/", "logits/", "tie_rate")
"""What figures begin with that an evaluation tells beside those of quality."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a card tells.

    Attributes:
        kind: whole weights, or an adapter.
        task_type: what it was trained by.
        chat: it was trained on messages, which the chat template writes.
        base_model: hub id; a local folder is of no use to a reader and is left out.
        licence: of the base model, where its card tells.
    """

    kind: Kind
    task_type: str
    chat: bool
    base_model: str | None = None
    licence: str | None = None
    training: Training = field(default_factory=Training)


def card_of(
    kind: str,
    tokenizer: PreTrainedTokenizerBase,
    args: TrainingArguments,
    run: Run,
    *,
    chat: bool,
) -> Card:
    """The card of an export of ``run``."""
    name = run.base_model
    return Card(
        kind="adapter" if kind == "adapter" else "hf",
        task_type=args.spec.name,
        chat=chat and tokenizer.chat_template is not None,
        base_model=hub_id(name),
        licence=None if name is None else licence_of(name, args),
        training=training_of(args, run, told_elsewhere=ENDPOINT_OPTIONS),
    )


def licence_of(name: str, args: TrainingArguments) -> str | None:
    """The licence that the card of a base model names; None where it has no card, or none is named there."""
    try:
        own = args.with_model(name)
        folder = resolve_model(own)
        folder = base_folder_of(folder, own) if is_adapter(folder) else folder
        metadata = metadata_load(folder / "README.md") or {}
    except (UserError, OSError, ValueError):
        return None
    licence = metadata.get("license")
    return licence if isinstance(licence, str) else None


def write_card(folder: Path, card: Card) -> None:
    """Write ``README.md``, in place of one that is there."""
    parts = [_front_matter(card), _what_it_is(card), _intended(card), *_how_to_use(card)]
    write_readme(folder, [*parts, *training_sections(card.training)])


def _front_matter(card: Card) -> str:
    figures = {
        name: value for name, value in card.training.metrics.items() if not name.startswith(_NO_RESULTS)
    }
    results = eval_results(
        replace(card.training, metrics=figures), task_type="text-generation", task_name="Preferences"
    )
    data = ModelCardData(
        library_name="transformers" if card.kind == "hf" else "peft",
        pipeline_tag="text-generation",
        license=card.licence,
        tags=[card.task_type, "preference-optimisation", *(["lora"] if card.kind == "adapter" else [])],
        base_model=card.base_model,
        datasets=hub_datasets(card.training),
        model_name="preference-tuned model" if results else None,
        eval_results=results or None,
    )
    return f"---\n{data.to_yaml()}\n---"


def _what_it_is(card: Card) -> str:
    what = "This model" if card.kind == "hf" else "This LoRA adapter"
    base = f" of `{card.base_model}`" if card.base_model else ""
    reads = "It continues plain texts: prompts and answers were trained on as they stand, with no template."
    if card.chat:
        reads = (
            "It reads messages as the chat template in this folder writes them (`chat_template.jinja`, which "
            "`apply_chat_template` uses); with another template its answers are others."
        )
    return (
        f"# Preference-tuned model\n\n{what} is a version{base} that was trained by preference optimisation "
        f"(`{card.task_type}`): answers that people or programs preferred were made likelier than others. "
        f"{reads} Trained with swift-dpo."
    )


def _intended(card: Card) -> str:
    licence = (
        f"The base model's licence, `{card.licence}`, holds for what was made of it"
        if card.licence
        else "The licence of the base model, which its own card names, holds for what was made of it"
    )
    return (
        "## Intended use\n\nTo answer requests like those of its training data. It prefers what was "
        "preferred there, good or bad; what it says may be wrong or harmful, and must be checked before "
        f"people rely on it. {licence}, and so may licences of the data."
    )


def _how_to_use(card: Card) -> list[str]:
    if card.kind == "adapter":
        return ["## Use", "With peft, which loads the base model too:", adapter_code(chat=card.chat)]
    return [
        "## Use",
        "With transformers:",
        transformers_code(chat=card.chat),
        "With vLLM:\n\n```sh\nvllm serve path/to/this/folder\n```",
    ]
