"""Which labels a run has, and what is told of labels that can't be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from swift_cls.labels import Labels, learn_labels, look_alikes
from swift_cls.options import ClassificationOptions
from swift_core.errors import UserError


def learn(
    values: list[Any], known: Labels | None = None, declared: tuple[str, ...] = (), **options: Any
) -> Labels:
    return learn_labels(values, ClassificationOptions(**options), known, declared=declared)


def test_names_are_sorted_whatever_the_order_of_the_rows() -> None:
    assert learn(["b", "c", "a", "b"]).names == learn(["a", "b", "b", "c"]).names == ("a", "b", "c")
    assert learn(["b", "c", "a", "b"]).counts == (1, 2, 1)


def test_ids_are_sorted_by_number_also_where_a_csv_file_made_them_texts() -> None:
    ids = [str(n) for n in range(12)]
    assert learn(ids[::-1]).names == tuple(ids)
    assert learn([*range(12)]).names == tuple(ids)


def test_ids_beside_label_names_are_places_in_them() -> None:
    labels = learn([0, 2, 1], label_names=["x", "y", "z"])
    assert labels.names == ("x", "y", "z")
    assert labels.targets(2) == [2.0]
    assert labels.targets("z") == [2.0]


def test_the_problem_is_what_the_labels_are() -> None:
    assert learn(["a", "b"]).problem == "single_label"
    assert learn([["a"], [], ["a", "b"]]).problem == "multi_label"
    assert learn([0.5, 1, 2]).problem == "regression"
    assert learn([1, 2], problem="regression").targets(2) == [2.0]
    assert learn([True, False]).names == ("false", "true")


def test_numbers_of_a_csv_file_are_what_they_are_in_jsonl() -> None:
    assert learn(["0.5", "1", "2.25"]).problem == "regression"
    assert learn([0.0, 1.0, 2.0]).names == learn(["0.0", "1.0", "2.0"]).names == ("0", "1", "2")
    assert learn(["0", "1", "0"], label_names=["no", "yes"]).targets("1") == [1.0]
    assert learn(["1.5", "v2.0"]).names == ("1.5", "v2.0")


@pytest.mark.parametrize("kind", [str, float], ids=["csv", "jsonl"])
def test_a_label_that_is_spelled_like_a_name_is_that_name(kind: type) -> None:
    values = [kind(text) for text in ("1.0", "0.0", "0.0")]
    labels = learn(values, label_names=["1.0", "0.0"])
    assert (labels.names, labels.counts) == (("1.0", "0.0"), (1, 2))
    # Also one that equals a name as a number is no place.
    assert [labels.targets(value) for value in (*values, 1, "0")] == [[0.0], [1.0], [1.0], [0.0], [1.0]]
    many = learn([kind(n) for n in (3.0, 2.0, 1.0, 3.0)], label_names=["1.0", "2.0", "3.0"])
    assert (many.counts, many.targets(kind(3.0))) == ((1, 1, 2), [2.0])
    with pytest.raises(ValueError, match=r"one of the 3 labels 1\.0, 2\.0, 3\.0, found '0'"):
        many.targets("0.0")
    both = learn(["1", "1.0", "1.0"], label_names=["1.0", "1"])
    assert (both.counts, both.targets("1"), both.targets(1.0)) == ((2, 1), [1.0], [0.0])


def test_names_with_a_point_are_told_and_go_on_as_they_are() -> None:
    with pytest.raises(
        UserError, match=r"no training row has 2\.0.*\nlabels found \(rows\): 0\.0 \(1\), 1\.0 \(1\)"
    ):
        learn(["1.0", "0.0"], label_names=["1.0", "0.0", "2.0"])
    known = Labels(problem="single_label", names=("1.0", "0.0"), of_model=True)
    assert learn(["0.0", "1.0", "0.0"], known) == replace(known, counts=(1, 2), rows=3)


def test_labels_of_the_model_stay_where_it_knows_all_in_the_data() -> None:
    known = Labels(problem="single_label", names=("z", "a", "m"), of_model=True)
    assert learn(["a", "z"], known).names == ("z", "a", "m")
    assert learn(["a", "z"], known).of_model
    fresh = learn(["a", "new"], known)
    assert fresh.names == ("a", "new")
    assert not fresh.of_model
    # Ids are the model's where they are just those that it has.
    assert learn([2, 0, 1, 0], known) == replace(known, counts=(2, 1, 1), rows=4)
    assert learn(["2", "0", "1"], known).names == ("z", "a", "m")
    assert not learn([0, 1, 0], known).of_model


def test_numbers_among_names_are_names() -> None:
    assert learn(["1.5", "beta", "stable", "2.0"]).names == ("1.5", "2", "beta", "stable")
    assert learn(["0.14", "2", "n/a"], problem="single_label").problem == "single_label"
    assert learn(["-1", "a"], label_names=["-1", "a"]).counts == (1, 1)


def test_names_that_look_alike_are_found() -> None:
    names = ["体育", "体育\u200b", "sports", "Sports", "ＮＢＡ", "NBA", "a b", "ab", "财经"]
    assert look_alikes(names) == [
        ("体育", "体育\u200b"),
        ("sports", "Sports"),
        ("ＮＢＡ", "NBA"),
        ("a b", "ab"),
    ]


def test_several_labels_are_ids_in_order() -> None:
    labels = learn([["b", "a"], ["c"], []])
    assert labels.targets(["c", "a"]) == [0.0, 2.0]
    assert labels.targets([]) == []
    assert (labels.counts, labels.rows) == ((1, 1, 1), 3)


@pytest.mark.parametrize(
    ("values", "options", "told"),
    [
        ([0, 1, -1], {}, "found the negative id -1"),
        ([0, 1, 3], {}, "no training row has the ids 2"),
        ([121454013, 10**13], {}, "no training row has the ids 121454014, 121454015"),
        (["a", "a"], {}, "at least 2 different labels, found a"),
        (["a", "b"], {"num_labels": 3}, "num_labels: expected 3 labels, found 2"),
        (["a", "b"], {"label_names": ["a", "b", "c"]}, "no training row has c"),
        (["a", "b"], {"label_names": ["a", "b", "b"]}, "a name appears twice"),
        (["a", "bat"], {"label_names": ["a", "bath"]}, "found 'bat'. Did you mean 'bath'?"),
        ([0, 5], {"label_names": ["a", "b"]}, "found the id 5"),
        (["a", ["b"]], {}, "expected a list of labels (problem=multi_label), found 'a'"),
        ([["a"]], {"problem": "single_label"}, "expected one label"),
        (["0.14", "2", "n/a", "1.5"], {}, "expected scores, as most are, found 'n/a' (1 rows) among them"),
        (["-1", "pos", "neg", "pos"], {}, "negative id -1 beside names such as 'pos' (2 rows), 'neg'"),
        (["a", "b", ["b"], "a"], {}, "row 2: label: expected one label (problem=single_label), found ['b']"),
        (["a", "b", " "], {}, "row 2: label: expected a name or an id, found ' '"),
        (["a", 0.5], {}, "expected a number (regression), found 'a'"),
        ([1.5, 2], {"num_labels": 2}, "scores (regression) have no labels"),
        ([{"a": 1}, "b"], {}, "expected a name or an id"),
        ([[0, 1, 1, 0], [1, 0, 0, 0]], {}, "vectors of 0 and 1 are not read"),
        ([[0, 1], [1, 0]], {}, "found vectors of 0 and 1, [0, 1] and [1, 0] alone"),
        ([[], []], {}, "at least one label in some row, found none"),
    ],
)
def test_what_is_wrong_is_told(values: list[Any], options: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as error:
        learn(values, **options)
    assert told in str(error.value)


def test_faults_list_the_labels_found() -> None:
    with pytest.raises(UserError, match=r"labels found \(rows\): 0 \(2\), 1 \(1\), 3 \(1\)"):
        learn([0, 0, 1, 3])


def test_an_unknown_label_of_an_evaluation_row_is_refused() -> None:
    labels = learn(["sports", "science"])
    with pytest.raises(
        ValueError, match=r"one of the 2 labels science, sports .*found 'sport'. Did you mean 'sports'"
    ):
        labels.targets("sport")


def test_labels_that_the_data_set_names_keep_its_order() -> None:
    labels = learn(["b", "a", "b"], declared=("b", "a"))
    assert (labels.names, labels.counts) == (("b", "a"), (2, 1))
    assert learn([["b"], []], declared=("b",)).problem == "multi_label"
    # Evaluation data may have the ids.
    assert labels.targets(1) == labels.targets("a") == [1.0]
    assert learn(["b", "a"], declared=("b", "a"), label_names=["a", "b"]).names == ("a", "b")
    known = Labels(problem="single_label", names=("a", "b", "c"), of_model=True)
    assert learn(["b", "a"], known, declared=("b", "a")).names == ("a", "b", "c")


def test_numbers_that_the_data_set_names_are_names() -> None:
    stars = learn(["5", "1", "3"], declared=("1", "3", "5"))
    assert (stars.names, stars.targets("3"), stars.targets(1)) == (("1", "3", "5"), [1.0], [0.0])
    halves = learn(["0.5", "1.5"], declared=("1.5", "0.5"))
    assert (halves.problem, halves.names) == ("single_label", ("1.5", "0.5"))


def test_a_label_that_the_data_set_names_and_no_row_has() -> None:
    with pytest.raises(UserError) as caught:
        learn(["b", "a"], declared=("b", "a", "c"))
    assert caught.value.faults[0] == (
        "label_names: no training row has c; give the others, which the data set names too, or add rows"
    )
    assert learn(["b", "a"], declared=("b", "a", "c"), label_names=["b", "a"]).names == ("b", "a")
    with pytest.raises(UserError, match="found the id -1"):
        learn(["b", "a", "-1"], declared=("b", "a"))
