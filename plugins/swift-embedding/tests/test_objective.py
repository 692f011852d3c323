"""Every loss through the hooks, on the real model without padding: the gradients of sentence-transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses as peers
from torch.nn import functional

from swift_core import SwiftTrainer, TrainingArguments, UserError
from swift_core.flat import pool_segments
from swift_embedding import hooks

WORDS = ["river", "bread", "password", "mountain", "violin"]
ANSWERS = [
    {
        "query": f"what is a {word}",
        "positive": [f"a {word} is " + "something well known " * (n + 1)],
        "negatives": [f"not {word} {k}" + " at all" * (n + k) for k in range(2)],
        "positive_scores": [2.0 - n / 3],
        "negative_scores": [0.1 * n, -0.5],
    }
    for n, word in enumerate(WORDS)
]
PAIRS = [
    {"text1": f"the {word}", "text2": f"one {word} " * (n + 1), "score": n / 4}
    for n, word in enumerate(WORDS)
]
LABELS = [{"text": f"{word} {n} " * (n + 1), "label": "ab"[n % 2]} for n, word in enumerate(WORDS)]


def columns(rows: list[dict[str, Any]]) -> list[list[str]]:
    if "text1" in rows[0]:
        return [[row["text1"] for row in rows], [row["text2"] for row in rows]]
    parts = [[row["query"] for row in rows], [row["positive"][0] for row in rows]]
    return parts + [[row["negatives"][k] for row in rows] for k in range(2)]


def scores(rows: list[dict[str, Any]]) -> torch.Tensor:
    if "text1" in rows[0]:
        return torch.tensor([row["score"] for row in rows])
    return torch.tensor([[*row["positive_scores"], *row["negative_scores"]] for row in rows])


MNRL = peers.MultipleNegativesRankingLoss
CASES: list[tuple[str, list[dict[str, Any]], dict[str, Any], Callable[[Any], torch.nn.Module], float]] = [
    ("infonce", ANSWERS, {}, MNRL, 1),
    (
        "infonce",
        ANSWERS,
        {"query_negatives": True, "document_negatives": True},
        lambda m: MNRL(m, directions=("query_to_doc", "query_to_query", "doc_to_doc")),
        1,
    ),
    (
        "infonce",
        ANSWERS,
        {"matryoshka_dims": [384, 96], "matryoshka_weights": [1.0, 0.5]},
        lambda m: peers.MatryoshkaLoss(m, MNRL(m), [384, 96], [1.0, 0.5]),
        1,
    ),
    ("cosent", PAIRS, {}, peers.CoSENTLoss, 1),
    ("angle", PAIRS, {}, peers.AnglELoss, 1),
    ("cosine", PAIRS, {}, peers.CosineSimilarityLoss, 1),
    (
        "cosine",
        PAIRS,
        {"matryoshka_dims": [384, 32]},
        lambda m: peers.MatryoshkaLoss(m, peers.CosineSimilarityLoss(m), [384, 32]),
        1,
    ),
    ("margin_mse", ANSWERS, {}, peers.MarginMSELoss, 1),
    (
        "kl",
        ANSWERS,
        {"temperature": 0.5, "teacher_temperature": 0.5},
        lambda m: peers.DistillKLDivLoss(m, temperature=0.5),
        4,
    ),
]


@pytest.mark.parametrize(("loss", "rows", "options", "peer_of", "scale"), CASES)
def test_a_step_has_the_gradients_of_sentence_transformers(
    minilm_folder, loss, rows, options, peer_of, scale
):
    args = TrainingArguments("embedding", model_name_or_path=str(minilm_folder), loss=loss, **options)
    collator, model = hooks.make_collator(args), hooks.make_model(args).eval()
    output = hooks.compute_loss(model, collator([collator.encode(row) for row in rows]), collator, args)
    output.loss.backward()

    peer = SentenceTransformer(str(minilm_folder), device="cpu").eval()
    expected = peer_of(peer)([peer.preprocess(texts) for texts in columns(rows)], scores(rows)) * scale
    expected.backward()

    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-5)
    theirs = dict(peer[0].auto_model.named_parameters())
    for name, weight in model.named_parameters():
        if weight.grad is not None:
            assert torch.allclose(weight.grad, theirs[name].grad, atol=2e-5), name


def vectors_and_loss(minilm_folder: Path, rows: list[dict[str, Any]], **options: Any):
    args = TrainingArguments("embedding", model_name_or_path=str(minilm_folder), **options)
    collator, model = hooks.make_collator(args), hooks.make_model(args).eval()
    loss = hooks.compute_loss(model, collator([collator.encode(row) for row in rows]), collator, args).loss
    return collator.encoder(model), loss.item()


def test_labelled_texts_are_contrasted_by_label_in_a_float64_loop(minilm_folder):
    encoder, loss = vectors_and_loss(minilm_folder, LABELS, temperature=0.1)
    vectors = torch.from_numpy(encoder.encode_queries([row["text"] for row in LABELS])).double()
    s = (vectors @ vectors.T / 0.1).exp()
    labels = [row["label"] for row in LABELS]
    total = 0.0
    for i, label in enumerate(labels):
        wrong = sum(s[i, j] for j, other in enumerate(labels) if other != label)
        right = [j for j, other in enumerate(labels) if other == label and j != i]
        total -= sum((s[i, j] / (s[i, j] + wrong)).log() for j in right) / len(right)
    assert loss == pytest.approx(float(total) / len(labels), abs=1e-5)


def test_triplets_of_labelled_texts_in_a_loop(minilm_folder):
    encoder, loss = vectors_and_loss(minilm_folder, LABELS, loss="triplet", margin=0.5)
    vectors = torch.from_numpy(encoder.encode_queries([row["text"] for row in LABELS])).double()
    cosine, labels = vectors @ vectors.T, [row["label"] for row in LABELS]
    total = 0.0
    for i, label in enumerate(labels):
        each = [
            max(0.0, float(cosine[i, n] - cosine[i, p]) + 0.5)
            for p, like in enumerate(labels)
            for n, unlike in enumerate(labels)
            if like == label != unlike and p != i
        ]
        total += sum(each) / len(each)
    assert loss == pytest.approx(float(total) / len(labels), abs=1e-5)


def test_the_guide_leaves_out_what_it_finds_too_much_alike(minilm_folder):
    rows = [
        {"query": "what is bread", "positive": ["bread is baked from flour"], "negatives": ["what bread is"]},
        {"query": "what is a river", "positive": ["a river is water that flows"]},
    ]
    _, plain = vectors_and_loss(minilm_folder, rows)
    _, guided = vectors_and_loss(minilm_folder, rows, guide_model=str(minilm_folder))
    _, own = vectors_and_loss(minilm_folder, rows, false_negative_margin=0.0)
    _, without = vectors_and_loss(minilm_folder, [{**rows[0], "negatives": []}, rows[1]])
    assert guided == pytest.approx(without, abs=1e-6)
    assert own == pytest.approx(without, abs=1e-6)
    assert plain > without + 0.5


def test_a_prompt_is_left_out_of_the_mean_as_sentence_transformers_does(minilm_folder):
    args = TrainingArguments(
        "embedding",
        model_name_or_path=str(minilm_folder),
        query_prompt="find what answers: ",
        pool_prompts=False,
    )
    collator, model = hooks.make_collator(args), hooks.make_model(args).eval()
    texts = ["what is a river", "bread"]
    peer = SentenceTransformer(str(minilm_folder), device="cpu")
    peer[1].include_prompt = False
    expected = peer.encode(texts, prompt="find what answers: ", convert_to_tensor=True)
    assert torch.allclose(
        torch.from_numpy(collator.encoder(model).encode_queries(texts)), expected, atol=1e-5
    )

    batch = collator([collator.encode({"query": text, "positive": ["x"]}) for text in texts])
    assert collator.query_skip == 5  # [CLS] find what answers :
    trained = hooks.compute_loss(model, batch, collator, args)
    assert trained.loss.isfinite()
    assert collator.document_skip == 0


def mixed(folder: Path) -> list[str]:
    paths = []
    for name, rows in (("answers", ANSWERS * 2), ("pairs", PAIRS * 2), ("labels", LABELS * 2)):
        path = folder / f"{name}.jsonl"
        Dataset.from_list(rows).to_json(path)
        paths.append(str(path))
    return paths


def test_several_data_sets_each_with_its_loss_and_weight(minilm_folder, tmp_path):
    args = TrainingArguments(
        "embedding",
        model_name_or_path=str(minilm_folder),
        dataset=mixed(tmp_path),
        loss=["margin_mse", "cosent", "triplet"],
        loss_weights=[1.0, 0.5, 2.0],
        per_device_train_batch_size=4,
        max_steps=8,
        logging_steps=1,
        save_strategy="no",
        output_dir=str(tmp_path / "out"),
        cache_dir=str(tmp_path / "cache"),
        report_to=[],
    )
    trainer = SwiftTrainer(args)
    sources = [
        {trainer.train_data.features[row]["group"] for row in rows}
        for rows in trainer.get_train_dataloader().batch_sampler
    ]
    assert all(len(groups) == 1 for groups in sources)
    assert {group for groups in sources for group in groups} == {0, 1, 2}
    trainer.train()
    assert trainer.state.global_step == 8


def test_a_weight_scales_the_loss_of_its_data_set(minilm_folder):
    args = {"model_name_or_path": str(minilm_folder), "loss": ["cosent", "cosine"]}
    losses = []
    for weights in (None, [1.0, 3.0]):
        options = TrainingArguments("embedding", **args, loss_weights=weights)
        collator, model = hooks.make_collator(options), hooks.make_model(options).eval()
        batch = collator([collator.encode({**row, "source": 1}) for row in PAIRS])
        losses.append(hooks.compute_loss(model, batch, collator, options).loss.item())
    assert losses[1] == pytest.approx(3 * losses[0], rel=1e-6)


@pytest.mark.parametrize(
    ("rows", "options", "told"),
    [
        (
            PAIRS,
            {"loss": "infonce"},
            "infonce learns from queries and answers or labelled texts, found scored pairs",
        ),
        (
            LABELS,
            {"loss": "cosent"},
            "found labelled texts .* choose one of infonce, triplet, online_contrastive",
        ),
        ([{"query": "q", "positive": "p"}] * 3, {"loss": "kl"}, "kl needs positive_scores, .* 3 of 3 rows"),
        ([{"query": "q", "positive": "p"}] * 3, {"loss": "triplet"}, "triplet needs negatives, found none"),
        (
            [*ANSWERS, {"query": "q", "positive": "p", "negatives": ["n"]}],
            {"loss": "cosent"},
            "cosent needs positive_scores",
        ),
        (PAIRS, {"loss": "online_contrastive"}, "online_contrastive expects 0 or 1"),
        (
            [{**row, "score": 5 * row["score"]} for row in PAIRS],
            {"loss": "cosine"},
            "cosine expects numbers from -1",
        ),
        (
            [{**row, "score": 1} for row in PAIRS],
            {},
            "score: expected different numbers, found 1.0 in every row",
        ),
        ([{**row, "label": "x"} for row in LABELS], {}, "label: expected at least two classes"),
        (
            [{**row, "label": n} for n, row in enumerate(LABELS)],
            {},
            "label: expected classes of two texts or more",
        ),
        (PAIRS, {"per_device_train_batch_size": 1}, "cosent compares pairs, expected 2 or more, found 1"),
        (LABELS, {"per_device_train_batch_size": 2}, "expected 4 or more for labelled texts"),
        (ANSWERS, {"loss": "cosine"}, "positive_scores: cosine expects numbers from -1 to 1"),
        (ANSWERS, {"use_inbatch_negatives": False, "symmetric": True}, "symmetric: contrast with other rows"),
        (PAIRS, {"margin": 0.3}, "margin: has no effect with the loss cosent; it is read by triplet"),
        (ANSWERS, {"teacher_temperature": 2.0}, "teacher_temperature: has no effect with the loss infonce"),
        (PAIRS, {"loss": ["cosent", "cosine"]}, "loss: expected one for each of the 1 data sets, found 2"),
        (
            PAIRS,
            {"loss_weights": [1.0, 2.0]},
            "loss_weights: expected one for each of the 1 data sets, found 2",
        ),
        ([PAIRS[0], {"text": "a", "label": 1}], {}, "column 'text1' is missing"),
    ],
)
def test_a_loss_that_can_t_learn_from_the_data_is_refused(minilm_folder, tmp_path, rows, options, told):
    args = TrainingArguments(
        "embedding", model_name_or_path=str(minilm_folder), cache_dir=str(tmp_path), **options
    )
    with pytest.raises(UserError, match=told):
        SwiftTrainer(args, train_dataset=rows)


def test_evaluation_data_is_looked_at_before_the_training(minilm_folder, tmp_path):
    args = TrainingArguments("embedding", model_name_or_path=str(minilm_folder), cache_dir=str(tmp_path))
    with pytest.raises(UserError, match="score: expected different values to measure with"):
        SwiftTrainer(args, train_dataset=ANSWERS, eval_dataset=[{**row, "score": 1} for row in PAIRS])


def test_data_sets_with_one_name_keep_their_figures_apart(minilm_folder, tmp_path):
    for folder, rows in (("x", PAIRS), ("y", [{**row, "score": -row["score"]} for row in PAIRS])):
        (tmp_path / folder).mkdir()
        Dataset.from_list(rows).to_json(tmp_path / folder / "dev.jsonl")
    args = TrainingArguments(
        "embedding",
        model_name_or_path=str(minilm_folder),
        eval_dataset=[str(tmp_path / "x" / "dev.jsonl"), str(tmp_path / "y" / "dev.jsonl")],
        cache_dir=str(tmp_path),
        output_dir=str(tmp_path),
    )
    figures = SwiftTrainer(args, train_dataset=ANSWERS).evaluate()
    found = {name: value for name, value in figures.items() if name.startswith("eval_spearman")}
    assert len(found) == 3
    assert found["eval_spearman"] == pytest.approx(0, abs=1e-9)


def test_matryoshka_weights_belong_to_dimensions():
    with pytest.raises(
        UserError, match="matryoshka_weights: expected one number for each of matryoshka_dims"
    ):
        TrainingArguments("embedding", matryoshka_dims=[64, 32], matryoshka_weights=[1.0])


def test_pooling_leaves_out_the_head_of_each_row_but_never_all_of_it():
    from swift_core.flat import flat_batch

    batch = flat_batch([[1, 2, 3, 4], [5, 6], [7]])
    hidden = functional.one_hot(batch.input_ids, 8).float()
    pooled = pool_segments(hidden, batch, "mean", 2)
    assert pooled.nonzero().tolist() == [[0, 3], [0, 4], [1, 6], [2, 7]]
