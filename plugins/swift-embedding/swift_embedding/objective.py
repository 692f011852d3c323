"""Which loss the rows of a batch get, and how a batch is put before it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from swift_core.errors import UserError
from swift_embedding import losses
from swift_embedding.relations import (
    Relations,
    contrast_of,
    gathered,
    gathered_relations,
    is_distributed,
)

if TYPE_CHECKING:
    from swift_embedding.options import EmbeddingOptions, LossName

Kind = Literal["answers", "scored", "labelled"]
"""Queries with answers, pairs with a score, or texts with a label."""

DEFAULT_LOSS: Mapping[Kind, LossName] = {"answers": "infonce", "scored": "cosent", "labelled": "infonce"}

SUITED: Mapping[LossName, tuple[Kind, ...]] = {
    "infonce": ("answers", "labelled"),
    "cosent": ("answers", "scored"),
    "angle": ("answers", "scored"),
    "cosine": ("answers", "scored"),
    "triplet": ("answers", "labelled"),
    "online_contrastive": ("answers", "scored", "labelled"),
    "margin_mse": ("answers",),
    "kl": ("answers",),
}
"""What each loss can learn from."""

USES: Mapping[LossName, frozenset[str]] = {
    "infonce": frozenset(
        {
            "temperature",
            "use_inbatch_negatives",
            "gather_negatives",
            "query_negatives",
            "document_negatives",
            "symmetric",
            "guide_model",
            "false_negative_margin",
        }
    ),
    "cosent": frozenset({"temperature"}),
    "angle": frozenset({"temperature"}),
    "cosine": frozenset(),
    "triplet": frozenset({"margin"}),
    "online_contrastive": frozenset({"margin"}),
    "margin_mse": frozenset(),
    "kl": frozenset({"temperature", "teacher_temperature"}),
}
"""Options that a loss reads; one that no loss of a run reads is refused."""

_TRIPLET_MARGIN = 0.2
_CONTRASTIVE_MARGIN = 0.5


class Vectors(NamedTuple):
    """Vectors of a batch: queries [B, D], documents [N, D]."""

    queries: Tensor
    documents: Tensor


def loss_name(task: EmbeddingOptions, source: int, kind: Kind) -> LossName:
    """The loss for rows of data set number ``source``."""
    if task.loss is None:
        return DEFAULT_LOSS[kind]
    return task.loss if isinstance(task.loss, str) else task.loss[source]


def compute(
    vectors: Vectors,
    batch: Mapping[str, Any],
    task: EmbeddingOptions,
    guide: Vectors | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a batch as :class:`swift_embedding.collator.EmbeddingCollator` makes it.

    With ``matryoshka_dims`` it is sum_d w_d L(v[:d] / |v[:d]|) (Kusupati et al. 2022, equation 1).

    Args:
        vectors: of the model, with gradients.
        batch: its ``relations``, ``source`` and ``kind``.
        task: the options.
        guide: vectors of the same texts by the guide.

    Returns:
        The loss (scalar) and figures to log beside it.
    """
    name = loss_name(task, batch["source"], batch["kind"])
    weight = task.loss_weights[batch["source"]] if task.loss_weights else 1.0
    dims = task.matryoshka_dims or [vectors.queries.shape[1]]
    if name == "infonce":
        parts = _info_nce(vectors, batch["relations"], task, guide, dims)
    else:
        # Distances among a batch are cheap beside its vectors, so each cut is a loss of its own.
        cuts = [_cut(vectors, dim, task.normalize_embeddings) for dim in dims]
        parts = [(_other_loss(name, cut, batch["relations"], batch["kind"], task), {}) for cut in cuts]
    weights = task.matryoshka_weights or [1.0] * len(dims)
    total = sum(w * loss for w, (loss, _) in zip(weights, parts, strict=True))
    figures = dict(parts[max(range(len(dims)), key=dims.__getitem__)][1])
    return weight * torch.as_tensor(total), figures


def _cut(vectors: Vectors, dim: int, normalize: bool) -> Vectors:
    if dim == vectors.queries.shape[1]:
        return vectors
    parts = (vectors.queries[:, :dim], vectors.documents[:, :dim])
    return Vectors(*(functional.normalize(part, dim=-1) if normalize else part for part in parts))


