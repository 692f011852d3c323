"""Whole runs: what is gathered, learned, recorded, and the same however it is cut."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from swift_core import SwiftTrainer, TrainingArguments
from swift_core.evaluation_inputs import evaluation_inputs, other_inputs
from swift_core.preparation import prepare_task
from swift_core.runner import evaluate_run, train_run
from swift_core.testing.forks import run_forked
from swift_reranker.reranker import load_reranker

Make = Callable[..., TrainingArguments]

# SGD without clipping or dropout: the weights after a step show the gradient itself.
EXACT: dict[str, Any] = {
    "optim": "sgd",
    "learning_rate": 0.1,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0.0,
    "loss": "lambda_loss",
}
JOB = """
import json
from swift_core import SwiftTrainer, TrainingArguments

options, rows, evaluation = json.load(open("job.json"))
trainer = SwiftTrainer(TrainingArguments(**options), rows, evaluation)
with trainer.recorded():
    trainer.train()
    metrics = trainer.evaluate()
if trainer.run is not None:
    json.dump([str(trainer.run.folder), metrics], open("result.json", "w"))
"""


@pytest.fixture
def pairs(lists: list[Any], tmp_path: Path) -> Path:
    """The lists as pairs, one a line, not in the order of their lists."""
    rows = [
        {"query": entry["query"], "document": document, "label": float(label > 0)}
        for entry in lists
        for document, label in zip(entry["documents"], entry["labels"], strict=True)
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in sorted(rows, key=lambda row: row["document"])))
    return path


@pytest.fixture(scope="session")
def still_bert(bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small BERT without dropout."""
    folder = tmp_path_factory.mktemp("still")
    for path in bert.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("fixture", "options"),
    [
        ("bert", {}),
        ("qwen", {"scoring": "generative", "use_lora": True}),
        ("qwen", {"scoring": "head", "loss": "softmax_cross_entropy"}),
    ],
)
def test_a_run_learns_from_pairs_and_its_model_scores_the_same_when_loaded(
    make_args: Make,
    pairs: Path,
    lists: list[Any],
    request: Any,
    capsys: Any,
    fixture: str,
    options: dict[str, Any],
) -> None:
    args = make_args(
        request.getfixturevalue(fixture),
        dataset=str(pairs),
        eval_dataset=str(pairs),
        max_steps=40,
        learning_rate=1e-2,
        per_device_train_batch_size=3,
        export_formats=[],
        **options,
    )
    run = train_run(args)
    out = capsys.readouterr().out
    assert "11 rows are 3 lists" in out
    assert ("scoring   a new head" in out) == (args.task.scoring != "generative")
    assert "evaluation at step 0  ndcg@10" in out
    assert run is not None
    assert run.record["metrics"]["eval_ndcg@10"] == pytest.approx(1.0)
    again = evaluate_run(run.folder)
    assert again["eval_ndcg@10"] == pytest.approx(1.0)
    loaded = load_reranker(run.model)
    for entry in lists:
        scored = loaded.score(entry["query"], entry["documents"])
        assert entry["labels"][int(scored.scores.argmax())] > 0
        assert ((scored.scores > 0) & (scored.scores < 1)).all()


@pytest.mark.parametrize(("fixture", "scoring"), [("bert", "head"), ("qwen", "generative")])
def test_a_model_in_half_precision_is_saved_and_loaded(
    make_args: Make, pairs: Path, request: Any, fixture: str, scoring: str
) -> None:
    args = make_args(
        request.getfixturevalue(fixture), dataset=str(pairs), scoring=scoring, model_dtype="bfloat16"
    )
    run = train_run(args)
    assert run is not None
    assert run.record["state"] == "finished"
    assert load_reranker(run.model).score("who won", ["the red team", "rain"]).scores.shape == (2,)


def test_a_query_is_never_on_both_sides(
    make_args: Make, bert: Path, lists: list[Any], tmp_path: Path
) -> None:
    paths = []
    for number in range(2):
        rows = [
            {
                "query_id": f"{number} {n}",  # another one in each file: the lists of a query stay apart
                "query": f"{lists[0]['query']} {n}",
                "documents": ["a", "b", "c"][number : 2 + number],
                "labels": [1, 0],
            }
            for n in range(4)
        ]
        paths.append(tmp_path / f"{number}.jsonl")
        paths[-1].write_text("\n".join(json.dumps(row) for row in rows))
    args = make_args(bert, dataset=[str(path) for path in paths], eval_split=0.25)
    ready = prepare_task(args)
    assert ready.train is not None and ready.evaluation is not None
    sides = [set(part.records["query"]) for part in (ready.train, ready.evaluation)]
    assert not sides[0] & sides[1]
    assert (len(ready.train.records), len(ready.evaluation.records)) == (6, 2)


