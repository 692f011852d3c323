"""What a model card says is true: its code is run, its front matter is read as the hub reads it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard

from swift_cls.card import Card, last_evaluation, write_card
from swift_cls.classifier import Classifier
from swift_cls.collator import Decision
from swift_cls.exports import WRITERS
from swift_core import SwiftTrainer
from swift_core.cards import Training
from swift_core.resuming import new_run
from swift_core.runner import export_run

Build = Callable[..., Any]

NAMES = ("a", "b|c", "d")
PLACEHOLDER = '"path/to/this/folder"'
TEXTS = ["A first text to classify.", "And another one."]


def run_code(folder: Path) -> list[dict[str, Any]]:
    """The names that each block of Python on the card leaves behind."""
    blocks = re.findall(r"^```python\n(.*?)^```$", (folder / "README.md").read_text(), re.M | re.S)
    found = []
    for block in blocks:
        assert PLACEHOLDER in block
        names: dict[str, Any] = {}
        exec(compile(block.replace(PLACEHOLDER, repr(str(folder))), "card", "exec"), names)
        found.append(names)
    return found


def exported(format: str, folder: Path, built: Any, decision: Decision) -> list[dict[str, Any]]:
    """Write an export, and what the model in memory says of the texts on the card."""
    model, collator, args = built
    collator = replace(collator, decision=decision)
    folder.mkdir()
    WRITERS[format](folder, model, collator, args, new_run(args))
    return Classifier(model=model, collator=collator).classify(TEXTS)


@pytest.mark.parametrize("name", ["bert", "qwen"])
def test_the_code_for_one_label(
    name: str, build_classifier: Build, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    built = build_classifier(request.getfixturevalue(name), *NAMES, max_length=20)
    expected = exported("hf", tmp_path / "plain", built, Decision())
    (names,) = run_code(tmp_path / "plain")
    for found, wanted in zip(names["results"], expected, strict=True):
        assert found["label"] == wanted["label"]
        assert found["score"] == pytest.approx(max(wanted["probs"]), abs=1e-5)
    expected = exported("hf", tmp_path / "warm", built, Decision(temperature=1.8))
    _, names = run_code(tmp_path / "warm")
    assert names["labels"] == [entry["label"] for entry in expected]
    np.testing.assert_allclose(names["probabilities"], [e["probs"] for e in expected], atol=1e-5)
    assert "the temperature 1.8" in (tmp_path / "warm" / "README.md").read_text()


@pytest.mark.parametrize("threshold", [0.4, [0.1, 0.95, 0.4]])
def test_the_code_for_several_labels(
    threshold: Any, bert: Path, build_classifier: Build, tmp_path: Path
) -> None:
    built = build_classifier(bert, *NAMES, problem="multi_label", max_length=20)
    expected = exported("hf", tmp_path / "hf", built, Decision(threshold, 1.3))
    (names,) = run_code(tmp_path / "hf")
    assert [set(row) for row in names["labels"]] == [set(entry["labels_assigned"]) for entry in expected]
    np.testing.assert_allclose(names["probabilities"], [e["probs"] for e in expected], atol=1e-5)


@pytest.mark.parametrize("several", [False, True], ids=["one", "per label"])
def test_the_code_decides_as_serving_does_by_a_hair(
    several: bool, bert: Path, build_classifier: Build, tmp_path: Path
) -> None:
    built = model, collator, _ = build_classifier(bert, *NAMES, problem="multi_label", max_length=20)
    with torch.no_grad():
        model.classifier.bias.sub_(12)  # rare labels: probabilities of 1e-5 and less
    plain = Classifier(model=model, collator=replace(collator, decision=Decision(0.5, 1.1234567891)))
    (row, _) = (entry["probs"] for entry in plain.classify(TEXTS))
    # Above the probabilities of the first text by less than six decimals, or six digits, tell.
    threshold = [value * (1 + 4e-6) for value in row] if several else max(row) * (1 + 4e-6)
    expected = exported("hf", tmp_path / "hf", built, Decision(threshold, 1.1234567891))
    assert expected[0]["labels_assigned"] == []
    (names,) = run_code(tmp_path / "hf")
    assert [set(row) for row in names["labels"]] == [set(entry["labels_assigned"]) for entry in expected]
    assert repr(threshold) in (tmp_path / "hf" / "README.md").read_text()


def test_the_code_for_scores(bert: Path, build_classifier: Build, tmp_path: Path) -> None:
    built = build_classifier(bert, problem="regression", max_length=20)
    expected = exported("hf", tmp_path / "hf", built, Decision())
    (names,) = run_code(tmp_path / "hf")
    np.testing.assert_allclose(names["scores"], [entry["score"] for entry in expected], atol=1e-5)


@pytest.mark.parametrize("problem", ["single_label", "multi_label", "regression"])
def test_the_code_for_a_graph(
    problem: str, bert: Path, build_classifier: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import swift_cls.card as card

    # The code decides on logits; that of a graph is run on stand-ins, as graphs take long to write.
    built = model, collator, args = build_classifier(
        bert, *(() if problem == "regression" else NAMES), problem=problem, max_length=20
    )
    expected = exported("hf", tmp_path / "hf", built, Decision(0.4, 1.3))
    described, _ = card.card_of("onnx", replace(collator, decision=Decision(0.4, 1.3)), args, new_run(args))
    write_card(tmp_path / "hf", described)
    plain = Classifier(model=model, collator=collator)
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda path: _Session(path, plain))
    (names,) = run_code(tmp_path / "hf")
    if problem == "regression":
        np.testing.assert_allclose(names["scores"], [entry["score"] for entry in expected], atol=1e-5)
        return
    np.testing.assert_allclose(names["probabilities"], [e["probs"] for e in expected], atol=1e-5)
    told = "label" if problem == "single_label" else "labels_assigned"
    assert [sorted(labels) for labels in names["labels"]] == [sorted(entry[told]) for entry in expected]
    assert ModelCard.load(tmp_path / "hf" / "README.md").data.library_name == "onnx"


class _Session:
    """Gives the logits of a model where a graph's session is expected."""

    def __init__(self, path: str, classifier: Classifier) -> None:
        assert path.endswith("/model.onnx")
        self.classifier = classifier

    def get_inputs(self) -> list[Any]:
        return [
            type("Input", (), {"name": name}) for name in ("input_ids", "attention_mask", "token_type_ids")
        ]

    def run(self, outputs: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        assert outputs == ["logits"]
        with torch.no_grad():
            return [self.classifier.model(**{n: torch.from_numpy(v) for n, v in feed.items()}).logits.numpy()]


def test_an_export_tells_data_options_figures_and_the_picture(
    bert: Path, rows: Any, make_args: Any, tmp_path: Path
) -> None:
    args = make_args(bert, max_length=20, learning_rate=5e-3, eval_strategy="no")
    trainer = SwiftTrainer(args, train_dataset=rows, eval_dataset=rows[:6])
    trainer.train()
    before = ModelCard.load(trainer.save_model(format="hf") / "README.md")
    assert before.data.eval_results is None  # nothing is known, so nothing is said
    assert "## Evaluation" not in before.text and "confusion" not in before.text
    metrics = trainer.evaluate()
    run = Path(str(trainer.args.output_dir))
    folder = export_run(run, ["hf"])[0]
    card = ModelCard.load(folder / "README.md")
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "text-classification")
    figures = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert figures["accuracy"] == pytest.approx(metrics["eval_accuracy"], abs=1e-6)
    assert "eval_temperature" in metrics and "temperature" not in figures
    for line in (
        "gives a text one of 3 labels: `体育`, `科技`, `财经`.",
        "Texts longer than 20 tokens are cut at their end.",
        "| train | train_dataset | 9 |",
        "| eval | eval_dataset | 6 |",
        "| `learning_rate` | 0.005 |",
        f"| accuracy | {metrics['eval_accuracy']:.4f} |",
        "| label | precision | recall | f1 | support |",
        "![Confusion matrix](confusion.png)",
    ):
        assert line in card.text
    assert re.search(r"^\| 体育 \| [\d.]+ \| [\d.]+ \| [\d.]+ \| 3 \|$", card.text, re.M)
    (picture,) = run.glob("evaluations/step-2/confusion.png")
    assert (folder / "confusion.png").read_bytes() == picture.read_bytes()
    assert str(tmp_path) not in card.content  # where things lay on this machine is nobody's business
    assert card.data.base_model is None


