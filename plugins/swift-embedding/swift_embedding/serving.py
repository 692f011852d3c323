"""``/v1/embeddings``: from the body of a request to the body of its response, in the words of OpenAI's API.

Texts go the way that they went in training: prompt, tokenizer, model without padding, pooling, normalising.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
import torch
from annotated_types import Ge
from pydantic import BaseModel, ConfigDict, ValidationError

from swift_core.errors import SwiftError
from swift_core.serving import RequestError
from swift_embedding.encoding import TextEncoder
from swift_embedding.st_folder import load_encoder

Inputs: TypeAlias = list[str] | list[list[int]]


class _Request(BaseModel):
    """The fields that are read; a client's further ones are left alone, as other servers do."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    input: Any
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Ge(1)] | None = None
    user: str | None = None
    input_type: Literal["query", "document", "search_query", "search_document", "passage"] | None = None
    truncate_prompt_tokens: Annotated[int, Ge(-1)] | None = None
    truncation_side: Literal["left", "right"] | None = None
    add_special_tokens: bool = True


def load(folder: str | Path, *, device: torch.device | str = "cpu") -> TextEncoder:
    """What :func:`respond` answers with: the model of an ``hf`` export; no network, no code of the model."""
    return load_encoder(Path(folder), device=device)


def respond(
    request: Mapping[str, Any], encoder: TextEncoder, *, model: str, request_id: str, created: int
) -> dict[str, Any]:
    """Answer one request. All of its inputs go through the model together.

    Fields of the request: ``input`` (a text, texts, token ids, or lists of them) and, each of them optional,
    ``model``, ``encoding_format`` (``float`` or ``base64``: little-endian float32), ``dimensions`` (the
    first so many, scaled to length 1 again where the model's vectors have it), ``user`` (not used),
    ``input_type`` (``document``, the default, or ``query``: whose prompt is put before texts; Cohere's
    ``search_document`` and ``search_query``, and NVIDIA's ``passage``, are known too), and vLLM's
    ``truncate_prompt_tokens`` (-1: what the model takes), ``truncation_side`` (default: the tokenizer's) and
    ``add_special_tokens``. Token ids are taken as they are: no prompt, no special tokens.

    Args:
        request: the body, as a JSON parser gives it.
        encoder: the model that is served.
        model: the name that it is served under.
        request_id: ``id`` of the response.
        created: ``created`` of the response, in seconds since 1970.

    Returns:
        The body of the response; ``usage`` counts the tokens that went through the model.

    Raises:
        RequestError: another model is asked for (404); a text is too long and truncation was not asked for
            (413); a field is wrong (422: all faults, each with its place).
        SwiftError: the model's vectors are not finite.
    """
    asked = _parsed(request, encoder)
    if asked.model not in (None, model):
        raise RequestError(f"model: there is no {asked.model!r} here, expected {model!r}", status=404)
    rows = _token_rows(_inputs(asked.input), asked, encoder)
    skip = 0 if _of_tokens(asked.input) else encoder.skip(_prompt(asked, encoder))
    vectors = encoder.encode_token_ids(rows, skip)  # [N, D]
    if not np.isfinite(vectors).all():
        raise SwiftError("the model gives vectors that are not finite (NaN or infinite); serve another one")
    if asked.dimensions is not None:
        vectors = _cut_vectors(vectors, asked.dimensions, normalize=encoder.normalize_embeddings)
    count = sum(len(row) for row in rows)
    return {
        "id": request_id,
        "object": "list",
        "created": created,
        "model": model,
        "data": [
            {"index": index, "object": "embedding", "embedding": embedding}
            for index, embedding in enumerate(_written(vectors, asked.encoding_format))
        ],
        "usage": {"prompt_tokens": count, "total_tokens": count},
    }


def _parsed(request: Mapping[str, Any], encoder: TextEncoder) -> _Request:
    if not isinstance(request, Mapping):
        raise RequestError(f"body: expected a JSON object, found {_shown(request)}")
    faults = []
    if "input" in request:
        faults = _input_faults(request["input"], encoder)
    try:
        asked = _Request.model_validate(dict(request))
    except ValidationError as error:
        wrong = {entry["loc"][0]: _fault_of(entry) for entry in error.errors()}
        faults += wrong.values()
        # What else is wrong is looked for as if these fields were not there.
        rest = {name: value for name, value in request.items() if name not in wrong}
        asked = _Request.model_validate({"input": None, **rest})
    faults += _limit_faults(asked, encoder)
    if faults:
        raise RequestError(*faults)
    return asked


def _fault_of(entry: Any) -> str:
    field = str(entry["loc"][0])
    if entry["type"] == "missing":
        return f"{field}: expected {_EXPECTED}, found nothing"
    return f"{field}: {entry['msg'][:1].lower()}{entry['msg'][1:]}, found {_shown(entry['input'])}"


_EXPECTED = "a text, a list of texts, a list of token ids, or a list of such lists"


def _inputs(value: Any) -> list[Any]:
    """The inputs of a request that holds one or several."""
    single = isinstance(value, str) or all(_is_number(part) for part in value)
    return [value] if single else value


