"""Batches, and what is kept beside the weights."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from swift_cls import hooks
from swift_cls.collator import ClassificationCollator, Decision
from swift_cls.labels import Labels
from swift_cls.settings import labels_of_config
from swift_core import TrainingArguments
from swift_core.errors import UserError
from swift_core.preparation import prepare_task

Make = Callable[..., TrainingArguments]


def fitted(args: TrainingArguments, rows: list[dict[str, Any]]) -> Any:
    return prepare_task(args, rows)


def test_targets_are_what_the_problem_wants(bert: Path, make_args: Make) -> None:
    one = fitted(make_args(bert), [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}])
    batch = one.collator(list(one.train.features))
    assert batch["targets"].tolist() == [0, 1]
    assert batch["targets"].dtype == torch.int64
    several = fitted(make_args(bert), [{"text": "a", "labels": ["x", "y"]}, {"text": "b", "labels": []}])
    assert several.collator(list(several.train.features))["targets"].tolist() == [[1.0, 1.0], [0.0, 0.0]]
    scores = fitted(make_args(bert), [{"text": "a", "label": 1.5}, {"text": "b", "label": 2}])
    assert scores.collator(list(scores.train.features))["targets"].tolist() == [1.5, 2.0]


def test_token_types_of_a_pair_are_those_of_the_tokenizer(bert: Path, make_args: Make) -> None:
    rows = [
        {"premise": "a b", "hypothesis": "c", "label": "x"},
        {"premise": "d", "hypothesis": "e", "label": "y"},
    ]
    made = fitted(make_args(bert), rows)
    batch = made.collator(list(made.train.features))
    ids, _, types = batch["texts"].rows()
    assert types is not None
    assert types[0].tolist() == [0, 0, 0, 0, 1, 1]
    assert ids[0].tolist() == made.collator.tokenizer("a b", "c")["input_ids"]


def test_conversations_may_have_several_labels(qwen: Path, make_args: Make) -> None:
    talk = [{"role": "user", "content": "a b"}]
    made = fitted(
        make_args(qwen, pooling_method="mean"),
        [{"messages": talk, "labels": ["x", "y"]}, {"messages": talk, "labels": []}],
    )
    assert made.collator.known_labels.problem == "multi_label"
    assert list(made.train.features["targets"]) == [[0.0, 1.0], []]


def test_chunks_know_their_row(bert: Path, make_args: Make) -> None:
    rows = [{"text": "a", "label": "x"}, {"text": "b c d e f g h i j k", "label": "y"}]
    made = fitted(make_args(bert, long_text="chunk_max", max_length=6), rows)
    batch = made.collator(list(made.train.features))
    assert batch["owner"].tolist() == [0, 1, 1, 1]
    assert made.train.features[1]["truncated"] == 0


def test_rare_labels_weigh_more_when_rows_are_drawn(bert: Path, make_args: Make) -> None:
    rows = [{"text": f"a {n}", "label": "x"} for n in range(9)] + [{"text": "b", "label": "y"}]
    balanced = fitted(make_args(bert, sampling="balanced"), rows).train.features["weight"]
    assert sum(balanced[:9]) == pytest.approx(balanced[9])
    root = fitted(make_args(bert, sampling="square_root"), rows).train.features["weight"]
    assert root[9] / root[0] == pytest.approx(3)


def test_an_unknown_label_of_evaluation_data_is_told_with_the_labels(bert: Path, make_args: Make) -> None:
    rows = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]
    with pytest.raises(
        UserError, match=r"row 2 of eval_dataset: label: expected one of the 2 labels x, y.*found 'z'"
    ):
        prepare_task(make_args(bert), rows, [*rows[:1], {"text": "c", "label": "z"}])


def test_what_was_learned_comes_back_from_a_folder(bert: Path, make_args: Make, tmp_path: Path) -> None:
    args = make_args(bert, max_length=20, long_text="head_tail")
    labels = Labels(problem="multi_label", names=("体育", "财经"))
    collator = replace(hooks.make_collator(args), labels=labels, decision=Decision([0.3, 0.6], 1.7, True))
    collator.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_bytes((bert / "config.json").read_bytes())
    again: ClassificationCollator = hooks.make_collator(make_args(tmp_path))
    assert again.labels is not None
    assert again.labels.names == labels.names
    assert again.decision == Decision([0.3, 0.6], 1.7, False)
    assert again.texts.max_length == 20
    assert "体育" in (tmp_path / "classification.json").read_text()


def test_a_trained_classifier_reads_texts_as_before_unless_told_otherwise(
    bert: Path, make_args: Make, tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    made = fitted(make_args(bert, long_text="chunk_max", pooling_method="mean"), rows)
    made.collator.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_bytes((bert / "config.json").read_bytes())
    again: ClassificationCollator = hooks.make_collator(make_args(tmp_path))
    assert (again.texts.long_text, again.pooling_method) == ("chunk_max", "mean")
    asked = make_args(tmp_path, long_text="truncate", pooling_method="cls")
    other: ClassificationCollator = hooks.make_collator(asked)
    assert (other.texts.long_text, other.pooling_method) == ("truncate", "cls")


def test_a_damaged_settings_file_is_told(bert: Path, make_args: Make, tmp_path: Path) -> None:
    for path in bert.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "classification.json").write_text("{")
    with pytest.raises(UserError, match="expected the settings of a classifier"):
        hooks.make_collator(make_args(tmp_path))


def test_labels_of_a_classifier_of_others_are_in_its_configuration(bert: Path) -> None:
    config = json.loads((bert / "config.json").read_text())

    def read(**changes: Any) -> Labels | None:
        from transformers import BertConfig

        return labels_of_config(
            BertConfig(**{**config, "architectures": ["BertForSequenceClassification"], **changes})
        )

    named = read(id2label={0: "no", 1: "yes"})
    assert named is not None and named.names == ("no", "yes")
    numbered = read(num_labels=3)
    assert numbered is not None and numbered.names == ("LABEL_0", "LABEL_1", "LABEL_2")
    score = read(num_labels=1)
    assert score is not None and score.problem == "regression"
    assert read(id2label={0: "no", 1: "yes"}, architectures=["BertModel"]) is None


def test_it_pickles_for_workers(bert: Path, make_args: Make) -> None:
    made = fitted(make_args(bert), [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}])
    copy = pickle.loads(pickle.dumps(made.collator))
    assert copy.encode({"text": "a", "label": "y"})["targets"] == [1.0]


@pytest.mark.parametrize(
    ("length", "told"), [(65, "takes at most 64 tokens"), (3, "more than the 3 special")]
)
def test_lengths_that_can_not_be_are_told(bert: Path, make_args: Make, length: int, told: str) -> None:
    with pytest.raises(UserError, match=told):
        hooks.make_collator(make_args(bert, max_length=length))


def test_a_model_without_labels_needs_training_data(bert: Path, make_args: Make) -> None:
    with pytest.raises(UserError, match="the model has no labels of its own"):
        prepare_task(make_args(bert), None, [{"text": "a", "label": "x"}])
