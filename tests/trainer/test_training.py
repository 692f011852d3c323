"""A run from the first line on the screen to the saved model."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from datasets import Dataset
from safetensors.torch import load_file

from swift_core import SwiftError, SwiftTrainer, TrainingArguments, UserError, hookimpl


def test_the_three_lines_of_the_readme(tiny_encoder: Path, tmp_path: Path, rows):
    args = TrainingArguments(
        task_type="embedding",
        model_name_or_path=str(tiny_encoder),
        pooling_method="mean",
        normalize_embeddings=True,
        output_dir=str(tmp_path / "bge-finetuned"),
        num_train_epochs=1,
    )
    trainer = SwiftTrainer(args, train_dataset=rows(16))
    trainer.train()
    bundle = trainer.save_model(format="faiss")
    assert bundle == trainer.run.folder / "exports" / "faiss"
    assert trainer.run.folder.parent == tmp_path / "bge-finetuned" / "task-type=embedding"
    assert isinstance(trainer.args, transformers.TrainingArguments)
    assert trainer.run.record["state"] == "finished"
    assert {"run.json", "metrics.jsonl", "model", "logs", "exports"} <= {
        p.name for p in trainer.run.folder.iterdir()
    }


@pytest.mark.parametrize("use_lora", [False, True])
def test_training_lowers_the_loss_and_the_same_seed_gives_the_same_curve(make_trainer, curve, use_lora):
    trainers = [make_trainer(max_steps=12, use_lora=use_lora) for _ in range(2)]
    curves = []
    for trainer in trainers:
        trainer.train()
        curves.append(curve(trainer.run.folder))
    assert curves[0] == curves[1]
    losses = [loss for _, loss in curves[0]]
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])


def test_data_may_come_as_a_dataset_a_path_or_an_option(make_trainer, options, rows, tmp_path: Path):
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(16)))
    by_option = SwiftTrainer(TrainingArguments(**options, dataset=str(path)))
    for trainer in (make_trainer(Dataset.from_list(rows(16))), make_trainer(str(path)), by_option):
        assert len(trainer.train_dataset) == 16


def test_without_training_data_train_says_what_is_missing(options):
    with pytest.raises(UserError, match="dataset"):
        SwiftTrainer(TrainingArguments(**options)).train()


def test_the_first_lines_say_what_is_trained_on_what_and_where_it_goes(make_trainer, capsys):
    trainer = make_trainer(temperature=0.1)
    trainer.train()
    head = capsys.readouterr().out.splitlines()[:10]
    text = "\n".join(head)
    for part in (
        "embedding",
        "BertModel",
        "16 rows of train_dataset",
        "none cut",
        "temperature=0.1",
        "4 rows a step",
        str(trainer.run.folder),
        "step 1/4",
        "useful tokens/s",
        "ETA",
    ):
        assert part in text, part


def test_a_reader_of_the_output_that_goes_away_does_not_end_the_training(make_trainer, monkeypatch):
    reader, writer = os.pipe()

    class GoingAway(transformers.TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            os.close(reader)

    with os.fdopen(writer, "w") as unread:
        monkeypatch.setattr(sys, "stdout", unread)
        trainer = make_trainer(max_steps=2, verify_saves=False, callbacks=[GoingAway()])
        trainer.train()
    assert (trainer.run.state, trainer.state.global_step) == ("finished", 2)


def test_callbacks_of_the_library_still_see_the_run(make_trainer):
    seen = []

    class Watcher(transformers.TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            seen.append((state.global_step, logs.get("loss")))

    make_trainer(callbacks=[Watcher()]).train()
    assert [step for step, loss in seen if loss is not None] == [1, 2, 3, 4]


def test_extensions_watch_the_run_and_wrap_its_hooks(make_trainer):
    seen = []

    class Extension:
        @hookimpl
        def run_started(self, run):
            seen.append("started")

        @hookimpl
        def metrics_logged(self, step, metrics):
            seen.append(step)

        @hookimpl
        def run_ended(self, run):
            seen.append(run.record["state"])

        @hookimpl(wrapper=True)
        def compute_loss(self):
            output = yield
            return type(output)(output.loss * 0 + 7.0, output.metrics)

    trainer = make_trainer(extensions=[Extension()])
    trainer.train()
    assert (seen[0], seen[-1]) == ("started", "finished")
    assert trainer.state.log_history[0]["loss"] == pytest.approx(7.0)


def test_event_files_carry_the_label(make_trainer):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer = make_trainer()
    trainer.train()
    events = EventAccumulator(str(trainer.run.logs)).Reload()
    text = events.Tensors("task/text_summary")[0].tensor_proto.string_val[0].decode()
    assert text == "task=embedding"
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4]


def test_the_record_tells_how_the_run_came_about(make_trainer):
    trainer = make_trainer(hub_token="hf_secret")
    trainer.train()
    text = (trainer.run.folder / "run.json").read_text()
    record = json.loads(text)
    assert "hf_secret" not in text
    assert record["label"] == "embedding"
    assert record["packages"].keys() >= {"swift-core", "swift-embedding", "torch", "transformers"}
    assert record["options"]["learning_rate"] == 1e-2
    assert record["resolved_options"]["temperature"] == 0.05
    assert record["data"][0]["rows"] == 16
    assert len(record["data"][0]["sources"][0]["sha256"]) == 64


def test_a_failed_run_says_so_in_its_record(make_trainer):
    class Broken:
        @hookimpl(wrapper=True)
        def compute_loss(self):
            yield
            raise RuntimeError("boom")

    trainer = make_trainer(extensions=[Broken()])
    with pytest.raises(RuntimeError, match="boom"):
        trainer.train()
    record = json.loads((trainer.run.folder / "run.json").read_text())
    assert (record["state"], record["error"]) == ("failed", "RuntimeError: boom")


def test_an_evaluation_neither_moves_the_random_numbers_nor_leaves_dropout_off(make_trainer, curve, rows):
    quiet = make_trainer(max_steps=6)
    quiet.train()

    class Greedy:
        @hookimpl(wrapper=True)
        def evaluate(self):
            torch.rand(100)
            return (yield)

    watched = make_trainer(
        max_steps=6, eval_rows=rows(8), eval_strategy="steps", eval_steps=1, extensions=[Greedy()]
    )
    watched.train()
    assert curve(quiet.run.folder) == curve(watched.run.folder)


def test_a_crash_in_evaluation_loses_no_finished_step(make_trainer, rows):
    class Broken:
        @hookimpl(wrapper=True)
        def evaluate(self):
            yield
            raise RuntimeError("scikit-learn is missing")

    trainer = make_trainer(
        eval_rows=rows(8), eval_strategy="steps", eval_steps=2, save_steps=2, extensions=[Broken()]
    )
    with pytest.raises(RuntimeError, match="scikit-learn"):
        trainer.train()
    assert [path.name for path in trainer.run.checkpoints()] == ["checkpoint-2"]


def test_the_best_checkpoint_by_the_primary_metric_is_kept_and_loaded(make_trainer, rows):
    figures = iter([0.2, 0.9, 0.1, 0.3])

    class Scripted:
        @hookimpl(wrapper=True)
        def evaluate(self):
            evaluation = yield
            return type(evaluation)({**evaluation.metrics, "ndcg@10": next(figures)})

    trainer = make_trainer(
        eval_rows=rows(8),
        eval_strategy="steps",
        eval_steps=1,
        save_steps=1,
        save_total_limit=1,
        load_best_model_at_end=True,
        extensions=[Scripted()],
    )
    trainer.train()
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-2")
    best = load_file(trainer.run.folder / "checkpoint-2" / "model.safetensors")
    final = load_file(trainer.run.model / "model.safetensors")
    assert all(torch.equal(best[name], final[name]) for name in best)
    state = json.loads((trainer.run.folder / "checkpoint-2" / "trainer_state.json").read_text())
    assert state["best_metric"] == 0.9


def test_evaluation_writes_its_tables_and_goes_into_the_record(make_trainer, rows):
    trainer = make_trainer(eval_rows=rows(8))
    trainer.train()
    metrics = trainer.evaluate()
    assert metrics["eval_ndcg@10"] == trainer.run.record["metrics"]["eval_ndcg@10"]
    table = trainer.run.folder / "evaluations" / "step-4" / "per_query.jsonl"
    assert len(table.read_text().splitlines()) == 8


def test_evaluating_without_data_says_what_is_missing(make_trainer):
    with pytest.raises(UserError, match="eval_dataset"):
        make_trainer().evaluate()


def test_a_declared_metric_that_does_not_come_back_is_an_error(make_trainer, rows):
    class Forgetful:
        @hookimpl(wrapper=True)
        def evaluate(self):
            yield
            return SimpleNamespace(metrics={}, tables={})

    with pytest.raises(SwiftError, match="evaluate returned a SimpleNamespace"):
        make_trainer(eval_rows=rows(8), extensions=[Forgetful()]).evaluate()


def test_a_record_that_can_not_be_written_does_not_hide_why_the_run_failed(make_trainer, monkeypatch):
    class Broken:
        @hookimpl(wrapper=True)
        def compute_loss(self):
            yield
            raise RuntimeError("the real reason")

    def refuse(*arguments: object) -> None:
        raise UserError("output_dir: no space")

    trainer = make_trainer(extensions=[Broken()])
    monkeypatch.setattr("swift_core.runs.record.Run.end", refuse)
    with pytest.raises(RuntimeError, match="the real reason"):
        trainer.train()


def test_an_unknown_metric_for_the_best_model_names_those_that_came(make_trainer, rows):
    trainer = make_trainer(
        eval_rows=rows(8),
        eval_strategy="steps",
        eval_steps=2,
        save_steps=2,
        metric_for_best_model="ncdg@10",
        load_best_model_at_end=True,
    )
    with pytest.raises(UserError, match="Did you mean 'ndcg@10'"):
        trainer.train()
    assert [path.name for path in trainer.run.checkpoints()] == ["checkpoint-2"]


def test_rows_can_be_grouped_by_length(make_trainer, rows):
    trainer = make_trainer(rows(32), train_sampling_strategy="group_by_length")
    trainer.train()
    assert trainer.state.global_step == 4


def test_two_trainings_of_one_trainer_are_two_runs_with_a_curve_each(make_trainer, curve):
    trainer = make_trainer()
    folders = []
    for _ in range(2):
        trainer.train()
        folders.append(trainer.run.folder)
    assert folders[0] != folders[1]
    assert [step for step, _ in curve(folders[1])] == [1, 2, 3, 4]


def test_rows_given_to_evaluate_are_the_ones_that_are_measured(make_trainer, rows, tmp_path):
    (tmp_path / "qrels").mkdir()
    (tmp_path / "corpus.jsonl").write_text('{"_id": "d", "text": "sea"}\n')
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "sea"}\n')
    (tmp_path / "qrels" / "test.jsonl").write_text('{"query-id": "q", "corpus-id": "d", "score": 1}\n')
    trainer = make_trainer(eval_retrieval=str(tmp_path))
    assert trainer.evaluate()["eval_ndcg@10"] == 1.0
    assert trainer.evaluate(rows(12))["eval_ndcg@10"] < 1.0
    with pytest.raises(UserError, match="both name evaluation data"):
        make_trainer(eval_rows=rows(4), eval_retrieval=str(tmp_path))


def test_paths_are_welcome_where_options_name_files(make_trainer, tmp_path):
    assert make_trainer(output_dir=tmp_path / "here").options.output_folder == tmp_path / "here"