def _input_faults(value: Any, encoder: TextEncoder) -> list[str]:
    if not isinstance(value, str | list) or value == []:
        return [f"input: expected {_EXPECTED}, found {_shown(value)}"]
    items = _inputs(value)
    kinds = {type(item) for item in items}
    if kinds == {str, list}:
        return ["input: expected texts or lists of token ids, found both; send them in two requests"]
    known: int = encoder.model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    places = ["input"] if items is not value else [f"input[{index}]" for index in range(len(items))]
    found = [_item_fault(place, item, known) for place, item in zip(places, items, strict=True)]
    return [fault for fault in found if fault is not None]


def _item_fault(place: str, item: Any, known: int) -> str | None:
    if isinstance(item, str):
        if not item.strip():
            return f"{place}: expected a text with a visible character, found {_shown(item)}"
        try:
            item.encode()
        except UnicodeEncodeError as error:
            return f"{place}: expected Unicode text, found half a surrogate pair at {error.start}"
        return None
    if not isinstance(item, list):
        return f"{place}: expected a text or a list of token ids, found {_shown(item)}"
    if not item:
        return f"{place}: expected at least one token id, found an empty list"
    # An id that the model has no row for would end the whole process on a GPU.
    bad = next((n for n, token in enumerate(item) if not _is_number(token) or not 0 <= token < known), None)
    if bad is None:
        return None
    return f"{place}[{bad}]: expected a token id from 0 to {known - 1}, found {_shown(item[bad])}"


def _limit_faults(asked: _Request, encoder: TextEncoder) -> list[str]:
    faults = []
    if asked.dimensions is not None and asked.dimensions > encoder.size:
        faults.append(f"dimensions: expected at most the model's {encoder.size}, found {asked.dimensions}")
    limit = asked.truncate_prompt_tokens
    adds = asked.add_special_tokens and not _of_tokens(asked.input)
    special = encoder.tokenizer.num_special_tokens_to_add() if adds else 0
    if limit is not None and limit != -1 and not special < limit <= encoder.max_length:
        faults.append(
            f"truncate_prompt_tokens: expected -1, or {special + 1} to {encoder.max_length} tokens (special "
            f"ones included), found {limit}"
        )
    return faults


def _token_rows(items: Inputs, asked: _Request, encoder: TextEncoder) -> list[list[int]]:
    """Token ids of every input, as short as asked for."""
    if isinstance(items[0], str):
        prompt = _prompt(asked, encoder)
        encoded: Any = encoder.tokenizer(
            [f"{prompt}{text}" for text in items],
            add_special_tokens=asked.add_special_tokens,
            return_special_tokens_mask=True,
            verbose=False,
        )
        rows, special = encoded["input_ids"], encoded["special_tokens_mask"]
    else:
        rows, special = items, [[0] * len(row) for row in items]
    empty = [f"input[{n}]: the tokenizer makes no token of it" for n, row in enumerate(rows) if not row]
    if empty:
        raise RequestError(*empty)
    limit = asked.truncate_prompt_tokens
    if limit is None:
        _refuse_long(rows, encoder.max_length)
        return rows  # type: ignore[no-any-return]
    limit = encoder.max_length if limit == -1 else limit
    side = asked.truncation_side or encoder.tokenizer.truncation_side
    return [_cut_row(row, mask, limit, side) for row, mask in zip(rows, special, strict=True)]


def _prompt(asked: _Request, encoder: TextEncoder) -> str:
    query = asked.input_type in ("query", "search_query")
    return encoder.query_prompt if query else encoder.document_prompt


def _refuse_long(rows: Sequence[Sequence[int]], limit: int) -> None:
    faults = [
        f"input[{n}]: expected at most {limit} tokens, found {len(row)}; shorten it, or set "
        "truncate_prompt_tokens to -1 to have it cut"
        for n, row in enumerate(rows)
        if len(row) > limit
    ]
    if faults:
        raise RequestError(*faults, status=413)


def _cut_row(ids: list[int], special: Sequence[int], limit: int, side: str) -> list[int]:
    """At most ``limit`` of ``ids``; the special ones at either end stay."""
    if len(ids) <= limit:
        return ids
    start = next((n for n, flag in enumerate(special) if not flag), len(ids))
    end = len(ids) - next((n for n, flag in enumerate(reversed(special)) if not flag), 0)
    room = limit - start - (len(ids) - end)
    kept = ids[start : start + room] if side == "right" else ids[end - room : end]
    return [*ids[:start], *kept, *ids[end:]]


def _cut_vectors(vectors: np.ndarray, dimensions: int, *, normalize: bool) -> np.ndarray:
    cut = vectors[:, :dimensions]
    if not normalize:
        return cut
    return cut / np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), 1e-12)  # type: ignore[no-any-return]


def _written(vectors: np.ndarray, encoding_format: str | None) -> list[Any]:
    if encoding_format != "base64":
        return list(vectors.tolist())
    return [base64.b64encode(row.astype("<f4").tobytes()).decode("ascii") for row in vectors]


def _of_tokens(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and not isinstance(value[0], str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
