"""``/v1/embeddings``: from the body of a request to the body of its response, in the words of OpenAI's API.

Texts go the way that they went in training: prompt, tokenizer, model without padding, pooling, normalising.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
import torch
from annotated_types import Ge

from swift_core.errors import SwiftError
from swift_core.serving import (
    RequestError,
    TextRequest,
    cut_row,
    input_check,
    inputs_of,
    is_of_tokens,
    parse_request,
    refuse_long,
    truncation_faults,
)
from swift_embedding.encoding import TextEncoder
from swift_embedding.st_folder import load_encoder

Inputs: TypeAlias = list[str] | list[list[int]]


class _Request(TextRequest):
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Ge(1)] | None = None
    input_type: Literal["query", "document", "search_query", "search_document", "passage"] | None = None


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
    known: int = encoder.model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    asked = parse_request(
        request,
        _Request,
        model=model,
        checks={"input": input_check(vocabulary=known)},
        limit_faults=lambda asked: _limit_faults(asked, encoder),
    )
    rows = _token_rows(inputs_of(asked.input), asked, encoder)
    skip = 0 if is_of_tokens(asked.input) else encoder.skip(_prompt(asked, encoder))
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


def _limit_faults(asked: _Request, encoder: TextEncoder) -> list[str]:
    faults = []
    if asked.dimensions is not None and asked.dimensions > encoder.size:
        faults.append(f"dimensions: expected at most the model's {encoder.size}, found {asked.dimensions}")
    return [*faults, *truncation_faults(asked, encoder.tokenizer, encoder.max_length)]


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
        refuse_long([len(row) for row in rows], encoder.max_length)
        return rows  # type: ignore[no-any-return]
    limit = encoder.max_length if limit == -1 else limit
    side = asked.truncation_side or encoder.tokenizer.truncation_side
    return [cut_row(row, mask, limit, side) for row, mask in zip(rows, special, strict=True)]


def _prompt(asked: _Request, encoder: TextEncoder) -> str:
    query = asked.input_type in ("query", "search_query")
    return encoder.query_prompt if query else encoder.document_prompt


def _cut_vectors(vectors: np.ndarray, dimensions: int, *, normalize: bool) -> np.ndarray:
    cut = vectors[:, :dimensions]
    if not normalize:
        return cut
    return cut / np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), 1e-12)  # type: ignore[no-any-return]


def _written(vectors: np.ndarray, encoding_format: str | None) -> list[Any]:
    if encoding_format != "base64":
        return list(vectors.tolist())
    return [base64.b64encode(row.astype("<f4").tobytes()).decode("ascii") for row in vectors]
