"""Whole runs: what they leave, and that their figures are scikit-learn's."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from sklearn import metrics as sk

from swift_core import SwiftTrainer, TrainingArguments
from swift_core.errors import UserError
from swift_core.runner import evaluate_run
from swift_core.runs.record import Run

Make = Callable[..., TrainingArguments]


def table(trainer: SwiftTrainer, name: str, step: int) -> list[dict[str, Any]]:
    assert trainer.run is not None
    text = (trainer.run.folder / "evaluations" / f"step-{step}" / f"{name}.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def settings(trainer: SwiftTrainer) -> dict[str, Any]:
    assert trainer.run is not None
    found: dict[str, Any] = json.loads((trainer.run.model / "classification.json").read_text())
    return found


def test_a_run_records_figures_tables_and_the_picture(
    bert: Path, make_args: Make, rows: list[dict[str, Any]]
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    args = make_args(bert, max_steps=6, learning_rate=5e-3, per_device_train_batch_size=4)
    trainer = SwiftTrainer(args, rows, rows)
    assert trainer.run is None
    with trainer.recorded():
        trainer.train()
        figures = trainer.evaluate()
    assert trainer.run is not None
    predictions = table(trainer, "predictions", 6)
    truth = [row["label"] for row in rows]
    assert [row["label"] for row in predictions] == truth
    guessed = [row["predicted"] for row in predictions]
    assert figures["eval_accuracy"] == pytest.approx(sk.accuracy_score(truth, guessed))
    assert figures["eval_f1_macro"] == pytest.approx(sk.f1_score(truth, guessed, average="macro"))
    assert figures["eval_mcc"] == pytest.approx(sk.matthews_corrcoef(truth, guessed))
    names = ["体育", "科技", "财经"]
    shares = np.array([[row["probabilities"][name] for name in names] for row in predictions])
    shares /= shares.sum(1, keepdims=True)  # the table has six digits
    # The table has the probabilities that are served: calibrated ones.
    expected = figures.get("eval_log_loss_calibrated", figures["eval_log_loss"])
    assert expected == pytest.approx(sk.log_loss(truth, shares, labels=names), abs=1e-5)
    matrix = sk.confusion_matrix(truth, guessed, labels=names)
    cells = {(row["true"], row["predicted"]): row["count"] for row in table(trainer, "confusion", 6)}
    assert sum(cells.values()) == 9
    assert all(matrix[names.index(a), names.index(b)] == count for (a, b), count in cells.items())
    wrong = [row for row in predictions if not row["correct"]]
    assert len(table(trainer, "mistakes", 6)) == len(wrong)
    confidences = [row["confidence"] for row in table(trainer, "mistakes", 6)]
    assert confidences == sorted(confidences, reverse=True)
    png = trainer.run.folder / "evaluations" / "step-6" / "confusion.png"
    assert png.read_bytes().startswith(b"\x89PNG")
    events = EventAccumulator(str(trainer.run.logs), size_guidance={"images": 0})
    events.Reload()
    assert events.Images("eval/confusion")[0].encoded_image_string == png.read_bytes()


@pytest.mark.parametrize("apart", [False, True], ids=["in one recording", "after training"])
def test_what_is_fitted_on_evaluation_data_stays_with_the_model_and_is_not_fitted_again(
    bert: Path, make_args: Make, rows: list[dict[str, Any]], tmp_path: Path, apart: bool
) -> None:
    several = [{"text": row["text"], "labels": [row["label"]] if n % 3 else []} for n, row in enumerate(rows)]
    data, others = tmp_path / "eval.jsonl", tmp_path / "others.jsonl"
    data.write_text("\n".join(json.dumps(row) for row in several))
    others.write_text("\n".join(json.dumps({**row, "labels": ["体育"]}) for row in several))
    args = make_args(
        bert, dataset=str(data), eval_dataset=str(data), max_steps=6, learning_rate=5e-3, threshold="auto"
    )
    trainer = SwiftTrainer(args)
    with nullcontext() if apart else trainer.recorded():
        trainer.train()
        figures = trainer.evaluate()
        # Rows of another set are measured with what was fitted on the run's own.
        trainer.evaluate(str(others))
    saved = settings(trainer)
    assert saved["threshold"] == figures["eval_threshold"] != 0.5
    assert saved["temperature"] != 1.0
    assert trainer.run is not None
    again = evaluate_run(trainer.run.folder)
    for name in ("eval_f1_micro", "eval_subset_accuracy", "eval_threshold"):
        assert again[name] == pytest.approx(figures[name])
    evaluate_run(trainer.run.folder, [f"eval_dataset={others}"])
    assert settings(trainer) == saved


def test_a_checkpoint_has_what_was_fitted_on_its_own_evaluation(
    bert: Path, make_args: Make, rows: list[dict[str, Any]]
) -> None:
    several = [{"text": row["text"], "labels": [row["label"]]} for row in rows]
    steps = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
    args = make_args(bert, **steps, max_steps=2, learning_rate=5e-3, load_best_model_at_end=True)
    trainer = SwiftTrainer(args, several, several)
    trainer.train()
    assert trainer.run is not None
    for line in (trainer.run.folder / "metrics.jsonl").read_text().splitlines():
        figures = json.loads(line)
        if "eval_threshold" in figures:
            folder = trainer.run.folder / f"checkpoint-{figures['step']}"
            kept = json.loads((folder / "classification.json").read_text())
            assert kept["threshold"] == pytest.approx(figures["eval_threshold"])


def test_the_best_weights_come_with_what_was_fitted_for_them(
    bert: Path, make_args: Make, rows: list[dict[str, Any]]
) -> None:
    steps = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
    # The first step is the best: less of the loss is better, and here more of it was asked for.
    best = {"load_best_model_at_end": True, "metric_for_best_model": "log_loss", "greater_is_better": True}
    trainer = SwiftTrainer(make_args(bert, **steps, **best, max_steps=3, learning_rate=5e-3), rows, rows)
    trainer.train()
    assert trainer.state.best_model_checkpoint is not None
    first = json.loads((Path(trainer.state.best_model_checkpoint) / "classification.json").read_text())
    of_last = Path(trainer.args.output_dir) / "checkpoint-3/classification.json"
    last = json.loads(of_last.read_text())
    assert settings(trainer)["temperature"] == first["temperature"] != last["temperature"]
    # What is fitted on them once more, after training, is nothing of the last checkpoint's.
    trainer.evaluate()
    assert json.loads(of_last.read_text()) == last


def test_a_run_that_draws_rows_by_label_can_be_evaluated_when_it_is_over(
    bert: Path, make_args: Make, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join(json.dumps(row) for row in rows))
    args = make_args(bert, dataset=str(data), eval_dataset=str(data), sampling="balanced")
    trainer = SwiftTrainer(args)
    trainer.train()
    assert trainer.run is not None
    assert evaluate_run(trainer.run.folder)["eval_accuracy"] >= 0
    with pytest.raises(UserError, match="drawn by weight have no order"):
        SwiftTrainer(make_args(bert, sampling="balanced", train_sampling_strategy="sequential"), rows)


@pytest.mark.parametrize("decision", [{"load_best_model_at_end": True}, {"early_stopping_patience": 1}])
@pytest.mark.filterwarnings("ignore:Using EarlyStoppingCallback without load_best_model_at_end")
def test_an_undefined_figure_decides_nothing(
    bert: Path, make_args: Make, rows: list[dict[str, Any]], decision: dict[str, Any]
) -> None:
    steps = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
    args = make_args(bert, **steps, **decision, metric_for_best_model="roc_auc")
    with pytest.raises(UserError, match="does not define 'roc_auc'"):
        SwiftTrainer(args, rows, rows[:2]).train()


@pytest.mark.parametrize(
    ("metric", "up"),
    [
        ("log_loss", False),
        ("eval_ece", False),
        ("log_loss_calibrated", False),
        ("f1_micro", True),
        ("qwk", True),
    ],
)
def test_the_best_figure_is_the_one_that_the_task_calls_better(
    metric: str, up: bool, bert: Path, make_args: Make
) -> None:
    args = make_args(bert, metric_for_best_model=metric)
    assert args.trainer.greater_is_better is up
    assert (
        make_args(bert, metric_for_best_model=metric, greater_is_better=not up).trainer.greater_is_better
        is not up
    )


def test_figures_of_other_data_lie_apart(
    bert: Path,
    make_args: Make,
    rows: list[dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trainer = SwiftTrainer(make_args(bert), rows, rows)
    with trainer.recorded():
        trainer.train()
        own = trainer.evaluate()
        assert trainer.run is not None
        record = dict(trainer.run.record["metrics"])
        before = table(trainer, "predictions", 2)
        other = trainer.evaluate(rows[:3])
        trainer.evaluate(rows[:4], metric_key_prefix="test")
    assert own.keys() == other.keys() and own["eval_log_loss"] != other["eval_log_loss"]
    run = Run.open(trainer.run.folder)
    assert {name: run.record["metrics"][name] for name in record} == record
    assert "test_accuracy" in run.record["metrics"]
    (tmp_path / "half of it.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:5]))
    evaluate_run(run.folder, [f"eval_dataset={tmp_path}/half of it.jsonl"])
    assert "step-2-half-of-it" in capsys.readouterr().out
    counts = {
        path.name: len((path / "predictions.jsonl").read_text().splitlines())
        for path in (run.folder / "evaluations").iterdir()
    }
    assert counts == {"step-2": 9, "step-2-other": 3, "step-2-test": 4, "step-2-half-of-it": 5}
    assert table(trainer, "predictions", 2) == before
    assert list(run.evaluations()) == [2]
    assert Run.open(run.folder).record["metrics"] == run.record["metrics"]
    logged = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
    assert sum("eval_accuracy" in line for line in logged) == 1


def test_the_table_of_predictions_has_the_losses_of_the_figures(
    bert: Path, make_args: Make, rows: list[dict[str, Any]]
) -> None:
    trainer = SwiftTrainer(make_args(bert, max_steps=6, learning_rate=1e-2), rows, rows)
    with trainer.recorded():
        trainer.train()
        figures = trainer.evaluate()
    found = table(trainer, "predictions", 6)
    for name in ("log_loss", "log_loss_calibrated"):
        assert np.mean([row[name] for row in found]) == pytest.approx(figures[f"eval_{name}"], abs=1e-4)


def test_an_adapter_for_other_labels_is_refused(
    bert: Path, make_args: Make, rows: list[dict[str, Any]]
) -> None:
    first = SwiftTrainer(make_args(bert, use_lora=True, lora_rank=2), rows)
    first.train()
    assert first.run is not None
    others = [{**row, "label": f"other {row['label']}"} for row in rows]
    with pytest.raises(UserError, match="has a head for the labels 体育, 科技, 财经"):
        SwiftTrainer(make_args(first.run.model, use_lora=True, lora_rank=2), others)


def test_a_threshold_that_is_given_is_kept(bert: Path, make_args: Make, rows: list[dict[str, Any]]) -> None:
    several = [{"text": row["text"], "labels": [row["label"]]} for row in rows]
    trainer = SwiftTrainer(make_args(bert, threshold=0.3), several)
    trainer.train()
    assert settings(trainer)["threshold"] == 0.3


def test_a_threshold_for_each_label(bert: Path, make_args: Make, rows: list[dict[str, Any]]) -> None:
    several = [{"text": row["text"], "labels": [row["label"]]} for row in rows]
    trainer = SwiftTrainer(make_args(bert, threshold="per_label"), several, several)
    with trainer.recorded():
        trainer.train()
        trainer.evaluate()
    assert len(settings(trainer)["threshold"]) == 3
    assert [row["threshold"] for row in table(trainer, "per_class", 2)] == settings(trainer)["threshold"]


def test_the_folder_of_an_adapter_has_no_card_that_is_a_form_to_fill_in(
    bert: Path, make_args: Make, rows: list[dict[str, Any]]
) -> None:
    trainer = SwiftTrainer(
        make_args(bert, max_steps=1, use_lora=True, save_strategy="steps", save_steps=1), rows
    )
    trainer.train()
    assert trainer.run is not None
    assert sorted(trainer.run.folder.rglob("adapter_config.json"))
    assert not sorted(trainer.run.folder.rglob("README.md"))


def test_a_part_that_is_held_out_has_every_label_in_its_share(bert: Path, make_args: Make) -> None:
    from swift_core.preparation import prepare_task

    rows = [{"text": f"a {n}", "label": "common"} for n in range(90)]
    rows += [{"text": f"b {n}", "label": "rare"} for n in range(10)] + [{"text": "c", "label": "single"}]
    made = prepare_task(make_args(bert, eval_split=0.2), rows)
    assert made.train is not None and made.evaluation is not None
    held = list(made.evaluation.records["label"])
    assert (held.count("common"), held.count("rare"), held.count("single")) == (18, 2, 0)
    assert len(made.train.records) + len(held) == 101
    scores = [{"text": f"a {n}", "label": n / 7} for n in range(90)]
    scores += [{"text": f"b {n}", "label": 50.0} for n in range(10)]
    scored = prepare_task(make_args(bert, eval_split=0.2), scores).evaluation
    assert scored is not None
    assert sum(label == 50.0 for label in scored.records["label"]) < 10
    for values in ([str(n / 7) for n in range(90)], [7 * n for n in range(90)]):
        numbers = [{"text": f"a {n}", "label": value} for n, value in enumerate(values)]
        parts = prepare_task(make_args(bert, eval_split=0.2, problem="regression"), numbers)
        assert parts.evaluation is not None and len(parts.evaluation.records) == 18
    lone = [{"text": f"a {n}", "label": "a"} for n in range(5)]
    lone += [{"text": f"b {n}", "label": f"b{n}"} for n in range(50)]
    held_out = prepare_task(make_args(bert, eval_split=0.1), lone).evaluation
    assert held_out is not None
    assert set(held_out.records["label"]) == {"a"}
    other = prepare_task(make_args(bert, eval_split=0.2, seed=7), rows)
    assert other.evaluation is not None
    assert list(other.evaluation.records["text"]) != list(made.evaluation.records["text"])


def test_overlap_of_training_and_evaluation_data_is_told(
    bert: Path, make_args: Make, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from swift_core.preparation import prepare_task

    train = [
        {
            "text": "The quick brown fox jumps over the lazy dog, twice, and then it sleeps until noon.",
            "label": "x",
        },
        {"text": "Something else entirely is said here.", "label": "y"},
    ]
    evaluation = [
        {
            "text": "the quick brown fox jumps over the lazy dog twice and then it sleeps until NOON",
            "label": "y",
        },
        {"text": "Something else entirely is said here!!", "label": "y"},
        {
            "text": "the quick brown fox jumps over the lazy dog, twice, and then it sleeps until ten",
            "label": "x",
        },
        {"text": "No text is like this one.", "label": "x"},
    ]
    prepare_task(make_args(bert), train, evaluation)
    told = capsys.readouterr().out
    assert "3 of 4 evaluation texts are in the training data too (2 equal, 1 nearly)" in told
    assert "evaluation row 1 = training row 1 (1.00, other label)" in told
    prepare_task(make_args(bert, report_duplicates=False), train, evaluation)
    assert "overlap" not in capsys.readouterr().out
    monkeypatch.setattr("swift_cls.duplicates._MOST_CHARACTERS", 200)
    prepare_task(make_args(bert), train, evaluation)
    told = capsys.readouterr().out
    assert "only equal texts are looked for" in told
    assert "2 of 4 evaluation texts are in the training data too (2 equal):" in told
    monkeypatch.undo()
    symbols = [{"text": text, "label": label} for text, label in (("C++", "x"), ("😀", "y"), ("कि", "x"))]
    others = [{"text": text, "label": label} for text, label in (("C", "x"), ("😢", "y"), ("की", "x"))]
    prepare_task(make_args(bert), symbols, others)
    assert "overlap" not in capsys.readouterr().out
    contract = "the parties agree that " * 400
    pairs = [{"text": contract, "text_pair": question, "label": "x"} for question in ("Who?", "Refund?")]
    prepare_task(make_args(bert), [pairs[0], train[1]], [pairs[1]])
    assert "overlap" not in capsys.readouterr().out


def test_a_data_set_that_names_its_classes_gives_the_model_their_names_in_its_order(
    bert: Path, make_args: Make, rows: list[dict[str, Any]]
) -> None:
    names = ["科技", "体育", "财经"]
    ids = datasets.Dataset.from_list([{**row, "label": names.index(row["label"])} for row in rows])
    trainer = SwiftTrainer(
        make_args(bert, max_steps=1),
        ids.cast_column("label", datasets.ClassLabel(names=names)),
        list(ids),  # ids alone
    )
    trainer.train()
    assert trainer.network.config.id2label == dict(enumerate(names))
    by_id, by_name = trainer.evaluate(), trainer.evaluate(rows)
    assert {name: by_id[name] for name in ("eval_f1_macro", "eval_mcc", "eval_log_loss")} == {
        name: by_name[name] for name in ("eval_f1_macro", "eval_mcc", "eval_log_loss")
    }


def test_the_card_tells_the_rows_of_each_part(
    bert: Path, make_args: Make, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    trainer = SwiftTrainer(make_args(bert, max_steps=1, dataset=str(data), eval_split=0.34))
    trainer.train()
    card = (trainer.save_model(format="hf") / "README.md").read_text()
    assert "| train | rows.jsonl | 6 |" in card
    assert "| eval | rows.jsonl | 3 |" in card


def test_an_evaluation_after_the_end_of_a_run_is_in_its_curves_too(
    bert: Path, make_args: Make, rows: list[dict[str, Any]]
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer = SwiftTrainer(make_args(bert, max_steps=2), rows, rows)
    for _ in range(2):  # two runs, one after the other
        trainer.train()
        figures = trainer.evaluate()
        trainer.evaluate(rows[:3])
        assert trainer.run is not None
        events = EventAccumulator(str(trainer.run.logs)).Reload()
        assert [(e.step, pytest.approx(e.value)) for e in events.Scalars("eval/f1_macro")] == [
            (2, figures["eval_f1_macro"])
        ]
        assert [image.step for image in events.Images("eval/confusion")] == [2]
        assert [image.step for image in events.Scalars("train/train_loss")] == [2]
        logged = [
            json.loads(line) for line in (trainer.run.folder / "metrics.jsonl").read_text().splitlines()
        ]
        assert sum("eval_f1_macro" in line for line in logged) == 1
