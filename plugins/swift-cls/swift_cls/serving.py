"""``/v1/classify``, and ``/classify`` as vLLM has it: from the body of a request to that of its response.

Texts go the way that they went in training: tokenizer, chunks, model without padding, temperature and
thresholds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from swift_cls.classifier import Classifier, load_classifier
from swift_cls.texts import TextEncoding, Tokens
from swift_core.serving import (
    Check,
    RequestError,
    TextRequest,
    cut_row,
    input_check,
    inputs_of,
    is_pair,
    parse_request,
    refuse_long,
    shown,
    truncation_faults,
)

_ENDLESS = 1_000_000


class ClassifyRequest(TextRequest):
    """``input``, or in its place one conversation."""

    messages: Any = None


def load(folder: str | Path, device: torch.device | str = "cpu") -> Classifier:
    """What :func:`respond` answers with, see :func:`swift_cls.classifier.load_classifier`."""
    return load_classifier(Path(folder), device=device)


def respond(
    request: Mapping[str, Any], classifier: Classifier, *, model: str, request_id: str, created: int
) -> dict[str, Any]:
    """Answer one request. All of its inputs go through the model together.

    Fields of the request: ``input`` (a text, texts, pairs of texts, token ids, or lists of them) or, in its
    place, ``messages`` (a conversation, read by the model's chat template as in training) and, each of them
    optional, ``model``, ``user`` (not used), and vLLM's ``truncate_prompt_tokens`` (-1: what the model
    takes, as in training), ``truncation_side`` (default: as in training) and ``add_special_tokens``. Token
    ids are taken as they are. Where the run read long texts in chunks, only pairs can be too long.

    Args:
        request: the body, as a JSON parser gives it.
        classifier: the model that is served.
        model: the name that it is served under.
        request_id: ``id`` of the response.
        created: ``created`` of the response, in seconds since 1970.

    Returns:
        The body of the response: vLLM's, and in each entry what :meth:`Classifier.decide` tells beyond it.
        ``usage`` counts the tokens that went through the model.

    Raises:
        RequestError: another model is asked for (404); a text is too long and truncation was not asked for
            (413); a field is wrong (422: all faults, each with its place).
        SwiftError: the model's logits are not finite.
    """
    known: int = classifier.model.get_input_embeddings().weight.shape[0]
    texts = classifier.collator.texts
    # Some clients send null for what they leave out.
    talks = isinstance(request, Mapping) and request.get("messages") is not None
    asked = parse_request(
        request,
        ClassifyRequest,
        model=model,
        checks={"messages": _conversation(texts)}
        if talks
        else {"input": input_check(vocabulary=known, pairs=True)},
        limit_faults=lambda asked: _limit_faults(asked, texts),
    )
    rows = _rows([Conversation(asked.messages)] if talks else inputs_of(asked.input), asked, texts)
    count = sum(len(chunk) for row in rows for chunk in row.chunks)
    entries = classifier.decide(rows)
    return {
        "id": request_id,
        "object": "list",
        "created": created,
        "model": model,
        "data": [{"index": index, **entry} for index, entry in enumerate(entries)],
        "usage": {"prompt_tokens": count, "total_tokens": count},
    }


class Conversation(NamedTuple):
    """An input that is one."""

    messages: Sequence[Mapping[str, Any]]


def _conversation(texts: TextEncoding) -> Check:
    def faults(value: Any) -> list[str]:
        if not isinstance(value, list) or not value:
            return [f"messages: expected {expected}, found {shown(value)}"]
        try:
            texts.of_messages(value)
        except ValueError as error:
            return [str(error)]
        return []

    expected = "a list of messages with role and content"
    return Check(expected, faults)


def _limit_faults(asked: ClassifyRequest, texts: TextEncoding) -> list[str]:
    faults = truncation_faults(asked, texts.tokenizer, texts.max_length)
    if asked.messages is not None:
        if asked.input is not None:
            faults.append("messages: expected them or input, found both; leave one of the two out")
        if asked.truncation_side is not None:
            faults.append("truncation_side: a conversation is cut as in training; leave it out")
        if not asked.add_special_tokens:
            faults.append("add_special_tokens: the chat template says them for a conversation; leave it out")
    pairs = isinstance(asked.input, list) and any(map(is_pair, asked.input))
    if pairs and asked.truncation_side is not None:
        faults.append("truncation_side: of pairs the longer text is cut at its end; leave it out")
    if pairs and not asked.add_special_tokens:
        faults.append("add_special_tokens: they are what keeps the texts of a pair apart; leave it out")
    return faults


def _rows(items: Sequence[Any], asked: TextRequest, texts: TextEncoding) -> list[Tokens]:
    """Token ids of every input, as short as asked for."""
    limit, chunked = asked.truncate_prompt_tokens, texts.long_text.startswith("chunk")
    if limit is None:
        endless = replace(texts, max_length=_ENDLESS)
        rows = [_encoded(item, asked, texts if chunked and not is_pair(item) else endless) for item in items]
        refuse_long([max(map(len, row.chunks)) for row in rows], texts.max_length)
        return rows
    if limit != -1:
        texts = replace(texts, max_length=limit, long_text="truncate" if chunked else texts.long_text)
    return [_encoded(item, asked, texts) for item in items]


def _encoded(item: Any, asked: TextRequest, texts: TextEncoding) -> Tokens:
    if isinstance(item, Conversation):
        return texts.of_messages(item.messages)
    if is_pair(item):
        return texts.of_text(*item)
    # Where nothing is cut, the side says nothing of how a text is read.
    side = None if asked.truncate_prompt_tokens is None else asked.truncation_side
    if isinstance(item, str) and asked.add_special_tokens and side is None:
        return texts.of_text(item)
    special = [0] * len(item)
    if isinstance(item, str):
        encoded: Any = texts.tokenizer(
            item,
            add_special_tokens=asked.add_special_tokens,
            return_special_tokens_mask=True,
            verbose=False,
        )
        item, special = encoded["input_ids"], encoded["special_tokens_mask"]
    if side is not None:
        item = cut_row(item, special, texts.max_length, side)
    if not item:
        raise RequestError("input: the tokenizer makes no token of it")
    return texts.of_ids(item)
