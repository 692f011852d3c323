"""What counts as a negative, in one process and in the joint batch of several."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing

from swift_embedding.objective import Vectors, compute
from swift_embedding.options import EmbeddingOptions
from swift_embedding.relations import Relations, contrast_of


def relations(rows: list[tuple[int, list[int], list[int]]]) -> Relations:
    """Rows of a query's number, the numbers of its answers, and of its negatives."""
    place: dict[int, int] = {}
    pairs = [
        (row, place.setdefault(number, len(place)), answers)
        for row, (_, positives, negatives) in enumerate(rows)
        for numbers, answers in ((positives, True), (negatives, False))
        for number in numbers
    ]
    queries = torch.tensor([query for query, _, _ in rows])
    row, document, answers = zip(*pairs, strict=True)
    return Relations(
        topics=queries,
        texts=queries,
        documents=torch.tensor(list(place)),
        row=torch.tensor(row),
        document=torch.tensor(document),
        answers=torch.tensor(answers),
        scores=None,
    )


def names(mask: torch.Tensor, batch: Relations) -> list[set[int]]:
    return [{int(batch.documents[n]) for n in row.nonzero()} for row in mask]


def test_every_other_document_is_a_negative_and_several_answers_are_all_used():
    batch = relations([(1, [11, 12], [13]), (2, [21], [])])
    contrast = contrast_of(batch, batch, in_batch=True)
    assert names(contrast.positive, batch) == [{11, 12}, {21}]
    assert names(contrast.negative, batch) == [{13, 21}, {11, 12, 13}]


def test_what_another_row_calls_the_answer_to_the_same_query_is_an_answer():
    batch = relations([(1, [11], [12]), (1, [12], []), (2, [21], [])])
    contrast = contrast_of(batch, batch, in_batch=True)
    assert names(contrast.positive, batch) == [{11, 12}, {11, 12}, {21}]
    assert names(contrast.negative, batch) == [{21}, {21}, {11, 12}]


def test_a_document_that_is_the_query_itself_is_no_negative():
    batch = relations([(1, [11], []), (2, [1], [])])
    assert names(contrast_of(batch, batch, in_batch=True).negative, batch) == [set(), {11}]


def test_without_in_batch_negatives_a_row_has_its_own():
    batch = relations([(1, [11], [12]), (2, [21], [22])])
    contrast = contrast_of(batch, batch, in_batch=False)
    assert names(contrast.positive, batch) == [{11}, {21}]
    assert names(contrast.negative, batch) == [{12}, {22}]


def test_queries_of_the_other_direction_and_of_the_same_side():
    batch = relations([(1, [11], []), (1, [12], []), (2, [21], [])])
    contrast = contrast_of(batch, batch, in_batch=True)
    # The document 21 may be contrasted with query 1, once; those of query 1 only with query 2.
    assert contrast.reverse.int().tolist() == [[0, 0, 1], [0, 0, 0], [1, 1, 0]]
    assert contrast.other_queries.int().tolist() == [[0, 0, 1], [0, 0, 1], [1, 0, 0]]


def labelled(labels: list[int], texts: list[int]) -> Relations:
    count = len(labels)
    pairs = torch.tensor([(i, j) for i in range(count) for j in range(count) if i != j])
    topics = torch.tensor(labels)
    return Relations(
        topics=topics,
        texts=torch.tensor(texts),
        documents=torch.tensor(texts),
        row=pairs[:, 0],
        document=pairs[:, 1],
        answers=topics[pairs[:, 0]] == topics[pairs[:, 1]],
        scores=None,
        labelled=True,
    )


def test_texts_with_the_same_label_are_each_others_answers_and_equal_texts_count_once():
    batch = labelled([7, 7, 8, 8, 9], [1, 2, 3, 3, 4])
    contrast = contrast_of(batch, batch, in_batch=True)
    assert names(contrast.positive, batch) == [{2}, {1}, set(), set(), set()]
    assert names(contrast.negative, batch) == [{3, 4}, {3, 4}, {1, 2, 4}, {1, 2, 4}, {1, 2, 3}]


ROWS = [
    (1, [11, 12], [13]),
    (2, [21], [11]),
    (1, [14], []),
    # The second process: a document and a query of the first one among them, and fewer rows.
    (3, [21, 31], [32]),
    (1, [12], [33, 34, 35]),
]
SHARES = [ROWS[:3], ROWS[3:]]
OPTIONS = [
    {},
    {"query_negatives": True, "document_negatives": True},
    {"symmetric": True},
    {"matryoshka_dims": [8, 4], "false_negative_margin": -0.2},
]


def vectors_of(batch: Relations) -> tuple[torch.Tensor, torch.Tensor]:
    table = torch.nn.functional.normalize(
        torch.randn(40, 8, generator=torch.Generator().manual_seed(0)), dim=1
    )
    return table[batch.texts].requires_grad_(), table[batch.documents].requires_grad_()


def loss_of(batch: Relations, options: dict) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    queries, documents = vectors_of(batch)
    task = EmbeddingOptions(**options)
    described = {"relations": batch, "source": 0, "kind": "answers"}
    loss, _ = compute(Vectors(queries, documents), described, task)
    return loss, queries, documents


def by_text(batch: Relations, gradients: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Sum of the gradients of each text; a text in several processes has a part in each."""
    total = torch.zeros(2, 40, 8)
    total[0].index_add_(0, batch.texts, gradients[0])
    total[1].index_add_(0, batch.documents, gradients[1])
    return total


def _process(rank: int, folder: Path) -> None:
    distributed.init_process_group("gloo", rank=rank, world_size=2, init_method=f"file://{folder}/meeting")
    found = []
    for options in OPTIONS:
        batch = relations(SHARES[rank])
        loss, queries, documents = loss_of(batch, options)
        weighed = loss * len(SHARES[rank]) / len(ROWS)
        weighed.backward()
        total, figure = by_text(batch, (queries.grad, documents.grad)), weighed.detach().clone()
        distributed.all_reduce(figure)
        distributed.all_reduce(total)
        found.append({"loss": figure, "total": total})
    if rank == 0:
        # As the comparison of a saved model does: one process alone, without gradients, while others wait.
        alone, _ = compute(
            Vectors(queries.detach(), documents.detach()),
            {"relations": batch, "source": 0, "kind": "answers"},
            EmbeddingOptions(),
        )
        assert alone.isfinite()
        torch.save(found, folder / "found.pt")
    distributed.barrier()
    distributed.destroy_process_group()


def test_two_processes_have_the_loss_and_gradients_of_one_with_the_joint_batch(tmp_path: Path):
    multiprocessing.spawn(_process, args=(tmp_path,), nprocs=2)
    batch = relations(ROWS)
    for found, options in zip(torch.load(tmp_path / "found.pt", weights_only=True), OPTIONS, strict=True):
        loss, queries, documents = loss_of(batch, options)
        loss.backward()
        assert found["loss"].item() == pytest.approx(loss.item(), rel=1e-5), options
        assert torch.allclose(found["total"], by_text(batch, (queries.grad, documents.grad)), atol=1e-5)
