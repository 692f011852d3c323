"""The model card: what a folder scores, how it is used, and what is known of its training."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from huggingface_hub import ModelCardData

from swift_core.cards import (
    Training,
    eval_results,
    hub_datasets,
    hub_id,
    training_of,
    training_sections,
    write_readme,
)
from swift_reranker.card_code import Reads, cross_encoder_code, onnx_code, reranker_code, transformers_code
from swift_reranker.settings import Settings
from swift_reranker.template import closing_ids

if TYPE_CHECKING:
    from swift_core.arguments import TrainingArguments
    from swift_core.runs.record import Run
    from swift_reranker.collator import RerankerCollator
    from swift_reranker.st_folder import Answers

Kind: TypeAlias = Literal["model", "onnx"]

_TOLD_ELSEWHERE = (
    "scoring",
    "template",
    "instruction",
    "true_token",
    "false_token",
    "query_max_length",
    "first_stage",
    "first_stage_depth",
)
_NO_RESULTS = ("score_spread", "gain_", "first_stage_")
"""What figures begin with that an evaluation tells beside those of the model."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a card tells.

    Attributes:
        kind: a ``model`` of transformers, or an ONNX graph.
        settings: how pairs are read and scored.
        reads: the same in numbers, for programs of others.
        cross_encoder: whether ``CrossEncoder`` of sentence-transformers loads the folder.
        vllm: what ``vllm serve`` needs as ``--hf-overrides``; None where this is not known.
        base_model: hub id; a local folder is of no use to a reader and is left out.
        reranked: words on the candidates of the evaluation, where a first stage found them.
    """

    kind: Kind
    settings: Settings
    reads: Reads
    cross_encoder: bool = False
    vllm: Mapping[str, Any] | None = None
    base_model: str | None = None
    training: Training = field(default_factory=Training)
    reranked: str = ""


def card_of(
    kind: Kind,
    collator: RerankerCollator,
    args: TrainingArguments,
    run: Run,
    *,
    answers: Answers | None = None,
    cross_encoder: bool = False,
    vllm: Mapping[str, Any] | None = None,
) -> Card:
    """The card of an export of ``run``.

    Args:
        answers: ids of the answers of a causal language model.
    """
    pairs, task = collator.pairs, args.task
    closing = None
    if pairs.template is not None:
        closing = closing_ids(pairs.tokenizer, pairs.template, pairs.instruction)
    reranked = ""
    if task.eval_retrieval is not None:
        stage = task.first_stage if task.first_stage == "bm25" else Path(task.first_stage).name
        reranked = f", where the first {task.first_stage_depth:,} candidates of {stage} were reranked"
    return Card(
        kind=kind,
        settings=collator.settings,
        reads=Reads(max_length=pairs.max_length, closing=closing, answers=answers),
        cross_encoder=cross_encoder,
        vllm=vllm,
        base_model=hub_id(run.base_model),
        training=training_of(
            args, run, told_elsewhere=_TOLD_ELSEWHERE, evaluated_on=task.eval_retrieval or None
        ),
        reranked=reranked,
    )


def write_card(folder: Path, card: Card) -> None:
    """Write ``README.md``, in place of one that is there."""
    parts = [_front_matter(card), _what_it_is(card), *_how_to_use(card)]
    write_readme(folder, [*parts, *training_sections(card.training, measured=card.reranked)])


def _front_matter(card: Card) -> str:
    metrics = card.training.metrics
    figures = {name: value for name, value in metrics.items() if not name.startswith(_NO_RESULTS)}
    results = eval_results(
        replace(card.training, metrics=figures), task_type="text-ranking", task_name="Reranking"
    )
    library = "sentence-transformers" if card.cross_encoder else "transformers"
    data = ModelCardData(
        library_name="onnx" if card.kind == "onnx" else library,
        pipeline_tag="text-ranking",
        tags=["reranker", *(["cross-encoder"] if card.cross_encoder else [])],
        base_model=card.base_model,
        datasets=hub_datasets(card.training),
        model_name="reranker" if results else None,
        eval_results=results or None,
    )
    return f"---\n{data.to_yaml()}\n---"


def _what_it_is(card: Card) -> str:
    settings = card.settings
    what = "This model" if card.kind == "model" else "This ONNX graph"
    base = f", trained from `{card.base_model}`," if card.base_model else ""
    how = "with one output"
    if settings.scoring == "generative":
        how = (
            f"the logit of `{settings.true_token}` less that of `{settings.false_token}` as the next token "
            "of a causal language model"
        )
    cut = f"Pairs take at most {settings.max_length} tokens: of longer ones the document is cut at its end."
    if settings.query_max_length is not None:
        cut += f" Queries were cut to {settings.query_max_length} tokens; other programs do not do that."
    about = (
        f"{what}{base} gives a query and a document a score, the higher the better the document answers the "
        f"query: {how}. The sigmoid of a raw score lies between 0 and 1. {cut} Trained with swift-reranker."
    )
    parts = [f"# Reranker\n\n{about}"]
    if settings.template is not None:
        fence = "`" * max(4, _longest_fence(settings.template) + 1)
        told = (
            f"\n\n`{{instruction}}` is: {settings.instruction}"
            if "{instruction}" in settings.template
            else ""
        )
        parts.append(f"It reads this text:\n\n{fence}text\n{settings.template}\n{fence}{told}")
    return "\n\n".join(parts)


def _longest_fence(text: str) -> int:
    longest = run = 0
    for character in text:
        run = run + 1 if character == "`" else 0
        longest = max(longest, run)
    return longest


def _how_to_use(card: Card) -> list[str]:
    if card.kind == "onnx":
        return ["## Use", "Pad on the right; `scores` are raw.", onnx_code(card.reads)]
    parts = ["## Use"]
    if card.cross_encoder:
        parts += ["With sentence-transformers 6 or later:", cross_encoder_code()]
    parts += ["With swift-reranker, as in training:", reranker_code()]
    parts += ["With transformers:", transformers_code(card.reads)]
    if card.vllm is not None:
        overrides = shlex.quote(json.dumps(card.vllm, ensure_ascii=False))
        parts.append(
            "With vLLM, whose scores come from `/score` and `/rerank`:\n\n"
            f"```sh\nvllm serve path/to/this/folder --hf-overrides {overrides} "
            "--chat-template path/to/this/folder/chat_template.jinja\n```"
        )
    return parts
