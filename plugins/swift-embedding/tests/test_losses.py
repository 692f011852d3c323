"""InfoNCE equals the peer's on the same batch, and a float64 loop where the peer has no such case."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from torch.nn import functional

from swift_core import TrainingArguments
from swift_embedding import hooks
from swift_embedding.losses import info_nce


def raw_vectors(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_vectors(*shape: int, seed: int = 0) -> torch.Tensor:
    return functional.normalize(raw_vectors(*shape, seed=seed), dim=-1)


@pytest.mark.parametrize("negatives", [0, 1, 3])
@pytest.mark.parametrize("temperature", [0.05, 0.02, 1.0])
def test_loss_and_gradients_equal_sentence_transformers(negatives: int, temperature: float):
    batch, dimension = 8, 16
    parts = [raw_vectors(batch, dimension, seed=n) for n in range(2 + negatives)]

    theirs = [part.clone().requires_grad_() for part in parts]
    loss_of = MultipleNegativesRankingLoss(SimpleNamespace(), scale=1 / temperature)
    expected = loss_of.compute_loss_from_embeddings(theirs, None)
    expected.backward()

    mine = [part.clone().requires_grad_() for part in parts]
    queries, *documents = [functional.normalize(part, dim=-1) for part in mine]
    loss, _ = info_nce(queries, torch.cat(documents), torch.arange(batch), temperature=temperature)
    loss.backward()

    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    for a, b in zip(mine, theirs, strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-5)


def test_excluded_documents_do_not_count_in_a_float64_loop():
    queries, documents = random_vectors(3, 8), random_vectors(5, 8, seed=1)
    targets = [0, 1, 4]
    excluded = {(0, 1), (0, 3), (2, 0)}
    mask = torch.zeros(3, 5, dtype=torch.bool)
    for place in excluded:
        mask[place] = True

    total, hits = 0.0, 0
    for i, target in enumerate(targets):
        scores = {
            j: sum(float(a) * float(b) for a, b in zip(queries[i], documents[j], strict=True)) / 0.1
            for j in range(5)
            if (i, j) not in excluded
        }
        total -= scores[target] - math.log(sum(math.exp(score) for score in scores.values()))
        hits += max(scores, key=scores.__getitem__) == target

    loss, accuracy = info_nce(queries, documents, torch.tensor(targets), temperature=0.1, excluded=mask)
    assert loss.item() == pytest.approx(total / 3, abs=1e-5)
    assert accuracy.item() == pytest.approx(hits / 3)


def test_half_precision_vectors_are_contrasted_in_float32():
    queries, documents = random_vectors(4, 8), random_vectors(4, 8, seed=1)
    loss, _ = info_nce(queries.bfloat16(), documents.bfloat16(), torch.arange(4), temperature=0.02)
    exact, _ = info_nce(
        queries.bfloat16().double(), documents.bfloat16().double(), torch.arange(4), temperature=0.02
    )
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)


@pytest.mark.parametrize("negatives", [0, 2])
def test_a_step_of_the_real_model_has_the_gradients_of_sentence_transformers(minilm_folder, negatives: int):
    words = ["river", "bread", "password", "mountain"]
    rows = [
        {
            "query": f"what is a {word}",
            "positive": f"a {word} is " + "something well known " * (n + 1),
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
    columns = [[row["query"] for row in rows], [row["positive"] for row in rows]]
    columns += [[row["negatives"][k] for row in rows] for k in range(negatives)]
    expected = MultipleNegativesRankingLoss(peer)([peer.preprocess(texts) for texts in columns], None)
    expected.backward()

    assert output.loss.item() == pytest.approx(expected.item(), abs=1e-5)
    theirs = dict(peer[0].auto_model.named_parameters())
    for name, weight in model.named_parameters():
        if weight.grad is not None:
            assert torch.allclose(weight.grad, theirs[name].grad, atol=1e-5), name
