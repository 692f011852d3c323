"""Requests as clients send them, answers as clients read them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from swift_cls.calibration import sigmoid, softmax
from swift_cls.classifier import Classifier
from swift_cls.collator import Decision
from swift_cls.exports import WRITERS
from swift_cls.predicting import predict, unlabelled
from swift_cls.serving import load, respond
from swift_core.errors import SwiftError, UserError
from swift_core.registry import find_task, load_spec
from swift_core.resuming import new_run
from swift_core.serving import RequestError

Build = Callable[..., Any]

NAMES = ("a", "b", "c")
TEXTS = ["the match ended", "ab", "stocks fell"]
LONG = " ".join("abcdefghijklmnopqrstuvwxyz")


def ask(classifier: Classifier, **request: Any) -> dict[str, Any]:
    answer = respond(request, classifier, model="mini", request_id="classify-1", created=1_795_000_000)
    read: dict[str, Any] = json.loads(json.dumps(answer, allow_nan=False))
    return read


def probs(answer: dict[str, Any]) -> np.ndarray:
    assert [entry["index"] for entry in answer["data"]] == list(range(len(answer["data"])))
    return np.array([entry["probs"] for entry in answer["data"]])


def refused(classifier: Classifier, status: int, **request: Any) -> dict[str, Any]:
    with pytest.raises(RequestError) as caught:
        ask(classifier, **request)
    body = caught.value.body["error"]
    assert caught.value.status == status == body["code"]
    return body  # type: ignore[no-any-return]


@pytest.fixture
def make(build_classifier: Build) -> Callable[..., Classifier]:
    def made(*given: Any, **options: Any) -> Classifier:
        model, collator, _ = build_classifier(*given, **{"max_length": 20, **options})
        return Classifier(model=model, collator=collator)

    return made


@pytest.fixture
def small(make: Callable[..., Classifier], bert: Path) -> Classifier:
    return make(bert, *NAMES)


def logits(classifier: Classifier, *chunks: list[list[int]]) -> np.ndarray:
    model, collator = classifier.model, classifier.collator
    rows = [unlabelled(collator.texts.of_ids([1])._replace(chunks=row)) for row in chunks]
    return predict(model, collator, rows)


def test_one_text_texts_pairs_and_token_ids(small: Classifier) -> None:
    ids = small.collator.tokenizer(TEXTS)["input_ids"]
    expected = softmax(logits(small, *[[row] for row in ids]))
    answer = ask(small, input=TEXTS, model="mini", user="u", priority=3)
    assert {**answer, "data": None} == {
        "id": "classify-1",
        "object": "list",
        "created": 1_795_000_000,
        "model": "mini",
        "data": None,
        "usage": {"prompt_tokens": sum(map(len, ids)), "total_tokens": sum(map(len, ids))},
    }
    for given, wanted in [
        (TEXTS, expected),
        (TEXTS[1], expected[1:2]),
        (ids, expected),
        (ids[1], expected[1:2]),
    ]:
        found = ask(small, input=given)
        np.testing.assert_allclose(probs(found), wanted, atol=1e-6)
        for entry, row in zip(found["data"], wanted, strict=True):
            assert entry["label"] == NAMES[row.argmax()]
            assert (entry["num_classes"], entry["labels"]) == (3, list(NAMES))
            assert "score" not in entry and "labels_assigned" not in entry
    pair = small.collator.texts.of_text("ab", "cd")
    whole = predict(small.model, small.collator, [unlabelled(pair)])
    mixed = ask(small, input=[["ab", "cd"], "ab"])
    np.testing.assert_allclose(probs(mixed), [softmax(whole)[0], expected[1]], atol=1e-6)
    assert mixed["usage"]["prompt_tokens"] == len(pair.chunks[0]) + len(ids[1])


def test_the_temperature_makes_the_probabilities(small: Classifier) -> None:
    warm = replace(small, collator=replace(small.collator, decision=Decision(temperature=2.5)))
    ids = small.collator.tokenizer(TEXTS)["input_ids"]
    expected = softmax(logits(small, *[[row] for row in ids]) / 2.5)
    np.testing.assert_allclose(probs(ask(warm, input=TEXTS)), expected, atol=1e-6)


@pytest.mark.parametrize("threshold", [0.3, [0.2, 0.9, 0.5], 0.999999])
def test_several_labels(threshold: Any, make: Callable[..., Classifier], bert: Path) -> None:
    model = make(bert, *NAMES, problem="multi_label")
    model = replace(model, collator=replace(model.collator, decision=Decision(threshold, 1.5)))
    ids = model.collator.tokenizer(TEXTS)["input_ids"]
    expected = sigmoid(logits(model, *[[row] for row in ids]) / 1.5)
    answer = ask(model, input=TEXTS)
    np.testing.assert_allclose(probs(answer), expected, atol=1e-6)
    for entry, row in zip(answer["data"], expected, strict=True):
        ranked = sorted(zip(row, NAMES, np.broadcast_to(threshold, 3), strict=True), reverse=True)
        assert entry["labels_assigned"] == [name for value, name, least in ranked if value >= least]
        assert entry["label"] == ranked[0][1]
        assert entry["labels"] == list(NAMES)


def test_scores(make: Callable[..., Classifier], bert: Path) -> None:
    model = make(bert, problem="regression")
    ids = model.collator.tokenizer(TEXTS)["input_ids"]
    answer = ask(model, input=TEXTS)
    for entry, (score,) in zip(answer["data"], logits(model, *[[row] for row in ids]).tolist(), strict=True):
        assert entry["score"] == entry["probs"][0] == pytest.approx(score, abs=1e-6)
        assert (entry["label"], entry["labels"], entry["num_classes"]) == (None, [], 1)


def test_python_users_get_the_same(small: Classifier) -> None:
    found = small.classify([TEXTS[0], (TEXTS[1], TEXTS[2]), [{"role": "user", "content": TEXTS[0]}]])
    served = ask(small, input=[TEXTS[0], [TEXTS[1], TEXTS[2]]])["data"]
    for entry, other in zip(found, [*served, served[0]], strict=True):
        np.testing.assert_allclose(entry["probs"], other["probs"], atol=1e-6)
        assert entry["label"] == other["label"]
    assert len(small.classify([LONG * 3])) == 1
    assert small.classify([]) == []


def test_long_texts_are_refused_or_cut_as_in_training(small: Classifier, make: Any, bert: Path) -> None:
    for name in ("truncate", "head_tail"):
        model = make(bert, *NAMES, long_text=name)
        error = refused(model, 413, input=["ab", LONG, [LONG, "x"]])
        assert "input[1]: expected at most 20 tokens, found 28" in error["message"]
        assert "input[2]: expected at most 20 tokens, found 30" in error["message"]
        assert "truncate_prompt_tokens to -1" in error["message"]
        for limit, length in ((-1, 20), (9, 9)):
            cut = ask(model, input=[LONG, "ab"], truncate_prompt_tokens=limit)
            wanted = replace(model.collator.texts, max_length=length).of_text(LONG).chunks
            assert len(wanted[0]) == length
            np.testing.assert_allclose(probs(cut)[0], softmax(logits(model, wanted))[0], atol=1e-6)
    ids = small.collator.tokenizer(LONG)["input_ids"]
    assert "input[0]: expected at most 20 tokens" in refused(small, 413, input=ids)["message"]
    sent = ask(small, input=ids, truncate_prompt_tokens=-1)
    np.testing.assert_allclose(probs(sent), softmax(logits(small, [ids[:20]])), atol=1e-6)


def test_chunks_are_never_too_long(make: Callable[..., Classifier], bert: Path) -> None:
    model = make(bert, *NAMES, long_text="chunk_mean")
    chunks = model.collator.texts.of_text(LONG).chunks
    assert len(chunks) == 2
    answer = ask(model, input=LONG)
    np.testing.assert_allclose(probs(answer), softmax(logits(model, chunks)), atol=1e-6)
    assert answer["usage"]["prompt_tokens"] == sum(map(len, chunks))
    cut = ask(model, input=LONG, truncate_prompt_tokens=9)
    assert cut["usage"]["prompt_tokens"] == 9
    assert ask(model, input=LONG, truncate_prompt_tokens=-1)["data"] == answer["data"]
    ids = model.collator.tokenizer(LONG, add_special_tokens=False)["input_ids"]
    parts = [ids[:13], ids[13:]]
    np.testing.assert_allclose(probs(ask(model, input=ids)), softmax(logits(model, parts)), atol=1e-6)
    assert "input[0]: expected at most 20" in refused(model, 413, input=[[LONG, "x"]])["message"]


@pytest.mark.parametrize("long_text", ["truncate", "chunk_mean"])
def test_a_side_where_nothing_is_cut_changes_nothing(
    long_text: str, make: Callable[..., Classifier], bert: Path
) -> None:
    model = make(bert, *NAMES, long_text=long_text)
    given = [*TEXTS, LONG] if long_text == "chunk_mean" else TEXTS
    for side in ("right", "left"):
        assert ask(model, input=given, truncation_side=side) == ask(model, input=given)


def test_which_side_is_cut_and_special_tokens(small: Classifier) -> None:
    tokenizer = small.collator.tokenizer
    tokenizer.truncation_side = "left"  # the library's own way
    wanted = tokenizer(LONG, truncation=True, max_length=9)["input_ids"]
    left = ask(small, input=LONG, truncate_prompt_tokens=9, truncation_side="left")
    np.testing.assert_allclose(probs(left), softmax(logits(small, [wanted])), atol=1e-6)
    bare = tokenizer("ab", add_special_tokens=False)["input_ids"]
    found = ask(small, input="ab", add_special_tokens=False)
    np.testing.assert_allclose(probs(found), softmax(logits(small, [bare])), atol=1e-6)
    assert (
        "truncation_side: of pairs"
        in refused(small, 422, input=[["a", "b"]], truncation_side="left")["message"]
    )
    assert refused(small, 422, input=[["a", "b"]], add_special_tokens=False)["param"] == "add_special_tokens"


def test_an_end_token_that_pads_is_not_read(
    qwen: Path, ending_tokenizer: Any, make: Callable[..., Classifier]
) -> None:
    model = make(qwen, *NAMES)
    ending_tokenizer.pad_token = ending_tokenizer.eos_token
    model = replace(
        model,
        collator=replace(model.collator, texts=replace(model.collator.texts, tokenizer=ending_tokenizer)),
    )
    ids = ending_tokenizer("the match")["input_ids"]
    assert ids[-1] == ending_tokenizer.pad_token_id
    np.testing.assert_allclose(probs(ask(model, input=ids)), probs(ask(model, input="the match")), atol=1e-6)


def test_all_faults_are_told_with_their_places(small: Classifier) -> None:
    error = refused(small, 422, input=["fine", " ", 3, ["half \ud800", ""]], truncate_prompt_tokens=3, user=5)
    for part in (
        "input[1]: expected a text with a visible character, found ' '",
        "input[2]: expected a text or a list of token ids, found 3",
        "input[3][0]: expected Unicode text, found half a surrogate pair at 5",
        "input[3][1]: expected a text with a visible character",
        "user: input should be a valid string, found 5",
        "truncate_prompt_tokens: expected -1, or 4 to 20 tokens (special ones included), found 3",
    ):
        assert part in error["message"]
    assert (error["type"], error["param"]) == ("invalid_request_error", None)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({}, "input: expected a text, a list of texts"),
        ({"input": []}, r"input: expected .*pairs.*found \[\]"),
        ({"input": ["a", [1]]}, "found both"),
        ({"input": [["a", "b"], [1]]}, "found both"),
        ({"input": [["a", "b", "c"]]}, r"input\[0\]\[0\]: expected a token id"),
        ({"input": [1, 400]}, r"input\[1\]: expected a token id from 0 to 66, found 400"),
        ({"input": "a", "truncate_prompt_tokens": 21}, "expected -1, or 3 to 20"),
    ],
)
def test_what_is_refused(small: Classifier, request_: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        ask(small, **request_)
    assert caught.value.status == 422


def test_a_conversation_is_read_as_in_training(make: Callable[..., Classifier], bert: Path) -> None:
    served = make(bert, *NAMES)
    served.collator.tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}"
    )
    talk = [{"role": "user", "content": "ab"}, {"role": "bot", "content": "c d"}]
    answer = ask(served, messages=talk)
    chunk = served.collator.encode({"messages": talk, "text": None, "text_pair": None, "label": "a"})[
        "chunks"
    ]
    np.testing.assert_allclose(probs(answer), softmax(logits(served, chunk)), atol=1e-6)
    assert answer["usage"]["prompt_tokens"] == len(chunk[0])
    assert ask(served, input="ab", messages=None) == ask(served, input="ab")
    long = [{"role": "user", "content": LONG}]
    refused(served, 413, messages=long)
    cut = ask(served, messages=long, truncate_prompt_tokens=-1)
    whole = served.collator.texts.of_messages(long).chunks
    np.testing.assert_allclose(probs(cut), softmax(logits(served, whole)), atol=1e-6)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"messages": "hi"}, "messages: expected a list of messages with role and content, found 'hi'"),
        ({"messages": [{"role": "user"}]}, "messages: expected messages with role and content"),
        (
            {"messages": [{"role": "user", "content": "a"}], "input": "a"},
            "expected them or input, found both",
        ),
        ({"messages": [{"role": "user", "content": "a"}], "add_special_tokens": False}, "leave it out"),
    ],
)
def test_what_is_no_conversation_is_refused(
    small: Classifier, request_: dict[str, Any], message: str
) -> None:
    assert message in refused(small, 422, **request_)["message"]


def test_another_model_and_a_body_that_is_no_object(small: Classifier) -> None:
    assert "expected 'mini'" in refused(small, 404, input="a", model="large")["message"]
    with pytest.raises(RequestError, match="body: expected a JSON object"):
        respond("a", small, model="m", request_id="1", created=0)  # type: ignore[arg-type]


def test_logits_that_are_no_numbers_are_not_sent(small: Classifier) -> None:
    with torch.no_grad():
        small.model.classifier.weight[0] = float("nan")
    with pytest.raises(SwiftError, match="not finite"):
        ask(small, input="a")


@pytest.mark.parametrize("problem", ["single_label", "multi_label", "regression"])
def test_an_export_is_loaded_as_it_was_trained(
    problem: str, bert: Path, build_classifier: Build, tmp_path: Path
) -> None:
    names = () if problem == "regression" else NAMES
    model, collator, args = build_classifier(
        bert, *names, problem=problem, max_length=20, long_text="chunk_max"
    )
    collator = replace(collator, decision=Decision([0.2, 0.5, 0.9] if problem == "multi_label" else 0.5, 1.7))
    WRITERS["hf"](tmp_path, model, collator, args, new_run(args))
    loaded = load(tmp_path)
    assert loaded.collator.decision == collator.decision
    expected = Classifier(model=model, collator=collator).classify([*TEXTS, LONG])
    for found, wanted in zip(loaded.classify([*TEXTS, LONG]), expected, strict=True):
        np.testing.assert_allclose(found.pop("probs"), wanted.pop("probs"), atol=1e-5)
        found.pop("score", None), wanted.pop("score", None)
        assert found == wanted


@pytest.mark.parametrize("lora", [False, True])
def test_the_model_of_a_run_is_loaded_with_its_pooling(
    lora: bool, qwen: Path, build_classifier: Build, tmp_path: Path
) -> None:
    model, collator, _ = build_classifier(
        qwen, *NAMES, spread=False, max_length=20, pooling_method="mean", use_lora=lora, lora_rank=2
    )
    model.save_pretrained(tmp_path)
    collator.save_pretrained(tmp_path)
    loaded = load(str(tmp_path))
    assert loaded.model.pooling_method == "mean"
    expected = Classifier(model=model, collator=collator).classify(TEXTS)
    for found, wanted in zip(loaded.classify(TEXTS), expected, strict=True):
        np.testing.assert_allclose(found["probs"], wanted["probs"], atol=1e-5)


def test_a_folder_that_holds_no_classifier(tmp_path: Path, bert: Path) -> None:
    with pytest.raises(UserError, match=r"found neither config\.json nor adapter_config\.json"):
        load(tmp_path)
    with pytest.raises(UserError, match="no labels of its own"):
        load(bert)


def test_a_server_finds_it_by_the_spec() -> None:
    spec = load_spec(find_task("sequence-classification"))
    assert list(spec.serving) == ["/v1/classify"]
    module, _, name = spec.serving["/v1/classify"].partition(":")
    assert getattr(import_module(module), name) is respond
    assert import_module(module).load is load
