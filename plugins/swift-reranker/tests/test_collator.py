"""What goes into a batch in training, and what a loss is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch

from swift_core import TrainingArguments
from swift_core.data.records import features_of
from swift_core.errors import UserError
from swift_reranker import hooks, losses
from swift_reranker.layouts import COLUMNS
from swift_reranker.objective import USES, check_training, list_losses
from swift_reranker.options import LossName

Make = Callable[..., TrainingArguments]


def records(lists: list[dict[str, Any]]) -> datasets.Dataset:
    rows = [{**{column.name: None for column in COLUMNS}, **entry} for entry in lists]
    return datasets.Dataset.from_list(rows, features=features_of(COLUMNS))


def features(collator: Any, lists: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [collator.encode({"scores": None, **entry}) for entry in lists]


def test_a_batch_holds_all_pairs_with_their_lists(make_args: Make, bert: Path, lists: list[Any]) -> None:
    collator = hooks.make_collator(make_args(bert))
    batch = collator(features(collator, lists))
    assert batch["group"].tolist() == [0] * 4 + [1] * 2 + [2] * 5
    assert batch["labels"].tolist() == [2, 0, 0, 1, 0, 1, 0, 1, 0, 0, 0]
    assert batch["scores"] is None
    assert len(batch["texts"]) == 11


def test_prefixes_lie_behind_the_pairs(make_args: Make, qwen: Path, lists: list[Any]) -> None:
    collator = hooks.make_collator(make_args(qwen))
    flat = collator(features(collator, lists))["texts"]
    ids, parents, _ = flat.rows()
    assert len(ids) == 11 + 3
    assert parents == [11] * 4 + [12] * 2 + [13] * 5 + [None] * 3
    whole = collator.tokenizer.decode(torch.cat([ids[11], ids[0]]))
    assert whole == "Query: what is a cat\nDocument: a cat is a small animal\nRelevance:"


def test_a_long_list_keeps_its_positives_and_then_the_first(make_args: Make, bert: Path) -> None:
    entry = {
        "query": "q",
        "documents": list("abcdef"),
        "labels": [0, 0, 0, 1, 0, 2],
        "scores": [1, 2, 3, 4, 5, 6],
    }
    collator = hooks.make_collator(make_args(bert, train_list_size=4))
    (feature,) = features(collator, [entry])
    batch = collator([feature])
    assert batch["labels"].tolist() == [0, 0, 1, 2]
    assert batch["scores"].tolist() == [1, 2, 4, 6]
    assert [collator.tokenizer.decode(row) for row in batch["texts"].rows()[0]][-1].endswith("f [SEP]")
    assert len(collator.batch([feature])["group"]) == 6  # an evaluation takes all


@pytest.mark.parametrize(
    ("labels", "size", "kept"),
    [
        ([1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 0], 8, [0, 1, 2, 3, 4, 5, 6, 10]),  # all there is to compare with
        ([0, 1, 0, 0, 0], 3, [0, 1, 2]),
        ([3, 2, 1, 0, 0, 0, 0], 4, [0, 1, 3, 4]),
        ([1, 1, 1], 2, [0, 1]),
    ],
)
def test_a_short_list_has_documents_of_both_kinds(
    make_args: Make, bert: Path, labels: list[int], size: int, kept: list[int]
) -> None:
    documents = [chr(97 + n) * 2 for n in range(len(labels))]
    collator = hooks.make_collator(make_args(bert, train_list_size=size))
    (feature,) = features(collator, [{"query": "q", "documents": documents, "labels": labels}])
    batch = collator([feature])
    texts = [collator.tokenizer.decode(row).split("[SEP]")[1].strip() for row in batch["texts"].rows()[0]]
    assert texts == [documents[n] for n in kept]
    assert feature["length"] == batch["texts"].num_tokens


def test_a_document_that_answers_is_never_a_negative(make_args: Make, bert: Path) -> None:
    collator = hooks.make_collator(make_args(bert, train_list_size=2, inbatch_negatives=4))
    lists = [
        {"query": "one", "documents": ["aa", "bb", "cc"], "labels": [1, 1, 1]},
        {"query": "two", "documents": ["cc", "dd", "ee"], "labels": [1, 1, 0]},
        {"query": "one", "documents": ["dd", "ff"], "labels": [1, 0]},
    ]
    batch = collator(features(collator, lists))
    texts = [collator.tokenizer.decode(row) for row in batch["texts"].rows()[0]]
    negatives = {text for text, label in zip(texts, batch["labels"].tolist(), strict=True) if label == 0}
    # aa, bb, cc and dd answer one; cc and dd answer two.
    assert negatives == {
        f"[CLS] {query} [SEP] {document} [SEP]"
        for query, document in (("two", "ee"), ("two", "aa"), ("two", "bb"), ("one", "ff"))
    }


def test_positives_of_other_lists_join_as_negatives(make_args: Make, bert: Path, lists: list[Any]) -> None:
    collator = hooks.make_collator(make_args(bert, inbatch_negatives=2))
    again = {"query": "what is a cat", "documents": ["fur", "no"], "labels": [1, 0]}
    batch = collator(features(collator, [*lists, again]))
    assert torch.bincount(batch["group"]).tolist() == [4 + 2, 2 + 2, 5 + 2, 2 + 2]
    texts = [collator.tokenizer.decode(row) for row in batch["texts"].rows()[0]]
    # Those of the lists that follow; "fur" answers the first query too and is none of its negatives.
    assert "the red team won" in texts[4] and "the moon is far away" in texts[5]
    assert all(text.startswith("[CLS] what is a cat [SEP]") for text in texts[:6])
    assert batch["labels"].tolist()[4:6] == [0, 0]
    assert not any("fur" in text for text in texts[:6])


@pytest.mark.parametrize("name", list(USES))
def test_a_run_gets_the_loss_of_its_name(make_args: Make, bert: Path, name: LossName) -> None:
    settings: dict[str, Any] = {
        "temperature": 0.5,
        "teacher_temperature": 2.0,
        "weighting": "lambda_rank",
        "loss_depth": 2,
    }
    given = {option: settings[option] for option in USES[name] if option in settings}
    task = make_args(bert, loss=name, **given).task
    generator = torch.Generator().manual_seed(0)
    scores, teacher = torch.randn(2, 7, generator=generator)
    labels, group = torch.tensor([1.0, 0, 0, 0, 1, 0, 0]), torch.tensor([0, 0, 0, 1, 1, 1, 1])
    batch = {"labels": labels, "scores": teacher, "group": group}
    names = {"loss_depth": "k"}
    arguments = {names.get(option, option): value for option, value in given.items()}
    targets = teacher if name in ("margin_mse", "kl_divergence") else labels
    expected = getattr(losses, name)(scores, targets, group, **arguments)
    torch.testing.assert_close(list_losses(scores, batch, task), expected)


def test_a_list_of_one_document_does_not_look_like_a_collapse(
    build: Callable[..., Any], bert: Path, lists: list[Any]
) -> None:
    model, collator, args = build(bert, loss="lambda_loss")
    alone = {"query": "q", "documents": ["a"], "labels": [1]}
    spreads = [
        hooks.compute_loss(model, collator(features(collator, made)), args).metrics["score_spread"]
        for made in (lists, [*lists, alone], [alone])
    ]
    assert isinstance(spreads[0], torch.Tensor)
    assert spreads[0][0] > 0 and spreads[0][1] == 3
    torch.testing.assert_close(spreads[1], spreads[0])
    assert spreads[2].tolist() == [0, 0]  # type: ignore[union-attr]


def test_rows_with_a_teacher_only_learn_its_margins(make_args: Make, bert: Path) -> None:
    scores, teacher = torch.tensor([1.0, 0.0]), torch.tensor([3.0, -1.0])
    batch = {"labels": None, "scores": teacher, "group": torch.tensor([0, 0])}
    assert list_losses(scores, batch, make_args(bert).task).tolist() == [9.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 2.0}, "temperature: has no effect with loss binary_cross_entropy"),
        ({"loss": "listnet", "weighting": "lambda_rank"}, "weighting: has no effect with loss listnet"),
        ({"loss": "mean_squared_error", "inbatch_negatives": 1}, "inbatch_negatives: has no effect"),
        (
            {"inbatch_negatives": 1, "per_device_train_batch_size": 1},
            "inbatch_negatives: each batch holds one list",
        ),
        ({"first_stage_depth": 5}, "first_stage_depth: has no effect without eval_retrieval"),
        ({"loss": "margin_mse"}, "margin_mse learns from a teacher's scores"),
        ({}, "binary_cross_entropy expects labels from 0 to 1"),
    ],
)
def test_what_a_loss_can_not_use_is_refused(
    make_args: Make, bert: Path, lists: list[Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        check_training(records(lists), make_args(bert, **options))


@pytest.mark.parametrize("first", [0, 1])
def test_one_run_never_has_two_losses(make_args: Make, bert: Path, first: int) -> None:
    found = [
        {"query": "a", "documents": ["x"], "labels": None, "scores": [3.0]},
        {"query": "b", "documents": ["x", "y"], "labels": [1, 0], "scores": [2.0, 1.0]},
    ]
    rows = records(found[::-1] if first else found)
    with pytest.raises(UserError) as caught:
        check_training(rows, make_args(bert))
    assert caught.value.faults == (
        "loss: some rows have labels, others only scores (1 of 2 lists, the first is list "
        f"{first + 1}), which are learned with different losses; set loss",
    )
    check_training(rows, make_args(bert, loss="margin_mse"))


def test_all_faults_are_told_at_once(make_args: Make, bert: Path, lists: list[Any]) -> None:
    args = make_args(bert, temperature=2.0, loss_depth=3)
    with pytest.raises(UserError) as caught:
        check_training(records(lists), args)
    assert [fault.partition(":")[0] for fault in caught.value.faults] == ["loss_depth", "temperature", "loss"]
