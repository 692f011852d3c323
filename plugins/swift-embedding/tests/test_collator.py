"""From rows to batches: what is tokenised, what is cut, and what counts as a negative of what."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from swift_core import SwiftTrainer, TrainingArguments, UserError
from swift_embedding.collator import make_collator


@pytest.fixture
def collator_of(minilm_folder: Path):
    def build(**options):
        return make_collator(TrainingArguments("embedding", model_name_or_path=str(minilm_folder), **options))

    return build


def features(collator, *rows):
    return [collator.encode({"negatives": None, **row}) for row in rows]


def test_settings_come_from_the_models_own_configuration(collator_of):
    collator = collator_of()
    assert (collator.pooling_method, collator.max_length, collator.normalize_embeddings) == (
        "mean",
        256,
        True,
    )
    assert collator_of(pooling_method="cls", max_length=12).pooling_method == "cls"


def test_a_long_text_is_cut_counted_and_keeps_its_end_token(collator_of):
    collator = collator_of(max_length=8)
    (row,) = features(collator, {"query": "short", "positive": "word " * 50})
    assert row["truncated"] == 1
    assert len(row["documents"][0]) == 8
    assert row["documents"][0][-1] == collator.tokenizer.sep_token_id
    assert row["length"] == len(row["query"]) + 8


def test_a_text_of_just_the_right_length_is_not_counted_as_cut(collator_of):
    ids, cut = collator_of(max_length=6).tokens("one two three four")
    assert (len(ids), cut) == (6, False)


def test_prompts_go_before_texts_by_side(collator_of):
    collator = collator_of(query_prompt="query: ", document_prompt="passage: ")
    (row,) = features(collator, {"query": "a", "positive": "a", "negatives": ["b"]})
    decode = collator.tokenizer.decode
    assert decode(row["query"], skip_special_tokens=True) == "query : a"
    assert [decode(ids, skip_special_tokens=True) for ids in row["documents"]] == [
        "passage : a",
        "passage : b",
    ]


def test_every_document_is_in_a_batch_once_and_ragged_negatives_are_all_used(collator_of):
    collator = collator_of()
    batch = collator(
        features(
            collator,
            {"query": "q1", "positive": "one", "negatives": ["three", "four", "two"]},
            {"query": "q2", "positive": "two", "negatives": []},
            {"query": "q3", "positive": "one"},
        )
    )
    assert len(batch["document"]) == 4
    assert batch["targets"].tolist() == [0, 3, 0]
    # One positive of two rows is a negative of neither; all the rest count.
    assert batch["excluded"].sum() == 0


def test_another_answer_to_the_same_question_is_no_negative(collator_of):
    collator = collator_of()
    batch = collator(
        features(
            collator,
            {"query": "same", "positive": "one", "negatives": ["bad"]},
            {"query": "same", "positive": "two"},
            {"query": "other", "positive": "three"},
        )
    )
    # documents: one, bad, two, three
    assert batch["targets"].tolist() == [0, 2, 3]
    assert batch["excluded"].int().tolist() == [[0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]


def test_the_positive_among_its_own_negatives_is_harmless(collator_of):
    collator = collator_of(use_inbatch_negatives=False)
    batch = collator(features(collator, {"query": "q", "positive": "one", "negatives": ["one", "two"]}))
    assert batch["targets"].tolist() == [0]
    assert batch["excluded"].int().tolist() == [[0, 0]]


def test_without_in_batch_negatives_a_row_is_contrasted_with_its_own(collator_of):
    collator = collator_of(use_inbatch_negatives=False)
    batch = collator(
        features(
            collator,
            {"query": "q1", "positive": "one", "negatives": ["two"]},
            {"query": "q2", "positive": "three", "negatives": ["four"]},
        )
    )
    assert batch["excluded"].int().tolist() == [[0, 0, 1, 1], [1, 1, 0, 0]]


def test_the_collator_goes_to_worker_processes(collator_of):
    collator = collator_of()
    twin = pickle.loads(pickle.dumps(collator))
    assert twin.encode({"query": "a", "positive": "b", "negatives": None}) == collator.encode(
        {"query": "a", "positive": "b", "negatives": None}
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 513}, "max_length: the model takes at most 512 tokens, found 513"),
        ({"max_length": 2}, "max_length: expected more than the 2 special tokens"),
    ],
)
def test_an_impossible_length_is_refused(collator_of, options, message):
    with pytest.raises(UserError, match=message):
        collator_of(**options)


@pytest.mark.parametrize(
    ("options", "rows", "message"),
    [
        (
            {"per_device_train_batch_size": 1},
            [{}, {}],
            "each batch holds one row, .*per_device_train_batch_size to 2",
        ),
        (
            {"use_inbatch_negatives": False},
            [{"negatives": ["n"]}, {}],
            "1 of 2 rows have no negatives .*row 2",
        ),
        ({}, [{}], "there is only one row"),
    ],
)
def test_a_run_with_nothing_to_contrast_is_refused(minilm_folder, tmp_path, options, rows, message):
    path = tmp_path / "train.jsonl"
    path.write_text(
        "".join(
            json.dumps({"query": f"q{n}", "positive": f"p{n}", **row}) + "\n" for n, row in enumerate(rows)
        )
    )
    args = TrainingArguments(
        "embedding",
        model_name_or_path=str(minilm_folder),
        dataset=str(path),
        cache_dir=str(tmp_path),
        **options,
    )
    with pytest.raises(UserError, match=message):
        SwiftTrainer(args)


def test_hard_negatives_make_a_batch_of_one_worth_training(minilm_folder, tmp_path):
    args = TrainingArguments(
        "embedding",
        model_name_or_path=str(minilm_folder),
        cache_dir=str(tmp_path),
        per_device_train_batch_size=1,
        output_dir=str(tmp_path),
    )
    SwiftTrainer(args, train_dataset=[{"query": "q", "positive": "p", "negatives": ["n"]}] * 2)


def test_a_tokenizer_of_another_model_is_refused(collator_of):
    collator = replace(collator_of(), vocabulary=2000)
    with pytest.raises(UserError, match="the model knows 2000: they do not belong together"):
        features(collator, {"query": "mitochondria", "positive": "b"})


@pytest.mark.parametrize("option", ["eval_retrieval", "export_corpus"])
def test_a_file_that_is_needed_after_training_is_looked_at_before(minilm_folder, tmp_path, option):
    args = TrainingArguments(
        "embedding", model_name_or_path=str(minilm_folder), cache_dir=str(tmp_path), **{option: "nope"}
    )
    with pytest.raises(UserError, match="nope"):
        SwiftTrainer(args, train_dataset=[{"query": f"q{n}", "positive": f"p{n}"} for n in range(4)])
