"""Requests as clients send them, answers as clients read them."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from swift_core.errors import SwiftError
from swift_core.registry import find_task, load_spec
from swift_core.serving import RequestError
from swift_embedding.encoding import TextEncoder
from swift_embedding.serving import load, respond


def ask(encoder: TextEncoder, **request: Any) -> dict[str, Any]:
    answer = respond(request, encoder, model="mini", request_id="embd-1", created=1_795_000_000)
    return json.loads(json.dumps(answer, allow_nan=False))


def vectors(answer: dict[str, Any]) -> np.ndarray:
    assert [entry["index"] for entry in answer["data"]] == list(range(len(answer["data"])))
    return np.array([entry["embedding"] for entry in answer["data"]], dtype=np.float32)


def refused(encoder: TextEncoder, status: int, **request: Any) -> dict[str, Any]:
    with pytest.raises(RequestError) as caught:
        ask(encoder, **request)
    assert caught.value.status == status == caught.value.body["error"]["code"]
    return caught.value.body["error"]


def test_the_openai_client_reads_the_answer(minilm: TextEncoder) -> None:
    """Through the client itself: it asks for base64 and decodes it."""
    openai = pytest.importorskip("openai")
    httpx = pytest.importorskip("httpx2")

    def server(request: Any) -> Any:
        body = json.loads(request.content)
        assert request.url.path == "/v1/embeddings"
        try:
            return httpx.Response(200, json=ask(minilm, **body))
        except RequestError as error:
            return httpx.Response(error.status, json=error.body)

    client = openai.OpenAI(
        api_key="none",
        base_url="http://server/v1",
        max_retries=0,
        http_client=httpx.Client(transport=httpx.MockTransport(server)),
    )
    texts = ["A river runs through the old town.", "密码忘了怎么办", "ovens, hours; salt!"]
    answer = client.embeddings.create(model="mini", input=texts)
    expected = minilm.encode_documents(texts)
    assert np.abs(np.array([entry.embedding for entry in answer.data]) - expected).max() < 1e-6
    ids = minilm.tokenizer(texts)["input_ids"]
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == sum(map(len, ids))
    assert (answer.model, answer.object) == ("mini", "list")
    with pytest.raises(openai.NotFoundError, match="expected 'mini'"):
        client.embeddings.create(model="large", input="a")
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        client.embeddings.create(model="mini", input=["a", ""])
    assert caught.value.param == "input"


def test_one_text_texts_and_token_ids(minilm: TextEncoder) -> None:
    texts = ["short", "A longer text of several words."]
    expected = minilm.encode_documents(texts)
    ids = minilm.tokenizer(texts)["input_ids"]
    for given, wanted in [
        (texts[1], expected[1:]),
        (texts, expected),
        (ids[1], expected[1:]),
        (ids, expected),
    ]:
        answer = ask(minilm, input=given)
        np.testing.assert_allclose(vectors(answer), wanted, atol=1e-6, rtol=0)
    assert (answer["id"], answer["created"]) == ("embd-1", 1_795_000_000)


def test_base64_is_little_endian_float32(decoder: TextEncoder) -> None:
    plain = vectors(ask(decoder, input=["a", "b c"]))
    coded = ask(decoder, input=["a", "b c"], encoding_format="base64")["data"]
    for row, entry in zip(plain, coded, strict=True):
        assert np.array_equal(np.frombuffer(base64.b64decode(entry["embedding"]), dtype="<f4"), row)


@pytest.mark.parametrize("normalize", [True, False])
def test_dimensions_cut_and_keep_the_length_that_vectors_have(decoder: TextEncoder, normalize: bool) -> None:
    encoder = replace(decoder, normalize_embeddings=normalize)
    whole, cut = vectors(ask(encoder, input="a b")), vectors(ask(encoder, input="a b", dimensions=5))
    wanted = whole[:, :5] / (np.linalg.norm(whole[:, :5]) if normalize else 1.0)
    np.testing.assert_allclose(cut, wanted, atol=1e-6)
    assert vectors(ask(encoder, input="a b", dimensions=32)).shape == (1, 32)
    assert "at most the model's 32, found 33" in refused(encoder, 422, input="a", dimensions=33)["message"]
    already_cut = replace(encoder, dimensions=8)
    assert "the model's 8, found 9" in refused(already_cut, 422, input="a", dimensions=9)["message"]


def test_the_side_decides_the_prompt_and_tokens_get_none(decoder: TextEncoder) -> None:
    encoder = replace(decoder, query_prompt="query: ", document_prompt="passage: ")
    query, document = encoder.encode_queries(["oven"]), encoder.encode_documents(["oven"])
    sides = [(None, document), ("document", document), ("passage", document), ("search_document", document)]
    for side, wanted in [*sides, ("query", query), ("search_query", query)]:
        np.testing.assert_allclose(vectors(ask(encoder, input="oven", input_type=side)), wanted, atol=1e-6)
    ids = encoder.tokenizer("oven")["input_ids"]
    bare = vectors(ask(encoder, input=ids, input_type="query"))
    np.testing.assert_allclose(bare, encoder.encode_token_ids([ids]), atol=1e-6)


@pytest.mark.parametrize("name", ["minilm", "decoder"])
def test_truncation(name: str, texts: list[str], request: pytest.FixtureRequest) -> None:
    encoder: TextEncoder = request.getfixturevalue(name)
    error = refused(encoder, 413, input=texts)
    assert f"input[4]: expected at most {encoder.max_length} tokens, found" in error["message"]
    assert "truncate_prompt_tokens" in error["message"]
    whole = ask(encoder, input=texts, truncate_prompt_tokens=-1)
    np.testing.assert_allclose(vectors(whole), encoder.encode_documents(texts), atol=1e-6)
    shorter = replace(encoder, max_length=9)
    cut = ask(encoder, input=texts, truncate_prompt_tokens=9, truncation_side="right")
    np.testing.assert_allclose(vectors(cut), shorter.encode_documents(texts), atol=1e-6)
    assert cut["usage"]["prompt_tokens"] == sum(min(9, len(encoder.tokenizer(t)["input_ids"])) for t in texts)


@pytest.mark.parametrize("name", ["minilm", "decoder"])
def test_truncation_on_the_left_keeps_special_tokens(
    name: str, texts: list[str], request: pytest.FixtureRequest
) -> None:
    encoder: TextEncoder = request.getfixturevalue(name)
    left = vectors(ask(encoder, input=texts, truncate_prompt_tokens=7, truncation_side="left"))
    encoder.tokenizer.truncation_side = "left"  # the library's own way
    expected = replace(encoder, max_length=7).encode_documents(texts)
    np.testing.assert_allclose(left, expected, atol=1e-6)
    asked_nothing = vectors(ask(encoder, input=texts, truncate_prompt_tokens=7))
    np.testing.assert_allclose(asked_nothing, expected, atol=1e-6)
    ids = [5, 6, 7, 8]
    for side, kept in [("left", [7, 8]), ("right", [5, 6])]:
        cut = ask(encoder, input=ids, truncate_prompt_tokens=2, truncation_side=side)
        np.testing.assert_allclose(vectors(cut), encoder.encode_token_ids([kept]), atol=1e-6)


def test_without_special_tokens(minilm: TextEncoder) -> None:
    ids = minilm.tokenizer("plain text", add_special_tokens=False)["input_ids"]
    answer = ask(minilm, input="plain text", add_special_tokens=False, truncate_prompt_tokens=1)
    assert answer["usage"]["prompt_tokens"] == 1
    np.testing.assert_allclose(vectors(answer), minilm.encode_token_ids([ids[:1]]), atol=1e-6)


def test_all_faults_are_told_with_their_places(decoder: TextEncoder) -> None:
    error = refused(
        decoder,
        422,
        input=["fine", " ", 3, None, "half \ud800"],
        encoding_format="hex",
        dimensions=True,
        truncate_prompt_tokens=1,
    )
    for part in (
        "input[1]: expected a text with a visible character, found ' '",
        "input[2]: expected a text or a list of token ids, found 3",
        "input[3]: expected a text or a list of token ids, found None",
        "input[4]: expected Unicode text, found half a surrogate pair at 5",
        "encoding_format: input should be 'float' or 'base64', found 'hex'",
        "dimensions: input should be a valid integer, found True",
        "truncate_prompt_tokens: expected -1, or 2 to 24 tokens (special ones included), found 1",
    ):
        assert part in error["message"]
    assert (error["type"], error["param"]) == ("invalid_request_error", None)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({}, "input: expected a text, a list of texts"),
        ({"input": []}, r"input: expected .*found \[\]"),
        ({"input": 5}, "input: expected .*found 5"),
        ({"input": ""}, "input: expected a text with a visible character"),
        ({"input": [[]]}, r"input\[0\]: expected at least one token id"),
        ({"input": ["a", [1]]}, "found both"),
        ({"input": [1, 400]}, r"input\[1\]: expected a token id from 0 to 399, found 400"),
        ({"input": [[1, -1]]}, r"input\[0\]\[1\]: expected a token id from 0 to 399, found -1"),
        ({"input": [[1, True]]}, r"input\[0\]\[1\]: expected a token id"),
        ({"input": "a", "input_type": "clustering"}, "input_type: input should be 'query'"),
        ({"input": "a", "truncate_prompt_tokens": -2}, "truncate_prompt_tokens: input should be greater"),
        ({"input": "a", "truncate_prompt_tokens": 25}, "truncate_prompt_tokens: expected -1, or 2 to 24"),
        ({"input": [1], "truncate_prompt_tokens": 0}, "truncate_prompt_tokens: expected -1, or 1 to 24"),
        ({"input": "a", "truncation_side": "middle"}, "truncation_side: input should be"),
        ({"input": ["x"] * 3 + [""] * 25}, "and 5 more like these"),
    ],
)
def test_what_is_refused(decoder: TextEncoder, request_: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        ask(decoder, **request_)
    assert caught.value.status == 422


def test_a_body_that_is_no_object(decoder: TextEncoder) -> None:
    with pytest.raises(RequestError, match="body: expected a JSON object, found 'a'"):
        respond("a", decoder, model="m", request_id="1", created=0)  # type: ignore[arg-type]


def test_fields_of_other_servers_do_not_matter(decoder: TextEncoder) -> None:
    asked = ask(decoder, input="a", user="u", priority=3, encoding_format=None, dimensions=None)
    assert vectors(asked).shape == (1, 32)


def test_vectors_that_are_no_numbers_are_not_sent(decoder: TextEncoder) -> None:
    with torch.no_grad():
        decoder.model.norm.weight[0] = float("nan")
    with pytest.raises(SwiftError, match="not finite"):
        ask(decoder, input="a")


def test_a_server_finds_it_by_the_spec() -> None:
    from importlib import import_module

    spec = load_spec(find_task("embedding"))
    module, _, name = spec.serving["/v1/embeddings"].partition(":")
    assert getattr(import_module(module), name) is respond
    assert import_module(module).load is load


@pytest.mark.parametrize(
    ("route", "path"),
    [
        ("/v1/embeddings", "swift_embedding/serving"),
        ("/v1/embeddings", "swift_embedding.serving"),
        ("embeddings", "swift_embedding.serving:respond"),
    ],
)
def test_a_spec_with_another_way_to_name_the_function_is_refused(route: str, path: str) -> None:
    spec = load_spec(find_task("embedding"))
    with pytest.raises(ValueError, match=f"serving=.'{route}': '{path}'.: expected"):
        replace(spec, serving={route: path})
