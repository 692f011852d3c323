"""The model card: what a folder tells apart, how it is used, and what is known of its training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from huggingface_hub import ModelCardData

from swift_cls.card_code import onnx_code, pipeline_code, transformers_code
from swift_cls.probing import takes_pairs
from swift_core.cards import (
    Training,
    eval_results,
    hub_datasets,
    hub_id,
    table,
    training_of,
    training_sections,
    write_readme,
)

if TYPE_CHECKING:
    from swift_cls.collator import ClassificationCollator
    from swift_cls.options import LongText, Problem
    from swift_core.arguments import TrainingArguments
    from swift_core.runs.record import Run

Kind: TypeAlias = Literal["model", "onnx", "onnx-int8"]

_TOLD_ELSEWHERE = ("problem", "label_names", "num_labels", "long_text", "threshold", "report_duplicates")
_NO_RESULTS = ("temperature", "threshold")
"""An evaluation tells them beside its figures."""
_LABELS_TOLD = 50
_CLASSES_TOLD = 100
PICTURE = "confusion.png"


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a card tells.

    Attributes:
        kind: a ``model`` of transformers, or an ONNX graph, perhaps with weights of 8 bits.
        labels: their names; none for scores.
        pairs: whether plain transformers can be given two texts that are judged together.
        base_model: hub id; a local folder is of no use to a reader and is left out.
        per_class: figures of each label in the last evaluation.
        picture: whether a picture of the confusion matrix lies beside the card.
    """

    kind: Kind
    problem: Problem
    labels: Sequence[str]
    max_length: int
    long_text: LongText = "truncate"
    threshold: float | Sequence[float] = 0.5
    temperature: float = 1.0
    pairs: bool = False
    reads: str = "texts"
    template: bool = False
    base_model: str | None = None
    training: Training = field(default_factory=Training)
    per_class: Sequence[Mapping[str, Any]] = ()
    picture: bool = False


def card_of(
    kind: Kind, collator: ClassificationCollator, args: TrainingArguments, run: Run
) -> tuple[Card, Path | None]:
    """The card of an export of ``run``, and the picture that goes beside it."""
    labels, decision = collator.known_labels, collator.decision
    per_class, picture = last_evaluation(run.evaluations())
    card = Card(
        kind=kind,
        problem=labels.problem,
        labels=labels.names,
        max_length=collator.texts.max_length,
        long_text=collator.texts.long_text,
        threshold=decision.threshold,
        temperature=decision.temperature,
        pairs=takes_pairs(collator.tokenizer),
        reads=collator.reads,
        template=collator.tokenizer.chat_template is not None,
        base_model=hub_id(run.base_model),
        training=training_of(args, run, told_elsewhere=_TOLD_ELSEWHERE),
        per_class=per_class,
        picture=picture is not None,
    )
    return card, picture


def last_evaluation(steps: Mapping[int, Path]) -> tuple[list[dict[str, Any]], Path | None]:
    """The table of labels and the picture of the last of a run's evaluations, as far as there are any."""
    if not steps:
        return [], None
    folder = steps[max(steps)]
    lines, picture = folder / "per_class.jsonl", folder / PICTURE
    rows = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
    return rows, picture if picture.exists() else None


def write_card(folder: Path, card: Card) -> None:
    """Write ``README.md``, in place of one that is there."""
    parts = [_front_matter(card), _what_it_is(card), *_how_to_use(card)]
    before = ", before its weights got 8 bits" if card.kind == "onnx-int8" else ""
    write_readme(folder, [*parts, *training_sections(card.training, measured=before), *_classes(card)])


def _front_matter(card: Card) -> str:
    # Those of other weights are not this folder's.
    measured = {} if card.kind == "onnx-int8" else card.training.metrics
    figures = {name: value for name, value in measured.items() if name not in _NO_RESULTS}
    results = eval_results(
        replace(card.training, metrics=figures),
        task_type="text-classification",
        task_name="Text classification",
    )
    data = ModelCardData(
        library_name="transformers" if card.kind == "model" else "onnx",
        pipeline_tag="text-classification",
        tags=["text-classification"],
        base_model=card.base_model,
        datasets=hub_datasets(card.training),
        model_name="text classification" if results else None,
        eval_results=results or None,
    )
    return f"---\n{data.to_yaml()}\n---"


