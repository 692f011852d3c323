"""Each loss equals that of sentence-transformers, gradients too, or a float64 loop where it has none."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses as peers
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from torch.nn import functional

from swift_core import TrainingArguments
from swift_embedding import hooks, losses
from swift_embedding.losses import info_nce

NOBODY = SimpleNamespace()


def raw_vectors(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_vectors(*shape: int, seed: int = 0) -> torch.Tensor:
    return functional.normalize(raw_vectors(*shape, seed=seed), dim=-1)


def diagonal(rows: int, columns: int) -> torch.Tensor:
    return torch.eye(rows, columns, dtype=torch.bool)


def same(mine: list[torch.Tensor], loss: torch.Tensor, theirs: list[torch.Tensor], expected: torch.Tensor):
    """Loss and gradients of both sides agree."""
    loss.backward()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)
    for a, b in zip(mine, theirs, strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-5)


def twins(*parts: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    return [p.clone().requires_grad_() for p in parts], [p.clone().requires_grad_() for p in parts]


@pytest.mark.parametrize(
    ("directions", "negatives", "temperature"),
    [
        ((), 0, 0.05),
        ((), 3, 0.02),
        ((), 1, 1.0),
        (("query_to_query",), 2, 0.05),
        (("doc_to_doc",), 2, 0.05),
        (("query_to_query", "doc_to_doc"), 0, 0.1),
    ],
)
def test_info_nce_and_its_terms(directions: tuple[str, ...], negatives: int, temperature: float):
    batch, dimension = 8, 16
    mine, theirs = twins(*(raw_vectors(batch, dimension, seed=n) for n in range(2 + negatives)))
    peer = MultipleNegativesRankingLoss(
        NOBODY, scale=1 / temperature, directions=("query_to_doc", *directions), partition_mode="joint"
    )
    expected = peer.compute_loss_from_embeddings(theirs, None)

    queries, *documents = [functional.normalize(part, dim=-1) for part in mine]
    positive = diagonal(batch, batch * (1 + negatives))
    own = diagonal(batch, batch).repeat(1, 1 + negatives)
    loss, _ = info_nce(
        queries,
        torch.cat(documents),
        positive,
        ~positive,
        temperature=temperature,
        other_queries=(queries, ~diagonal(batch, batch)) if "query_to_query" in directions else None,
        other_documents=~own if "doc_to_doc" in directions else None,
    )
    same(mine, loss, theirs, expected)


def test_symmetric_info_nce():
    mine, theirs = twins(*(raw_vectors(8, 16, seed=n) for n in range(3)))
    peer = MultipleNegativesRankingLoss(
        NOBODY, scale=20, directions=("query_to_doc", "doc_to_query"), partition_mode="per_direction"
    )
    expected = peer.compute_loss_from_embeddings(theirs, None)
    queries, *documents = [functional.normalize(part, dim=-1) for part in mine]
    positive = diagonal(8, 16)
    loss, _ = info_nce(
        queries,
        torch.cat(documents),
        positive,
        ~positive,
        temperature=0.05,
        reverse=(queries, ~positive),
    )
    same(mine, loss, theirs, expected)


def test_several_answers_excluded_documents_and_labels_in_a_float64_loop():
    queries, documents = random_vectors(3, 8), random_vectors(5, 8, seed=1)
    positives = [{0, 2}, {1}, {4}]
    negatives = [{1, 4}, {0, 2, 3, 4}, {1, 2, 3}]
    positive, negative = (
        torch.tensor([[n in row for n in range(5)] for row in rows]) for rows in (positives, negatives)
    )
    total, hits = 0.0, []
    for i in range(3):
        s = [sum(float(a) * float(b) for a, b in zip(queries[i], d, strict=True)) / 0.1 for d in documents]
        wrong = [s[n] for n in negatives[i]]
        each = [math.log(math.exp(s[p]) + sum(map(math.exp, wrong))) - s[p] for p in positives[i]]
        total += sum(each) / len(each)
        hits += [s[p] > max(wrong) for p in positives[i]]
    loss, accuracy = info_nce(queries, documents, positive, negative, temperature=0.1)
    assert loss.item() == pytest.approx(total / 3, abs=1e-5)
    assert accuracy.item() == pytest.approx(sum(hits) / 4)


def test_a_query_without_an_answer_adds_nothing_and_no_nan():
    queries, documents = twins(random_vectors(2, 4))[0][0], random_vectors(2, 4, seed=1)
    positive = torch.zeros(2, 2, dtype=torch.bool)
    loss, accuracy = info_nce(queries, documents, positive, ~positive, temperature=0.05)
    loss.backward()
    assert (loss.item(), accuracy.item(), queries.grad.abs().sum().item()) == (0, 0, 0)


@pytest.mark.parametrize("margin", [0.0, 0.1, -0.1])
def test_false_negatives_are_left_out_as_gist_embed_does(margin: float):
    mine, theirs = twins(*(raw_vectors(6, 8, seed=n) for n in range(3)))
    guide = [random_vectors(6, 4, seed=n) for n in range(10, 13)]

    class Replay:
        """Gives vectors that were made before, as a model would."""

        tokenizer = None

        def __init__(self, vectors):
            self.vectors = iter(vectors)

        def __call__(self, features):
            return {"sentence_embedding": next(self.vectors)}

    peer = peers.GISTEmbedLoss.__new__(peers.GISTEmbedLoss)
    torch.nn.Module.__init__(peer)
    peer.__dict__.update(
        model=Replay(theirs),
        guide=Replay(guide),
        must_retokenize=False,
        gather_across_devices=False,
        temperature=0.05,
        margin_strategy="absolute",
        margin=-margin,
        contrast_anchors=False,
        contrast_positives=False,
        similarity_fct=torch.nn.CosineSimilarity(dim=-1),
        cross_entropy_loss=torch.nn.CrossEntropyLoss(),
    )
    expected = peer([{} for _ in range(3)], None)
    queries, *documents = [functional.normalize(part, dim=-1) for part in mine]
    positive = diagonal(6, 12)
    loss, _ = info_nce(
        queries,
        torch.cat(documents),
        positive,
        ~positive,
        temperature=0.05,
        likeness=guide[0] @ torch.cat(guide[1:]).T,
        margin=margin,
    )
    without, _ = info_nce(queries, torch.cat(documents), positive, ~positive, temperature=0.05)
    assert loss.item() < without.item() - 1e-3
    same(mine, loss, theirs, expected)


@pytest.mark.parametrize("name", ["cosent", "angle"])
@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_losses_of_order(name: str, temperature: float):
    mine, theirs = twins(raw_vectors(9, 16), raw_vectors(9, 16, seed=1))
    scores = torch.tensor([0.1, 0.9, 0.4, 0.4, 1.0, 0.0, 0.3, 0.8, 0.5])
    peer = {"cosent": peers.CoSENTLoss, "angle": peers.AnglELoss}[name](NOBODY, scale=1 / temperature)
    expected = peer.compute_loss_from_embeddings(theirs, scores)
    same(mine, getattr(losses, name)(*mine, scores, temperature=temperature), theirs, expected)


def test_cosine_similarity():
    mine, theirs = twins(raw_vectors(9, 16), raw_vectors(9, 16, seed=1))
    scores = torch.linspace(-1, 1, 9)
    expected = peers.CosineSimilarityLoss(NOBODY).compute_loss_from_embeddings(theirs, scores)
    same(mine, losses.cosine_similarity(*mine, scores), theirs, expected)


@pytest.mark.parametrize("answers", [[1, 0, 1, 0, 0, 1, 1, 0, 1], [1] * 9, [0] * 9])
def test_online_contrastive(answers: list[int]):
    mine, theirs = twins(raw_vectors(9, 16), raw_vectors(9, 16, seed=1))
    peer = peers.OnlineContrastiveLoss(NOBODY, margin=0.5)
    expected = peer.compute_loss_from_embeddings(theirs, torch.tensor(answers))
    loss = losses.online_contrastive(
        functional.cosine_similarity(*mine), torch.tensor(answers).bool(), margin=0.5
    )
    if expected.requires_grad:
        same(mine, loss, theirs, expected)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)


def test_triplet_is_that_of_sentence_transformers_where_each_row_has_one():
    mine, theirs = twins(*(raw_vectors(9, 16, seed=n) for n in range(3)))
    metric = peers.TripletDistanceMetric.COSINE
    peer = peers.TripletLoss(NOBODY, distance_metric=metric, triplet_margin=0.2)
    expected = peer.compute_loss_from_embeddings(theirs, None)
    near, far = (functional.cosine_similarity(mine[0], part) for part in mine[1:])
    same(mine, losses.triplet(near, far, torch.arange(9), 9, margin=0.2), theirs, expected)


def test_rows_count_the_same_however_many_triples_they_have():
    parts = [raw_vectors(4, 8, seed=n) for n in range(3)]
    row = torch.tensor([0, 0, 0, 2])
    near, far = (functional.cosine_similarity(parts[0], part) for part in parts[1:])
    each = (far - near + 0.3).clamp(min=0)
    expected = (each[:3].mean() + each[3]) / 3
    assert losses.triplet(near, far, row, 3, margin=0.3).item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize("negatives", [1, 3])
def test_margin_mse(negatives: int):
    mine, theirs = twins(*(raw_vectors(6, 16, seed=n) for n in range(2 + negatives)))
    teacher = raw_vectors(6, 1 + negatives, seed=20)
    expected = peers.MarginMSELoss(NOBODY).compute_loss_from_embeddings(theirs, teacher)
    queries, positives, *others = mine
    row = torch.arange(6).repeat(negatives)
    loss = losses.margin_mse(
        (queries * positives).sum(1)[row],
        (queries[row] * torch.cat(others)).sum(1),
        torch.cat([teacher[:, 0] - teacher[:, 1 + n] for n in range(negatives)]),
        row,
        6,
    )
    same(mine, loss, theirs, expected)


def test_kl_divergence_and_ragged_rows():
    mine, theirs = twins(*(raw_vectors(6, 16, seed=n) for n in range(4)))
    teacher = raw_vectors(6, 3, seed=20)
    peer = peers.DistillKLDivLoss(NOBODY, temperature=2.0)
    # Theirs is scaled by the square of the temperature.
    expected = peer.compute_loss_from_embeddings(theirs, teacher) / 4
    student = torch.stack([(mine[0] * part).sum(1) for part in mine[1:]], dim=1)
    padded = functional.pad(student, (0, 2), value=-torch.inf)
    loss = losses.kl_divergence(
        padded,
        functional.pad(teacher, (0, 2), value=-torch.inf),
        temperature=2.0,
        teacher_temperature=2.0,
    )
    same(mine, loss, theirs, expected)


def test_half_precision_vectors_are_contrasted_in_float32():
    queries, documents = random_vectors(4, 8), random_vectors(4, 8, seed=1)
    positive = diagonal(4, 4)
    loss, _ = info_nce(queries.bfloat16(), documents.bfloat16(), positive, ~positive, temperature=0.02)
    exact, _ = info_nce(
        queries.bfloat16().double(), documents.bfloat16().double(), positive, ~positive, temperature=0.02
    )
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)


@pytest.mark.parametrize("negatives", [0, 2])
def test_a_step_of_the_real_model_has_the_gradients_of_sentence_transformers(minilm_folder, negatives: int):
    words = ["river", "bread", "password", "mountain"]
    rows = [
        {
            "query": f"what is a {word}",
            "positive": [f"a {word} is " + "something well known " * (n + 1)],
            "negatives": [f"not {word} {k}" + " at all" * (n + k) for k in range(negatives)],
        }
        for n, word in enumerate(words)
    ]
    args = TrainingArguments("embedding", model_name_or_path=str(minilm_folder))
    collator = hooks.make_collator(args)
    model = hooks.make_model(args).eval()
    output = hooks.compute_loss(model, collator([collator.encode(row) for row in rows]), collator, args)
    output.loss.backward()

    peer = SentenceTransformer(str(minilm_folder), device="cpu").eval()
    columns = [[row["query"] for row in rows], [row["positive"][0] for row in rows]]
    columns += [[row["negatives"][k] for row in rows] for k in range(negatives)]
    expected = MultipleNegativesRankingLoss(peer)([peer.preprocess(texts) for texts in columns], None)
    expected.backward()

    assert output.loss.item() == pytest.approx(expected.item(), abs=1e-5)
    theirs = dict(peer[0].auto_model.named_parameters())
    for name, weight in model.named_parameters():
        if weight.grad is not None:
            assert torch.allclose(weight.grad, theirs[name].grad, atol=1e-5), name
