"""``/v1/rerank`` and ``/v1/score``, with a model that counts the words that both texts share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from swift_core.errors import SwiftError
from swift_core.registry import find_task, load_spec
from swift_core.serving import RequestError
from swift_reranker.reranker import Scored
from swift_reranker.serving import load, rerank, score
from swift_reranker.st_folder import write_cross_encoder

QUERY = "the red cat"
DOCUMENTS = ["a dog", "a red cat", "the sun", "the red cat sleeps", "rain", "a red bird"]
ORDER = [3, 1, 2, 5, 0, 4]
"""2 shares "the" and 5 shares "red"."""


@dataclass
class Words:
    """Keeps the contract of a reranker; a word is a token."""

    max_length: int = 12
    asked: list[tuple[str, int]] = field(default_factory=list)
    broken: bool = False
    largest: float = 1.0

    def score(self, query: str, documents: Sequence[str], *, max_length: int | None = None) -> Scored:
        self.asked.append((query, len(documents)))
        room = (max_length or self.max_length) - len(query.split())
        if room < 1:
            raise ValueError("query: it takes all tokens")
        texts = [document.split() for document in documents]
        shared = [len(set(query.split()) & set(words[:room])) / 10 for words in texts]
        scores = np.array([np.nan] * len(texts) if self.broken else shared, dtype=np.float64)
        return Scored(
            np.minimum(scores, self.largest),
            [len(query.split()) + min(room, len(words)) for words in texts],
            [len(words) > room for words in texts],
            scores,
        )


def ask(function: Any = rerank, loaded: Words | None = None, **request: Any) -> dict[str, Any]:
    answer: dict[str, Any] = function(
        request, loaded or Words(), model="mini", request_id="r-1", created=1_795_000_000
    )
    return answer


def refused(status: int, function: Any = rerank, loaded: Words | None = None, **request: Any) -> Any:
    with pytest.raises(RequestError) as caught:
        ask(function, loaded, **request)
    assert caught.value.status == status
    assert caught.value.body["error"]["code"] == status
    return caught.value.body["error"]


def test_documents_come_best_first_and_equal_ones_in_their_order() -> None:
    answer = ask(query=QUERY, documents=DOCUMENTS, model="mini", user="u", max_chunks_per_doc=3)
    assert answer == {
        "id": "r-1",
        "model": "mini",
        "usage": {"prompt_tokens": 33, "total_tokens": 33},
        "results": [
            {"index": n, "relevance_score": pytest.approx(value), "truncated": False}
            for n, value in zip(ORDER, [0.3, 0.2, 0.1, 0.1, 0.0, 0.0], strict=True)
        ],
    }


def test_documents_are_told_apart_where_their_scores_round_to_the_same() -> None:
    answer = ask(loaded=Words(largest=0.1), query=QUERY, documents=DOCUMENTS)
    assert [entry["index"] for entry in answer["results"]] == ORDER
    assert [entry["relevance_score"] for entry in answer["results"]] == [0.1] * 4 + [0.0] * 2


@pytest.mark.parametrize(("top_n", "count"), [(1, 1), (2, 2), (0, 6), (None, 6), (6, 6), (99, 6)])
def test_top_n(top_n: int | None, count: int) -> None:
    answer = ask(query=QUERY, documents=DOCUMENTS, top_n=top_n)
    assert [entry["index"] for entry in answer["results"]] == ORDER[:count]
    # All of them went through the model.
    assert answer["usage"]["total_tokens"] == 33


def test_documents_are_sent_back_when_asked_for() -> None:
    mixed = [{"text": "a cat", "id": 7}, "a red cat"]
    answer = ask(query={"text": QUERY}, documents=mixed, return_documents=True)
    assert [entry["document"] for entry in answer["results"]] == [{"text": "a red cat"}, {"text": "a cat"}]
    assert "document" not in ask(query=QUERY, documents=mixed, return_documents=None)["results"][0]


def test_long_documents_are_cut_and_that_is_told() -> None:
    long = "x " * 20 + "the red cat"
    answer = ask(query=QUERY, documents=["a cat", long], truncate_prompt_tokens=-1)
    assert [(entry["index"], entry["truncated"]) for entry in answer["results"]] == [(0, False), (1, True)]
    assert answer["usage"]["prompt_tokens"] == 5 + 12
    shorter = ask(query=QUERY, documents=["a b the cat"], truncate_prompt_tokens=5)
    assert shorter["results"][0] == {"index": 0, "relevance_score": 0.0, "truncated": True}
    assert shorter["usage"]["prompt_tokens"] == 5


def test_queries_that_leave_no_room() -> None:
    error = refused(413, query="q " * 12, documents=["a"])
    assert error["param"] == "query"
    assert "leaves room for a document in 12 tokens" in error["message"]
    assert "in 3 tokens" in refused(413, query=QUERY, documents=["a"], truncate_prompt_tokens=3)["message"]
    error = refused(413, score, text_1=["a", "q " * 12], text_2=["b", "c"])
    assert "text_1[1]: expected one that leaves room" in error["message"]


def test_all_faults_are_told_with_their_places() -> None:
    error = refused(
        422,
        query=" ",
        documents=["fine", 3, {"title": "x"}, "half \ud800", {"text": ""}],
        top_n=-1,
        return_documents="yes",
        truncate_prompt_tokens=13,
    )
    for part in (
        "query: expected a text with a visible character, found ' '",
        "documents[1]: expected a text, or an object with a text, found 3",
        "documents[2]: expected a text, or an object with a text, found {'title': 'x'}",
        "documents[3]: expected Unicode text, found half a surrogate pair at 5",
        "documents[4]: expected a text with a visible character, found ''",
        "top_n: input should be greater than or equal to 0, found -1",
        "return_documents: input should be a valid boolean, found 'yes'",
        "truncate_prompt_tokens: expected -1, or 1 to 12 tokens, found 13",
    ):
        assert part in error["message"]
    assert (error["type"], error["param"]) == ("invalid_request_error", None)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({}, "query: expected a text, or an object with a text, found nothing; documents: expected a list"),
        ({"query": "q"}, "documents: expected a list of texts, or of objects with a text, found nothing"),
        ({"query": "q", "documents": []}, r"documents: expected a list of texts.*found \[\]"),
        ({"query": "q", "documents": "d"}, "documents: expected a list of texts.*found 'd'"),
        ({"query": ["q"], "documents": ["d"]}, r"query: expected a text, .*found \['q'\]"),
        ({"query": "q", "documents": ["d"], "truncate_prompt_tokens": 0}, "expected -1, or 1 to 12"),
        ({"query": "q", "documents": ["d"], "top_n": 1.5}, "top_n: "),
    ],
)
def test_what_is_refused(request_: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        ask(**request_)
    assert caught.value.status == 422


def test_another_model_and_a_body_that_is_no_object() -> None:
    for function, fields in ((rerank, ("query", "documents")), (score, ("text_1", "text_2"))):
        given: dict[str, Any] = {fields[0]: "q", fields[1]: ["d"]}
        assert "expected 'mini'" in refused(404, function, **given, model="large")["message"]
        with pytest.raises(RequestError, match="body: expected a JSON object"):
            function("a", Words(), model="m", request_id="1", created=0)


@pytest.mark.parametrize(
    ("first", "second"),
    [("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2")],
)
def test_scores_of_one_against_many_and_of_pairs(first: str, second: str) -> None:
    loaded = Words()
    answer = ask(score, loaded, **{first: QUERY, second: DOCUMENTS})
    assert {**answer, "data": None} == {
        "id": "r-1",
        "object": "list",
        "created": 1_795_000_000,
        "model": "mini",
        "data": None,
        "usage": {"prompt_tokens": 33, "total_tokens": 33},
    }
    assert [entry["index"] for entry in answer["data"]] == list(range(6))
    assert {entry["object"] for entry in answer["data"]} == {"score"}
    assert [entry["score"] for entry in answer["data"]] == pytest.approx([0, 0.2, 0.1, 0.3, 0, 0.1])
    assert loaded.asked == [(QUERY, 6)]
    assert ask(score, **{first: [QUERY], second: DOCUMENTS})["data"] == answer["data"]
    assert ask(score, **{first: QUERY, second: DOCUMENTS[3]})["data"] == [
        {"index": 0, "object": "score", "score": pytest.approx(0.3), "truncated": False}
    ]


def test_pairs_keep_their_order_and_those_of_a_query_go_together() -> None:
    loaded = Words()
    answer = ask(
        score,
        loaded,
        text_1=["a b", "c", {"text": "a b"}],
        text_2=["x " * 20, "c c", "a b"],
    )
    assert [(entry["score"], entry["truncated"]) for entry in answer["data"]] == [
        (0.0, True),
        (0.1, False),
        (0.2, False),
    ]
    assert loaded.asked == [("a b", 2), ("c", 1)]
    assert answer["usage"]["prompt_tokens"] == 12 + 3 + 4


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({}, "text_1: expected a text or a list of texts, found nothing; text_2: expected"),
        ({"text_1": "a"}, "text_2: expected a text or a list of texts, found nothing"),
        ({"documents": ["a"]}, "queries: expected a text or a list of texts, found nothing"),
        ({"text_1": "a", "text_2": []}, r"text_2: expected a text or a list of texts, found \[\]"),
        (
            {"text_1": ["a", "b"], "text_2": ["c"] * 3},
            "text_2: expected 2 texts, as many as text_1 has.*found 3",
        ),
        ({"queries": ["a", "b"], "items": "c"}, "items: expected 2 texts, as many as queries has.*found 1"),
        ({"text_1": ["a", 1], "text_2": ["c", "d"]}, r"text_1\[1\]: expected a text, or an object"),
    ],
)
def test_scores_that_are_refused(request_: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        ask(score, **request_)
    assert caught.value.status == 422


def test_scores_that_are_no_numbers_are_not_sent() -> None:
    with pytest.raises(SwiftError, match="not finite"):
        ask(loaded=Words(broken=True), query=QUERY, documents=DOCUMENTS)
    with pytest.raises(SwiftError, match="not finite"):
        ask(score, Words(broken=True), text_1=QUERY, text_2=DOCUMENTS)


def test_a_server_finds_both_by_the_spec() -> None:
    spec = load_spec(find_task("reranker"))
    found = {}
    for route, path in spec.serving.items():
        module, _, name = path.partition(":")
        found[route] = getattr(import_module(module), name)
        assert import_module(module).load is load
    assert found == {"/v1/rerank": rerank, "/v1/score": score}


def test_an_exported_folder_is_answered_with_as_cross_encoder_does(
    build: Any, bert: Path, tmp_path: Path
) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    model, collator, _ = build(bert, max_length=32)
    write_cross_encoder(tmp_path, model, collator.tokenizer, max_length=32)
    encoder = sentence_transformers.CrossEncoder(str(tmp_path), device="cpu", local_files_only=True)
    documents = [*DOCUMENTS, "the red cat sleeps in the sun and so on"]
    expected = encoder.predict([(QUERY, document) for document in documents])
    loaded: Any = load(tmp_path)
    scores = [entry["score"] for entry in ask(score, loaded, text_1=QUERY, text_2=documents)["data"]]
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    ranked = ask(rerank, loaded, query=QUERY, documents=documents)
    assert [entry["index"] for entry in ranked["results"]] == np.argsort(-expected, kind="stable").tolist()
    assert [entry["truncated"] for entry in ranked["results"] if entry["index"] == 6] == [True]
    rows = collator.tokenizer([QUERY] * 7, documents, truncation="only_second", max_length=32)["input_ids"]
    assert ranked["usage"]["prompt_tokens"] == sum(map(len, rows))
    assert "query" in refused(413, rerank, loaded, query=QUERY * 9, documents=["a"])["message"]
