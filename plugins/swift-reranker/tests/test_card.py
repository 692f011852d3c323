"""What a model card says is true: its code is run, its front matter is read as the hub reads it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard

from swift_core import SwiftTrainer
from swift_core.cards import Training
from swift_core.resuming import new_run
from swift_core.runner import export_run
from swift_reranker.card import Card, card_of, write_card
from swift_reranker.card_code import Reads
from swift_reranker.collator import feature_of
from swift_reranker.exports import WRITERS, answers_of
from swift_reranker.reranker import sigmoid
from swift_reranker.scoring import score_lists
from swift_reranker.settings import Settings
from swift_reranker.st_folder import vllm_overrides

Build = Callable[..., Any]

QUERY = "what is a cat"
DOCUMENTS = ["A cat is a small animal that hunts at night.", "The bank raised its rates."]


def expected_scores(built: Any) -> np.ndarray:
    model, collator, _ = built
    tokens = collator.pairs.of_list(QUERY, DOCUMENTS)
    return sigmoid(score_lists(model, collator, [feature_of(tokens)])[0])


def export(folder: Path, built: Any) -> str:
    model, collator, args = built
    folder.mkdir()
    WRITERS["hf"](folder, model, collator, args, new_run(args))
    return (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("bert", {"max_length": 40}),
        ("qwen", {"scoring": "head"}),
        # The longer document is cut.
        ("qwen", {"scoring": "head", "max_length": 50}),
        ("qwen", {"scoring": "generative", "instruction": 'Find "cats"'}),
    ],
    ids=["encoder", "head", "cut", "generative"],
)
def test_the_code_gives_the_scores_of_the_model(
    name: str,
    options: Any,
    build: Build,
    run_card: Any,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    pytest.importorskip("sentence_transformers.base")
    built = build(request.getfixturevalue(name), **options)
    assert any(built[1].pairs.of_list(QUERY, DOCUMENTS).cut) == ("max_length" in options)
    expected = expected_scores(built)
    export(tmp_path / "hf", built)
    found = run_card(tmp_path / "hf")
    text = (tmp_path / "hf" / "README.md").read_text()
    assert ("vllm serve" in text) == (options.get("scoring") == "generative")
    assert len(found) == 3  # CrossEncoder, swift-reranker, transformers
    for names in found:
        assert (names["query"], names["documents"]) == (QUERY, DOCUMENTS)
        np.testing.assert_allclose(names["scores"], expected, atol=1e-4)
    card = ModelCard.load(tmp_path / "hf" / "README.md")
    assert (card.data.library_name, card.data.pipeline_tag) == ("sentence-transformers", "text-ranking")
    assert card.data.base_model is None and card.data.eval_results is None  # nothing is known of them


def test_a_template_stands_on_the_card_and_vllm_is_told_what_it_needs(
    build: Build, qwen: Path, tmp_path: Path
) -> None:
    model, collator, args = build(qwen, scoring="generative", instruction="Find cats")
    answers = answers_of(model, collator)
    overrides = vllm_overrides(model, collator.tokenizer, answers)
    write_card(tmp_path, card_of("model", collator, args, new_run(args), answers=answers, vllm=overrides))
    text = (tmp_path / "README.md").read_text()
    assert "<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}<|im_end|>" in text
    assert "`{instruction}` is: Find cats" in text
    assert "the logit of `yes` less that of `no` as the next token" in text
    (command,) = re.findall(r"^vllm serve .*$", text, re.M)
    words = shlex.split(command)
    assert json.loads(words[words.index("--hf-overrides") + 1])["classifier_from_token"] == ["no", "yes"]
    assert words[-1] == "path/to/this/folder/chat_template.jinja"


def test_an_export_tells_data_options_and_figures(
    bert: Path, lists: list[dict[str, Any]], make_args: Any, tmp_path: Path
) -> None:
    args = make_args(
        bert, max_length=40, learning_rate=5e-3, eval_strategy="no", query_max_length=9, loss="lambda_loss"
    )
    trainer = SwiftTrainer(args, train_dataset=lists, eval_dataset=lists)
    trainer.train()
    metrics = trainer.evaluate()
    folder = export_run(Path(str(trainer.args.output_dir)), ["hf"])[0]
    card = ModelCard.load(folder / "README.md")
    figures = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert figures["ndcg@10"] == pytest.approx(metrics["eval_ndcg@10"], abs=1e-6)
    assert "score_spread" not in figures
    for line in (
        "Pairs take at most 40 tokens: of longer ones the document is cut at its end.",
        "Queries were cut to 9 tokens; other programs do not do that.",
        "| train | train_dataset | 3 |",
        "| eval | eval_dataset | 3 |",
        "| `learning_rate` | 0.005 |",
        f"| ndcg@10 | {metrics['eval_ndcg@10']:.4f} |",
    ):
        assert line in card.text
    assert "first_stage" not in card.text  # nothing was searched
    assert str(tmp_path) not in card.content  # where things lay on this machine is nobody's business


def test_figures_of_a_first_stage_are_told_and_are_not_those_of_the_model(tmp_path: Path) -> None:
    figures = {"ndcg@10": 0.5, "first_stage_ndcg@10": 0.4, "gain_ndcg@10": 0.1, "score_spread": 2.0}
    card = Card(
        kind="onnx",
        settings=Settings(scoring="head", max_length=9, template="`````{query}\n{document}"),
        reads=Reads(max_length=9, closing=[1], answers=None),
        base_model="some/model",
        training=Training(metrics=figures, evaluated_on="scifact"),
        reranked=", where the first 100 candidates of bm25 were reranked",
    )
    write_card(tmp_path, card)
    read = ModelCard.load(tmp_path / "README.md")
    assert [result.metric_type for result in read.data.eval_results] == ["ndcg@10"]
    assert read.data.base_model == "some/model"
    assert "run on scifact, where the first 100 candidates of bm25 were reranked:" in read.text
    assert "| first_stage_ndcg@10 | 0.4000 |" in read.text
    assert "``````text\n`````{query}\n{document}\n``````" in read.text  # a fence that the template can't end
    write_card(tmp_path, replace(card, settings=Settings(scoring="head", max_length=9)))
    assert "It reads this text" not in (tmp_path / "README.md").read_text()