def _info_nce(
    vectors: Vectors, relations: Relations, task: EmbeddingOptions, guide: Vectors | None, dims: list[int]
) -> list[tuple[Tensor, dict[str, Tensor]]]:
    own, pool, joint = vectors, vectors, relations
    # Without gradients it is a look at one process' own loss, such as the comparison of a saved model.
    trains = vectors.queries.requires_grad and is_distributed()
    if trains and task.gather_negatives and task.use_inbatch_negatives:
        joint = gathered_relations(relations)
        pool = Vectors(gathered(vectors.queries), gathered(vectors.documents))
        guide = guide and Vectors(guide.queries, gathered(guide.documents))
    contrast = contrast_of(relations, joint, in_batch=task.use_inbatch_negatives)
    likeness = None
    if guide is not None:
        likeness = guide.queries @ guide.documents.T
    elif task.false_negative_margin is not None:
        likeness = own.queries.detach().float() @ pool.documents.detach().float().T
    found = []
    for dim in dims:
        queries = _cut(own, dim, task.normalize_embeddings).queries
        others = _cut(pool, dim, task.normalize_embeddings)
        loss, accuracy = losses.info_nce(
            queries,
            others.documents,
            contrast.positive,
            contrast.negative,
            temperature=task.temperature,
            likeness=likeness,
            margin=task.false_negative_margin or 0.0,
            other_queries=(others.queries, contrast.other_queries) if task.query_negatives else None,
            other_documents=~contrast.own if task.document_negatives else None,
            reverse=(others.queries, contrast.reverse) if task.symmetric else None,
        )
        found.append((loss, {"accuracy": accuracy}))
    return found


def _other_loss(
    name: LossName, vectors: Vectors, relations: Relations, kind: Kind, task: EmbeddingOptions
) -> Tensor:
    if name in ("triplet", "margin_mse"):
        return _loss_of_triples(name, vectors, relations, task)
    if name == "kl":
        student, teacher = _lists(vectors, relations, _teacher(name, relations))
        return losses.kl_divergence(
            student, teacher, temperature=task.temperature, teacher_temperature=task.teacher_temperature
        )
    scores = relations.answers.float() if relations.scores is None else relations.scores
    if name == "online_contrastive":
        answers = scores > 0 if kind == "scored" else relations.answers
        cosines = _cosines(vectors)[relations.row, relations.document]
        return losses.online_contrastive(cosines, answers, margin=task.margin or _CONTRASTIVE_MARGIN)
    left, right = vectors.queries[relations.row], vectors.documents[relations.document]
    if name == "cosine":
        return losses.cosine_similarity(left, right, scores)
    ordering = losses.cosent if name == "cosent" else losses.angle
    return ordering(left, right, scores, temperature=task.temperature)


def _loss_of_triples(
    name: LossName, vectors: Vectors, relations: Relations, task: EmbeddingOptions
) -> Tensor:
    near, far = _triples(relations)  # [T] and [T], numbers of pairs
    row, rows = relations.row[near], len(relations.topics)
    # One product of matrices, and single numbers out of it: triples of labelled texts are very many.
    values = _cosines(vectors) if name == "triplet" else vectors.queries.float() @ vectors.documents.float().T
    of_pairs = values[relations.row, relations.document]  # [P]
    if name == "triplet":
        margin = task.margin or _TRIPLET_MARGIN
        return losses.triplet(of_pairs[near], of_pairs[far], row, rows, margin=margin)
    teacher = _teacher(name, relations)
    return losses.margin_mse(of_pairs[near], of_pairs[far], teacher[near] - teacher[far], row, rows)


def _cosines(vectors: Vectors) -> Tensor:
    """[B, N]"""
    queries, documents = (functional.normalize(side.float(), dim=1) for side in vectors)
    return queries @ documents.T


def _teacher(name: LossName, relations: Relations) -> Tensor:
    if relations.scores is None:
        raise UserError(f"loss: {name} needs positive_scores and negative_scores in every row")
    return relations.scores


def _triples(relations: Relations) -> tuple[Tensor, Tensor]:
    """Each answer with each other document of its row, as numbers of pairs."""
    counts = torch.bincount(relations.row, minlength=len(relations.topics)).tolist()
    pairs = torch.arange(len(relations.row), device=relations.row.device)
    near, far = [], []
    for own, answers in zip(pairs.split(counts), relations.answers.split(counts), strict=True):
        right, wrong = own[answers], own[~answers]
        near.append(right.repeat_interleave(len(wrong)))
        far.append(wrong.repeat(len(right)))
    return torch.cat(near), torch.cat(far)


def _lists(vectors: Vectors, relations: Relations, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """[B, K] and [B, K]: scores of each row's documents by the model and by the teacher, -inf for none."""
    rows, pairs = len(relations.topics), len(relations.row)
    count = torch.bincount(relations.row, minlength=rows)
    begin = count.cumsum(0) - count
    slot = torch.arange(pairs, device=count.device) - begin[relations.row]  # pairs lie row after row
    scores = (vectors.queries[relations.row] * vectors.documents[relations.document]).float().sum(1)
    empty = torch.full((rows, int(count.max())), -torch.inf, device=count.device)
    place = (relations.row, slot)
    return empty.index_put(place, scores), empty.index_put(place, teacher.float())
