"""Data that a loss can't learn from is refused before a model is built."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from swift_core.data.dataset import load_data
from swift_core.spec import TaskSpec
from swift_reranker import losses
from swift_reranker.layouts import COLUMNS, GATHER, LAYOUTS
from swift_reranker.requirements import TARGETS, Findings, check_training

SPEC = TaskSpec(
    name="reranker",
    summary="Scores of documents for a query.",
    implementation="swift_reranker.hooks",
    columns=COLUMNS,
    layouts=LAYOUTS,
    gather=GATHER,
)


def check(loss: str, *rows: tuple[list[float] | None, list[float] | None]) -> Findings:
    """Findings on one list for each pair of labels and scores."""
    made: list[dict[str, Any]] = []
    for number, (labels, scores) in enumerate(rows):
        documents = [f"d{n}" for n in range(len(labels or scores or ()))]
        made.append({"query": f"q{number}", "documents": documents, "labels": labels, "scores": scores})
    data = load_data(made, name="train", spec=SPEC, columns={}, split="train", config=None)
    return check_training(data.records, loss)


def test_every_loss_is_known() -> None:
    public = {
        name
        for name, function in inspect.getmembers(losses, inspect.isfunction)
        if function.__module__ == losses.__name__ and not name.startswith("_")
    }
    assert set(TARGETS) == public


@pytest.mark.parametrize("loss", TARGETS)
def test_data_with_all_that_is_needed_is_taken(loss: str) -> None:
    found = check(loss, ([1, 0], [3, -2]), ([0, 1, 0], [1, 2, 3]))
    assert found == Findings(faults=[], warnings=[])


@pytest.mark.parametrize("loss", TARGETS)
def test_what_a_loss_learns_from_must_be_in_every_list(loss: str) -> None:
    rows = [([1.0, 0.0], [3.0, 1.0]), ([1.0], None), (None, [2.0, 1.0]), ([1.0, 0.0], None)]
    found = check(loss, *rows)
    if TARGETS[loss] == "scores":
        part = "expected scores for every document, found that 2 of 4 lists have none (the first is list 2)"
    else:
        part = "expected a label for every document, found that 1 of 4 lists have none (the first is list 3)"
    assert len(found.faults) == 1
    assert found.faults[0].startswith(f"loss: {loss} learns from ")
    assert part in found.faults[0]


def test_binary_cross_entropy_takes_labels_from_0_to_1() -> None:
    assert check("binary_cross_entropy", ([0.3, 0.9], None), ([1], None)).faults == []
    found = check("binary_cross_entropy", ([1, 0], None), ([1, 3], None), ([2, 0], None))
    assert found.faults == [
        "loss: binary_cross_entropy expects labels from 0 to 1, found others in 2 of 3 lists (the first is 3 "
        "in list 2); for grades choose lambda_loss or mean_squared_error, or scale them"
    ]


@pytest.mark.parametrize("loss", ["binary_cross_entropy", "mean_squared_error"])
def test_one_label_for_everything_teaches_nothing(loss: str) -> None:
    [fault] = check(loss, ([1, 1], None), ([1], None)).faults
    assert (
        f"{loss} would learn one number for everything: every document of the data has the label 1" in fault
    )
    # Within each list equal, but not in all the data.
    assert check(loss, ([1, 1], None), ([0], None)).faults == []


@pytest.mark.parametrize(
    "loss", [name for name in TARGETS if "cross_entropy" not in name and "mean" not in name]
)
def test_a_loss_of_lists_needs_something_to_compare(loss: str) -> None:
    same, differ = ([2.0, 2.0], [0.5, 0.5]), ([1.0, 2.0], [0.5, 0.25])
    [fault] = check(loss, same, ([1.0], [1.0])).faults
    expected = (
        f"loss: nothing to compare: {loss} expects lists with two documents with different {TARGETS[loss]}"
    )
    assert fault.startswith(expected)
    assert "found none among 2 lists" in fault
    found = check(loss, differ, same, same)
    assert found.faults == []
    assert found.warnings == [
        f"2 of 3 lists have nothing for {loss} to compare (the first is list 2): it expects two documents "
        f"with different {TARGETS[loss]}"
    ]


def test_softmax_needs_a_positive_and_a_negative() -> None:
    loss = "softmax_cross_entropy"
    [fault] = check(loss, ([1, 2], None), ([0, 0], None)).faults
    assert "lists with a document with a label above 0 and one with 0, found none among 2 lists" in fault
    found = check(loss, ([1, 2], None), ([0, 2], None))
    assert found.faults == []
    assert found.warnings[0].startswith(
        f"1 of 2 lists have nothing for {loss} to compare (the first is list 1)"
    )


@pytest.mark.parametrize("size", [1, 2, 3])
def test_lists_are_counted_across_pieces(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swift_reranker.requirements._ROWS_AT_ONCE", size)
    rows = [([1, 0], None), ([1], None), ([0, 0, 1], None), ([2, 2], None), ([0, 1], None)]
    found = check("lambda_loss", *rows)
    assert found.warnings[0].startswith(
        "2 of 5 lists have nothing for lambda_loss to compare (the first is list 2)"
    )
    monkeypatch.setattr("swift_core.data.records._CHUNK_ROWS", size)
    assert check("lambda_loss", *rows) == found
