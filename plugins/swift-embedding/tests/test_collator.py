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
    """Encoded rows; a positive may be written as one text."""
    return [
        collator.encode(
            {**row, "positive": [row["positive"]] if isinstance(row["positive"], str) else row["positive"]}
        )
        for row in rows
    ]


def test_settings_come_from_the_models_own_configuration(collator_of):
    collator = collator_of()
    assert (collator.pooling_method, collator.query_max_length, collator.document_max_length) == (
        "mean",
        256,
        256,
    )
    assert (collator.normalize_embeddings, collator.pool_prompts) == (True, True)
    assert collator_of(pooling_method="cls", max_length=12).pooling_method == "cls"


def test_a_long_text_is_cut_counted_and_keeps_its_end_token(collator_of):
    collator = collator_of(max_length=8)
    (row,) = features(collator, {"query": "short", "positive": "word " * 50})
    assert row["truncated"] == 1
    assert len(row["documents"][0]) == 8
    assert row["documents"][0][-1] == collator.tokenizer.sep_token_id
    assert row["length"] == len(row["query"]) + 8


def test_a_text_of_just_the_right_length_is_not_counted_as_cut(collator_of):
    ids, cut = collator_of(max_length=6).query_tokens("one two three four")
    assert (len(ids), cut) == (6, False)


def test_each_side_has_a_length_of_its_own(collator_of):
    collator = collator_of(max_length=20, query_max_length=5)
    (row,) = features(collator, {"query": "word " * 50, "positive": "word " * 50})
    assert (len(row["query"]), len(row["documents"][0]), row["truncated"]) == (5, 20, 2)
    encoder = collator.recipe
    assert (encoder.query_max_length, encoder.document_max_length, encoder.max_length) == (5, 20, 20)


def test_prompts_go_before_texts_by_side(collator_of):
    collator = collator_of(query_prompt="query: ", document_prompt="passage: ")
    (row,) = features(collator, {"query": "a", "positive": "a", "negatives": ["b"]})
    decode = collator.tokenizer.decode
    assert decode(row["query"], skip_special_tokens=True) == "query : a"
    assert [decode(ids, skip_special_tokens=True) for ids in row["documents"]] == [
        "passage : a",
        "passage : b",
    ]


def test_every_document_is_in_a_batch_once_and_ragged_documents_are_all_used(collator_of):
    collator = collator_of()
    batch = collator(
        features(
            collator,
            {"query": "q1", "positive": ["one", "uno"], "negatives": ["three", "four", "two"]},
            {"query": "q2", "positive": "two", "negatives": []},
            {"query": "q3", "positive": "one"},
        )
    )
    relations = batch["relations"]
    assert len(batch["document"]) == len(set(relations.documents.tolist())) == 5
    pairs = list(zip(relations.row.tolist(), relations.document.tolist(), strict=True))
    assert pairs == [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (1, 4), (2, 0)]
    assert relations.answers.tolist() == [True, True, False, False, False, True, True]
    assert (batch["kind"], batch["source"], relations.scores) == ("answers", 0, None)


def test_equal_texts_have_equal_numbers_on_both_sides(collator_of):
    collator = collator_of(query_prompt="query: ", document_prompt="passage: ")
    batch = collator(
        features(
            collator,
            {"query": "a", "positive": "b"},
            {"query": "c", "positive": " a "},
            {"query": "a", "positive": "d"},
        )
    )
    relations = batch["relations"]
    assert relations.texts[0] == relations.texts[2] == relations.documents[1]
    assert len(set(relations.texts.tolist()) | set(relations.documents.tolist())) == 4


def test_texts_that_are_cut_to_the_same_tokens_are_one_document(collator_of):
    collator = collator_of(document_max_length=4)
    batch = collator(
        features(
            collator, {"query": "q", "positive": "one two three"}, {"query": "r", "positive": "one two four"}
        )
    )
    assert len(batch["document"]) == len(batch["relations"].documents) == 1


def test_scored_pairs_take_the_part_of_queries(collator_of):
    collator = collator_of(query_prompt="query: ", document_prompt="passage: ")
    rows = [{"text1": "a", "text2": "b", "score": 0.5}, {"text1": "c", "text2": "b", "score": 0.0}]
    encoded = [collator.encode(row) for row in rows]
    assert collator.tokenizer.decode(encoded[0]["documents"][0], skip_special_tokens=True) == "query : b"
    batch = collator(encoded)
    assert batch["kind"] == "scored"
    assert batch["relations"].scores.tolist() == [0.5, 0.0]
    assert batch["relations"].document.tolist() == [0, 0]


def test_any_two_labelled_texts_are_a_pair(collator_of):
    collator = collator_of()
    rows = [{"text": text, "label": label} for text, label in (("a", "x"), ("b", "y"), ("c", "x"))]
    batch = collator([collator.encode(row) for row in rows])
    relations = batch["relations"]
    assert "document" not in batch
    assert len(relations.row) == 6
    answers = {
        (i, j)
        for i, j, a in zip(
            relations.row.tolist(), relations.document.tolist(), relations.answers.tolist(), strict=True
        )
        if a
    }
    assert answers == {(0, 2), (2, 0)}


def test_a_teachers_scores_lie_beside_the_documents(collator_of):
    collator = collator_of()
    row = {
        "query": "q",
        "positive": "p",
        "negatives": ["n", "m"],
        "positive_scores": [3.0],
        "negative_scores": [1.0, -1.0],
    }
    batch = collator(features(collator, row))
    assert batch["relations"].scores.tolist() == [3.0, 1.0, -1.0]


def test_the_collator_goes_to_worker_processes(collator_of):
    collator = collator_of()
    twin = pickle.loads(pickle.dumps(collator))
    row = {"query": "a", "positive": ["b"]}
    assert twin.encode(row) == collator.encode(row)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 513}, "max_length: the model takes at most 512 tokens, found 513"),
        ({"max_length": 2}, "max_length: expected more than the 2 special tokens"),
        (
            {"query_max_length": 4, "query_prompt": "query: "},
            "query_max_length: expected more than the 4 .* prompt",
        ),
        (
            {"matryoshka_dims": [64, 512]},
            r"matryoshka_dims: the model's vectors have 384 dimensions, found \[512\]",
        ),
        ({"guide_model": "./nowhere"}, "guide_model: "),
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