def test_figures_of_other_weights_are_told_as_such(tmp_path: Path) -> None:
    training = Training(metrics={"accuracy": 0.5}, evaluated_on="x")
    card = Card(kind="onnx", problem="single_label", labels=NAMES, max_length=9, training=training)
    write_card(tmp_path, card)
    assert ModelCard.load(tmp_path / "README.md").data.eval_results[0].metric_value == 0.5
    write_card(tmp_path, replace(card, kind="onnx-int8"))
    int8 = ModelCard.load(tmp_path / "README.md")
    assert int8.data.eval_results is None
    assert "The last evaluation of the run on x, before its weights got 8 bits:" in int8.text


def test_the_last_evaluation_is_that_of_the_highest_step(tmp_path: Path) -> None:
    assert last_evaluation({}) == ([], None)
    folders = {step: tmp_path / f"step-{step}" for step in (9, 10, 2)}
    for step, folder in folders.items():
        folder.mkdir()
        (folder / "per_class.jsonl").write_text(f'{{"label": "{step}"}}\n')
    assert last_evaluation(folders) == ([{"label": "10"}], None)


def test_what_was_no_text_in_training_is_told(
    tmp_path: Path, qwen: Path, make_args: Any, rows: list[dict[str, Any]]
) -> None:
    told = {}
    chat = tmp_path / "chat"
    shutil.copytree(qwen, chat)
    (chat / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    cases = [(qwen, "pairs", "text_pair"), (qwen, "messages", "messages"), (qwen, "texts", None)]
    for model, name, column in [*cases, (chat, "messages", "messages")]:
        talk = [{"role": "user", "content": "ab"}]
        more = {} if column is None else {column: talk if column == "messages" else "cd"}
        given = [{**({} if column == "messages" else row), **more, "label": row["label"]} for row in rows]
        trainer = SwiftTrainer(make_args(model, max_steps=1), given)
        trainer.train()
        folder = trainer.save_model(format="hf")
        assert json.loads((folder / "classification.json").read_text())["reads"] == name
        told[name if model == qwen else "chat"] = (folder / "README.md").read_text()
    assert 'give `first + "\\n" + second` as one text' in told["pairs"]
    assert "add_special_tokens=False" in told["chat"] and "apply_chat_template" in told["chat"]
    assert "the contents of its messages with a new line" in told["messages"]
    assert "apply_chat_template" not in told["messages"]
    assert not any(word in told["texts"] for word in ("apply_chat_template", "first +"))


def test_labels_and_long_texts_are_told(tmp_path: Path) -> None:
    rows = [
        {"label": f"l|{n}", "precision": 0.5, "recall": 1.0, "f1": 0.25, "support": n} for n in range(120)
    ]
    card = Card(
        kind="model",
        problem="multi_label",
        labels=[row["label"] for row in rows],
        max_length=99,
        long_text="chunk_mean",
        threshold=[0.5] * 120,
        pairs=True,
        per_class=rows,
    )
    write_card(tmp_path, card)
    text = (tmp_path / "README.md").read_text()
    assert "any of 120 labels, or none: `l|0`" in text
    assert "and 70 more." in text
    assert "read in chunks whose vectors were averaged. **The code below reads the first 99 tokens" in text
    assert "| l\\|119 | 0.5000 | 1.0000 | 0.2500 | 119 |" in text
    assert "| l\\|19 |" not in text and "And 20 labels with fewer rows." in text
    assert '"text_pair"' in text
    assert "own threshold" in text
