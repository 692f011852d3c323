"""Tokens that end an answer: for the report on data, for generation, and for what is exported."""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def end_tokens(model: Any, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of the tokens that end an answer: the tokenizer's, the model's, and the chat template's.

    Of a base model the first two end a document, where the template ends a turn with another token.
    """
    told = getattr(model, "generation_config", None)
    of_model = None if told is None else told.eos_token_id
    ids = [*(of_model if isinstance(of_model, list | tuple) else [of_model]), *written_ends(tokenizer)]
    return sorted({int(n) for n in ids if n is not None})


def written_ends(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The same without those of a model: what can stand at the end of a row."""
    return frozenset(n for n in (tokenizer.eos_token_id, _template_end(tokenizer)) if n is not None)


def _template_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The first token of its own, special or added, that the chat template writes after an answer."""
    from jinja2 import TemplateError

    if tokenizer.chat_template is None:
        return None
    texts: list[list[int]] = []
    for answer in ("yes", "no"):
        messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": answer}]
        try:
            ids: Any = tokenizer.apply_chat_template(messages, return_dict=False)
        except TemplateError:
            return None
        texts.append(list(reversed(ids)))
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(*texts, strict=False))
    closing = [a for a, _ in alike][::-1]
    # Many a fine-tuned model got the token that ends its turns as a plain added one.
    own = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    return next((token for token in closing if token in own), None)