def test_a_run_that_got_worse_says_so(
    make_args: Make, bert: Path, pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = make_args(bert, dataset=str(pairs), max_steps=40, learning_rate=1e-2)
    good = train_run(args)
    assert good is not None
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    wrong = [{**row, "label": 1.0 - row["label"]} for row in rows]
    worse = make_args(
        good.model,
        eval_dataset=str(pairs),
        max_steps=40,
        learning_rate=1e-2,
    )
    trainer = SwiftTrainer(worse, wrong)
    with trainer.recorded():
        trainer.train()
        trainer.evaluate()
    out = capsys.readouterr().out
    assert "scoring   the head of the model, which reads pairs" in out
    assert "worse than before training: ndcg@10 was 1" in out


def test_a_gradient_does_not_depend_on_how_a_batch_is_cut(
    make_args: Make, still_bert: Path, lists: list[Any], tmp_path: Path
) -> None:
    weights = []
    data = [*lists, lists[0]]
    for size, accumulation in ((4, 1), (2, 2), (1, 4)):
        args = make_args(
            still_bert,
            **EXACT,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
            output_dir=str(tmp_path / str(size)),
            max_steps=1,
        )
        data = [{**row, "query": f"{row['query']} {n}"} for n, row in enumerate(lists)]
        data.append({**lists[0], "query": "another"})
        trainer = SwiftTrainer(args, data)
        trainer.train()
        assert trainer.run is not None
        weights.append(load_file(trainer.run.model / "model.safetensors"))
    for other in weights[1:]:
        assert all(torch.allclose(weights[0][name], other[name], atol=1e-6) for name in other)


def test_a_run_goes_on_exactly_where_it_was_killed(
    make_args: Make, bert: Path, pairs: Path, tmp_path: Path
) -> None:
    options = {"dataset": str(pairs), "max_steps": 4, "per_device_train_batch_size": 1, "save_steps": 2}
    whole = train_run(make_args(bert, **options, save_strategy="steps", output_dir=str(tmp_path / "a")))
    assert whole is not None
    args = make_args(bert, **options, save_strategy="steps", output_dir=str(tmp_path / "b"))
    trainer = SwiftTrainer(args)

    class Killed(Exception):
        pass

    compute = trainer.runtime.compute_loss
    calls: list[int] = []

    def dying(**given: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise Killed
        return compute(**given)

    trainer.runtime.compute_loss = dying  # type: ignore[method-assign]
    with pytest.raises(Killed):
        trainer.train()
    assert trainer.run is not None
    resumed = train_run(args, resume=str(trainer.run.folder))
    assert resumed is not None
    first, second = (load_file(run.model / "model.safetensors") for run in (whole, resumed))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_two_processes_are_as_good_as_one(
    make_args: Make, still_bert: Path, lists: list[Any], tmp_path: Path
) -> None:
    train = [{**row, "query": f"{row['query']} {n}"} for n in range(2) for row in lists[:2]]
    args = make_args(still_bert, **EXACT, per_device_train_batch_size=4)
    one = SwiftTrainer(args, train, lists)
    with one.recorded():
        one.train()
        figures = one.evaluate()
    two = make_args(still_bert, **EXACT, per_device_train_batch_size=2, output_dir=str(tmp_path / "two"))
    given = {"task_type": "reranker", **two.given}
    (tmp_path / "job.json").write_text(json.dumps([given, train, lists]))
    (tmp_path / "job.py").write_text(JOB)
    done = run_forked("job.py", folder=tmp_path, processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    folder, found = json.loads((tmp_path / "result.json").read_text())
    assert one.run is not None
    weights = [load_file(place / "model/model.safetensors") for place in (one.run.folder, Path(folder))]
    assert all(torch.allclose(weights[0][name], weights[1][name], atol=1e-5) for name in weights[0])
    for name, value in figures.items():
        if name != "eval_runtime":
            assert abs(found[name] - value) < 1e-4, name


def test_the_first_stage_belongs_to_what_evaluations_read(
    make_args: Make, bert: Path, tmp_path: Path
) -> None:
    run_file = tmp_path / "first.run"
    run_file.write_text("q1 Q0 d1 1 2.0 x\n")
    (tmp_path / "beir").mkdir()
    given = {"eval_retrieval": str(tmp_path / "beir"), "first_stage": str(run_file), "first_stage_depth": 20}
    before = evaluation_inputs(make_args(bert, **given))
    assert list(before) == ["eval_retrieval", "first_stage", "first_stage_depth"]
    run_file.write_text("q1 Q0 d2 1 2.0 x\n")
    after = evaluation_inputs(make_args(bert, **{**given, "first_stage_depth": 30}))
    assert other_inputs(before, after) == ["first_stage", "first_stage_depth"]
