"""The losses, each a function of vectors. :mod:`swift_embedding.objective` chooses among them for a batch.

Vectors come in any float type and are compared in float32 at least. cos is the cosine of two vectors.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

# Shape legend: B queries, N documents, P pairs, T triples, K documents of a row, D dimensions.


def info_nce(
    queries: Tensor,
    documents: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    temperature: float,
    likeness: Tensor | None = None,
    margin: float = 0.0,
    other_queries: tuple[Tensor, Tensor] | None = None,
    other_documents: Tensor | None = None,
    reverse: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Contrast each query's answers with other documents.

    .. math:: L = \frac{1}{B} \sum_i \frac{1}{|P_i|} \sum_{p \in P_i} \log
        \left(1 + \sum_{n \in N_{ip}} \exp((s_n - q_i \cdot d_p) / \tau)\right)

    where s_n is q_i . d_n for a negative document, and where asked for q_i . q_n for another query, and
    d_p . d_n for another document seen from the answer. van den Oord et al. 2018, "Representation Learning
    with Contrastive Predictive Coding", equation 4; in-batch and hard negatives: Karpukhin et al. 2020 (DPR);
    further terms: Li et al. 2023 (GTE), equation 3; leaving out what is too much alike: Solatorio 2024
    (GISTEmbed). For labelled texts it is L_out of Khosla et al. 2020 (SupCon) with the other answers left out
    of the sum.

    Args:
        queries: q, [B, D]; one without an answer adds 0 to the mean.
        documents: d, [N, D]; each text once.
        positive: P, [B, N] bool.
        negative: N, [B, N] bool.
        temperature: tau.
        likeness: [B, N] how like a document is to the query, as a guide says. A negative that is more like
            it than the answer is by more than ``margin`` does not count. None: all negatives count.
        margin: see ``likeness``.
        other_queries: vectors [B', D] and a mask [B, B'] of queries that count as negatives of a query.
        other_documents: [B, N] bool, documents that count as negatives of a query's answer.
        reverse: vectors [B', D] and a mask [B', N] of queries that count as negatives of a document. The loss
            is then the mean of both directions.

    Returns:
        The loss (scalar) and the share of answers that score above all negatives.
    """
    queries, documents = _precise(queries), _precise(documents)
    scores = queries @ documents.T / temperature  # [B, N]
    row, column = positive.nonzero(as_tuple=True)  # [P]
    answer = scores[row, column]  # [P]
    if likeness is None:
        # The same for all answers of a query: with labels there are far more of these than queries.
        wrong = scores.masked_fill(~negative, -torch.inf)  # [B, N]
        terms, best = [answer, wrong.logsumexp(1)[row]], wrong.amax(1)[row]
    else:
        counts = negative[row] & (likeness[row] <= likeness[row, column][:, None] + margin)  # [P, N]
        wrong = scores[row].masked_fill(~counts, -torch.inf)
        terms, best = [answer, wrong.logsumexp(1)], wrong.amax(1)
    if other_queries is not None:
        others, mask = other_queries
        likes = (queries @ _precise(others).T / temperature).masked_fill(~mask, -torch.inf)  # [B, B']
        terms.append(likes.logsumexp(1)[row])
    if other_documents is not None:
        counts = (negative[row] if likeness is None else counts) & other_documents[row]
        likes = documents[column] @ documents.T / temperature  # [P, N]
        terms.append(likes.masked_fill(~counts, -torch.inf).logsumexp(1))
    losses = torch.stack(terms).logsumexp(0) - answer  # [P]
    if reverse is not None:
        others, mask = reverse
        back = (documents @ _precise(others).T / temperature).masked_fill(~mask.T, -torch.inf)  # [N, B']
        losses = (losses + torch.logaddexp(answer, back.logsumexp(1)[column]) - answer) / 2
    hits = (answer > best).float().detach()
    return _mean_of_rows(losses, row, len(queries)), hits.sum() / max(len(hits), 1)


def cosent(left: Tensor, right: Tensor, scores: Tensor, *, temperature: float) -> Tensor:
    r"""Order pairs by their cosine as their scores order them.

    .. math:: L = \log\left(1 + \sum_{y_i < y_j} \exp((\cos_i - \cos_j) / \tau)\right)

    Huang et al. 2024, "CoSENT: Consistent Sentence Embedding via Similarity Ranking", equation 4.

    Args:
        left: [P, D]
        right: [P, D]
        scores: y, [P]
        temperature: tau.
    """
    return _ordered(functional.cosine_similarity(_precise(left), _precise(right)), scores, temperature)


def angle(left: Tensor, right: Tensor, scores: Tensor, *, temperature: float) -> Tensor:
    r"""Order pairs as :func:`cosent` does, by their difference of angle in complex space.

    A vector's two halves are the real and the imaginary parts of complex numbers. Of vectors z and w of
    length 1 the value is |sum(re z/w) + sum(im z/w)| = |cos + sin| with sin = sum(im z re w - re z im w).
    Li and Li 2024, "AnglE-optimized Text Embeddings", equations 5 to 8.

    Args:
        left: z, [P, D]; a zero is put after an odd D.
        right: w, [P, D]
        scores: y, [P]
        temperature: tau.
    """
    parts = [functional.normalize(_precise(side), dim=1) for side in (left, right)]
    odd = left.shape[1] % 2
    z, w = (functional.pad(part, (0, odd)).unflatten(1, (2, -1)) for part in parts)  # [P, 2, D / 2]
    sine = (z[:, 1] * w[:, 0] - z[:, 0] * w[:, 1]).sum(1)
    return _ordered(((z * w).sum((1, 2)) + sine).abs(), scores, temperature)


