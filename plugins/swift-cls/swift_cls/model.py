"""The classifier: transformers' own class for it, whose body runs on flat rows."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import transformers

from swift_cls.settings import labels_of_folder
from swift_core.classifiers import as_flat_classifier
from swift_core.errors import UserError, listed
from swift_core.flat import PoolingMethod
from swift_core.model_folders import is_adapter, load_config, resolve_model
from swift_core.models import Head, load_backbone

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from swift_cls.collator import ClassificationCollator
    from swift_cls.labels import Labels
    from swift_core.arguments import TrainingArguments

_SHOWN = 10
_PROBLEMS: Mapping[str, Any] = {
    "single_label": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}


def build_model(args: TrainingArguments, collator: ClassificationCollator) -> Any:
    """The model to train.

    Raises:
        UserError: it can't be built, or can't be used as the options say.
    """
    labels, config = collator.known_labels, load_config(args)
    # Of the folder that is loaded now, which may be a checkpoint of the run.
    known = labels_of_folder(resolve_model(args), config)
    has_head = known is not None and known.problem == labels.problem and _is_of(known, labels)
    if known is not None and not has_head and is_adapter(resolve_model(args)):
        raise UserError(
            f"model_name_or_path: the adapter {args.core.model_name_or_path} has a head for the labels "
            f"{listed(known.names[:_SHOWN])}, and the data has others; export its run as hf and start there"
        )
    config.num_labels = len(labels)
    config.problem_type = _PROBLEMS[labels.problem]
    if labels.names:
        config.id2label = dict(enumerate(labels.names))
        config.label2id = {name: number for number, name in enumerate(labels.names)}
    # Without one, transformers refuses batches of a decoder, or reads the vector of a padding token.
    config.get_text_config().pad_token_id = config.pad_token_id = collator.tokenizer.pad_token_id
    head = Head(
        config=config,
        prepare=partial(_prepare, args=args, collator=collator, fresh=not has_head),
        task_type="SEQ_CLS",
    )
    return load_backbone(args, transformers.AutoModelForSequenceClassification, head)


def _is_of(known: Labels, labels: Labels) -> bool:
    return known.names == labels.names or (labels.of_model and known.may_go_by(labels.names))


def _prepare(
    model: PreTrainedModel, *, args: TrainingArguments, collator: ClassificationCollator, fresh: bool
) -> None:
    kind = type(model).__name__
    classifier = as_flat_classifier(
        model,
        fresh_head=fresh,
        pooling_method=collator.pooling_method,
        chunk_pooling="max" if collator.texts.long_text == "chunk_max" else "mean",
    )
    _check_pooling(args, collator, classifier.family_pooling, kind)
    classifier.starts_at_probe = fresh and args.task.head_start == "probe"


def _check_pooling(
    args: TrainingArguments, collator: ClassificationCollator, own: PoolingMethod | None, kind: str
) -> None:
    asked = collator.pooling_method
    faults = []
    if asked not in (None, own) and "hf" in args.core.export_formats:
        faults.append(
            f"pooling_method: transformers' {kind} reads {own or 'something else'}, found {asked}, so the "
            "format hf would give other labels; leave pooling_method out, or export as onnx"
        )
    if asked is None and own is None and args.core.sequence_parallel_size > 1:
        faults.append(
            f"sequence_parallel_size: {kind} runs on padded rows, which can't be shared; set pooling_method"
        )
    if asked is None and own is None and collator.texts.long_text.startswith("chunk"):
        faults.append(
            f"long_text: the head of {kind} can't be given the vectors of chunks; set pooling_method"
        )
    if asked is None and own is None and args.task.head_start == "probe":
        faults.append(f"head_start: a probe can't tell what the head of {kind} reads; set pooling_method")
    if faults:
        raise UserError(*faults)