def _what_it_is(card: Card) -> str:
    what = {
        "model": "This model",
        "onnx": "This ONNX graph",
        "onnx-int8": "This ONNX graph, with weights of 8 bits,",
    }[card.kind]
    base = f", trained from `{card.base_model}`," if card.base_model else ""
    shown = ", ".join(f"`{' '.join(name.split())}`" for name in card.labels[:_LABELS_TOLD])
    more = f" and {len(card.labels) - _LABELS_TOLD} more" if len(card.labels) > _LABELS_TOLD else ""
    does = {
        "single_label": f"gives a text one of {len(card.labels)} labels: {shown}{more}.",
        "multi_label": f"gives a text any of {len(card.labels)} labels, or none: {shown}{more}.",
        "regression": "gives a text a score.",
    }[card.problem]
    title = "Text scores" if card.problem == "regression" else "Text classification"
    return f"# {title}\n\n{what}{base} {does} {_long_texts(card)} Trained with swift-cls."


def _long_texts(card: Card) -> str:
    if card.long_text == "truncate":
        return f"Texts longer than {card.max_length} tokens are cut at their end."
    if card.long_text == "head_tail":
        trained = f"Of texts longer than {card.max_length} tokens, head and tail were read in training."
    else:
        how = "averaged" if card.long_text == "chunk_mean" else "maximised"
        trained = f"Texts longer than {card.max_length} tokens were read in chunks whose vectors were {how}."
    return (
        f"{trained} **The code below reads the first {card.max_length} tokens only**; "
        "`swift_cls.serving.load` reads whole folders of the format `hf` as in training."
    )


def _how_to_use(card: Card) -> list[str]:
    decided = (card.problem, card.threshold, card.temperature)
    if card.kind != "model":
        return ["## Use", f"Pad on the right.{_decision(card)}", *_of_rows(card), onnx_code(*decided)]
    parts = ["## Use", *_of_rows(card)]
    if card.problem == "single_label":
        parts.append(pipeline_code())
    if card.pairs:
        parts.append(
            'Two texts that are judged together go in as `{"text": ..., "text_pair": ...}` (pipeline) or as '
            "`tokenizer(texts, other_texts, ...)`."
        )
    if card.problem != "single_label" or card.temperature != 1.0:
        parts += [_decision(card).strip(), transformers_code(*decided)]
    return [part for part in parts if part]


def _of_rows(card: Card) -> list[str]:
    """How what the model was trained on becomes a text, where it was no text."""
    if card.reads == "messages":
        by_template = (
            "`tokenizer.apply_chat_template(messages, tokenize=False)`; that text goes in with "
            "`add_special_tokens=False`"
        )
        how = by_template if card.template else "the contents of its messages with a new line between them"
        return [
            f"It was trained on conversations. The text of one is {how}. `swift_cls.serving.respond` takes "
            "`messages` as they are."
        ]
    if card.reads == "pairs" and not card.pairs:
        return [
            "It was trained on pairs of texts, with a new line between them, since its tokenizer puts "
            'nothing there: give `first + "\\n" + second` as one text.'
        ]
    return []


def _decision(card: Card) -> str:
    told = ""
    if card.problem != "regression" and card.temperature != 1.0:
        told += (
            f" Divided by the temperature {card.temperature:.4g}, which was fitted on the evaluation data, "
            "logits give probabilities that can be trusted more."
        )
    if card.problem == "multi_label":
        if isinstance(card.threshold, Sequence):
            told += " A text has a label from that label's own threshold on."
        else:
            told += f" A text has each label whose probability is {card.threshold:.4g} or above."
    return told


def _classes(card: Card) -> list[str]:
    parts = []
    if card.per_class:
        rows = sorted(card.per_class, key=lambda row: -row["support"])[:_CLASSES_TOLD]
        # In the order of the labels, whichever are shown.
        rows = [row for row in card.per_class if row in rows]
        names = list(card.per_class[0])
        lines = [[_written(row[name]) for name in names] for row in rows]
        rest = len(card.per_class) - len(rows)
        tail = f"\n\nAnd {rest} labels with fewer rows." if rest else ""
        parts.append(f"## Labels\n\n{table(names, lines)}{tail}")
    if card.picture:
        parts.append(f"![Confusion matrix]({PICTURE})")
    return parts


def _written(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