def _ordered(values: Tensor, scores: Tensor, temperature: float) -> Tensor:
    below = scores[:, None] < scores[None]  # [P, P]
    differences = (values[:, None] - values[None]) / temperature
    above = differences.masked_fill(~below, -torch.inf).flatten()
    return torch.cat([values.new_zeros(1), above]).logsumexp(0)


def cosine_similarity(left: Tensor, right: Tensor, scores: Tensor) -> Tensor:
    r"""Bring the cosine of each pair to its score: L = mean((cos_i - y_i)^2). Reimers and Gurevych 2019, 3.

    Args:
        left: [P, D]
        right: [P, D]
        scores: y, [P], from -1 to 1.
    """
    return functional.mse_loss(functional.cosine_similarity(_precise(left), _precise(right)), scores.float())


def online_contrastive(cosines: Tensor, answers: Tensor, *, margin: float) -> Tensor:
    r"""Bring answers close and push the rest away, only where a batch is not right yet.

    With d = 1 - cos: the sum of d^2 over answers with d above the smallest d of the rest, and of
    max(0, margin - d)^2 over the rest with d below the largest d of the answers. Hadsell et al. 2006,
    "Dimensionality Reduction by Learning an Invariant Mapping", equation 4, with the choice of hard pairs
    of sentence-transformers.

    Args:
        cosines: [P]
        answers: [P] bool
        margin: distance from which on the rest are left alone.
    """
    distance = 1 - cosines
    near, far = distance[answers], distance[~answers]
    # Of pairs of one kind only, those worse than their mean count.
    near_from = far.min() if len(far) else near.mean()
    far_to = near.max() if len(near) else far.mean()
    hard, loose = near[near > near_from], far[far < far_to]
    return hard.square().sum() + functional.relu(margin - loose).square().sum()


def triplet(near: Tensor, far: Tensor, row: Tensor, rows: int, *, margin: float) -> Tensor:
    r"""Keep answers closer than other documents, by a margin.

    .. math:: L = \frac{1}{B} \sum_i \frac{1}{|T_i|} \sum_{(p, n) \in T_i}
        \max(0, \cos(q_i, d_n) - \cos(q_i, d_p) + m)

    Hermans et al. 2017, "In Defense of the Triplet Loss", equation 1, with the distance 1 - cos.

    Args:
        near: [T] cosines of queries and their answers.
        far: [T] cosines of the same queries and other documents.
        row: [T] which query of the batch each triple belongs to.
        rows: B; a query without a triple adds 0.
        margin: m.
    """
    return _mean_of_rows(functional.relu(far - near + margin), row, rows)


def margin_mse(near: Tensor, far: Tensor, teacher: Tensor, row: Tensor, rows: int) -> Tensor:
    r"""Give each triple the margin that a teacher gives it.

    .. math:: L = \frac{1}{B} \sum_i \frac{1}{|T_i|} \sum_{(p, n) \in T_i} (q_i p - q_i n - (t_p - t_n))^2

    Hofstätter et al. 2020, "Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge
    Distillation", equation 4.

    Args:
        near: [T] q_i . p
        far: [T] q_i . n
        teacher: [T] t_p - t_n
        row: [T] which query of the batch each triple belongs to.
        rows: B; a query without a triple adds 0.
    """
    return _mean_of_rows((near - far - teacher).square(), row, rows)


def kl_divergence(
    student: Tensor, teacher: Tensor, *, temperature: float, teacher_temperature: float
) -> Tensor:
    r"""Give the documents of a row the distribution that a teacher gives them.

    .. math:: L = \frac{1}{B} \sum_i KL(softmax(t_i / \tau_t) \| softmax(s_i / \tau))

    Lin et al. 2020, "Distilling Dense Representations for Ranking using Tightly-Coupled Teachers", 3.2.

    Args:
        student: s, [B, K] scores of each row's documents, -inf where it has fewer.
        teacher: t, [B, K] the same of the teacher.
        temperature: tau.
        teacher_temperature: tau_t.
    """
    log_share = (student / temperature).log_softmax(1)
    target = (teacher.float() / teacher_temperature).log_softmax(1)
    there = target > -torch.inf
    # Not torch's kl_div: what is not there is -inf in both, and would give a gradient that is no number.
    difference = (target - log_share).masked_fill(~there, 0.0)
    return (target.exp() * difference).sum(1).mean()


def _precise(vectors: Tensor) -> Tensor:
    return vectors.to(torch.promote_types(vectors.dtype, torch.float32))


def _mean_of_rows(values: Tensor, row: Tensor, rows: int) -> Tensor:
    """Mean over all rows of the mean of each row's values; a row without any counts as 0."""
    count = torch.bincount(row, minlength=rows)  # [B]
    return (values / count[row]).sum() / rows
