"""The model of a reranker: transformers' own class, with one output, or asked for one of two answers."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import transformers

from swift_core.classifiers import as_flat_classifier
from swift_core.errors import UserError
from swift_core.flat import FlatState, set_state
from swift_core.model_folders import load_config
from swift_core.models import Head, load_backbone
from swift_reranker.judge import as_judge

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from swift_core.arguments import TrainingArguments
    from swift_reranker.collator import RerankerCollator


def build_model(args: TrainingArguments, collator: RerankerCollator) -> Any:
    """The model to train; called with ``flat=`` it gives scores [S, 1], see the classes it is made of.

    Raises:
        UserError: it can't be built.
    """
    if collator.settings.scoring == "generative":
        return _judge(args, collator)
    config = load_config(args)
    trained = config.num_labels == 1 and _is_classifier(config)
    config.num_labels = 1
    # Without one, transformers refuses batches of a decoder, or reads the vector of a padding token.
    config.get_text_config().pad_token_id = config.pad_token_id = collator.tokenizer.pad_token_id
    head = Head(config=config, prepare=partial(_prepare, fresh=not trained), task_type="SEQ_CLS")
    return load_backbone(args, transformers.AutoModelForSequenceClassification, head)


def _is_classifier(config: Any) -> bool:
    return any(name.endswith("ForSequenceClassification") for name in config.architectures or ())


def _prepare(model: PreTrainedModel, *, fresh: bool) -> None:
    as_flat_classifier(model, fresh_head=fresh)


def _judge(args: TrainingArguments, collator: RerankerCollator) -> Any:
    config = load_config(args)
    if type(config) not in transformers.AutoModelForCausalLM._model_mapping or _is_classifier(config):
        raise UserError(
            f"scoring: generative takes a causal language model, found {config.model_type} in "
            f"{args.core.model_name_or_path}; set scoring=head"
        )
    settings, tokenizer = collator.settings, collator.tokenizer
    true, false = (
        tokenizer(str(token), add_special_tokens=False)["input_ids"][0]
        for token in (settings.true_token, settings.false_token)
    )
    model: Any = load_backbone(args, transformers.AutoModelForCausalLM)
    as_judge(model.get_base_model() if hasattr(model, "get_base_model") else model, (true, false))
    # The part that runs on flat rows is another one now.
    set_state(model, FlatState(asked=args.core.attn_implementation))
    return model
