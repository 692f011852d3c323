"""The commands on good input: what they print, what they write, and how an interrupted run goes on."""

from __future__ import annotations

import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from swift_core import SwiftTrainer, __version__, runner
from swift_core.cards import training_of
from swift_core.preparation import prepare_for_evaluation, prepare_for_export
from swift_core.runfile import read_run_file
from swift_core.runner import open_trained
from swift_core.runs.record import Run

# -- showing ----------------------------------------------------------------------------------------------


def test_tasks_lists_what_is_installed(cli):
    assert "swift-embedding" in cli("tasks").out
    (row,) = [row for row in json.loads(cli("tasks --json").out) if row["task_type"] == "embedding"]
    assert row.keys() == {"task_type", "package", "version", "summary"}


def test_plugins_lists_packages_with_their_faults(cli, install):
    install("acme-broken", entry_points={"swift.tasks": {"toy": "nowhere:SPEC"}})
    install("acme-hello", entry_points={"swift.commands": {"hello": "acme_hello:main"}})
    rows = {row["package"]: row for row in json.loads(cli("plugins --json").out)}
    assert rows["swift-embedding"]["fault"] is None
    assert "can't be loaded" in rows["acme-broken"]["fault"]
    assert rows["acme-hello"]["provides"] == "command hello"
    assert "acme-broken" in cli("plugins").out
    assert "1 more can't be used; `swift plugins` says why." in cli("tasks").out


def test_describe_shows_columns_options_metrics_and_exports(cli):
    text = cli("describe embedding").out
    assert all(word in text for word in ("negatives", "temperature", "lora_rank", "ndcg@10", "faiss"))
    assert "gradient_accumulation_steps" not in text
    assert "gradient_accumulation_steps" in cli("describe embedding --all").out
    told = json.loads(cli("describe embedding --json").out)
    assert [column["name"] for column in told["layouts"][0]["columns"][:3]] == [
        "query",
        "positive",
        "negatives",
    ]
    assert "FlagEmbedding" in [layout["name"] for layout in told["layouts"]]
    assert {option["group"] for option in told["options"]} == {"task", "core"}


def test_the_schema_takes_a_good_run_file_and_refuses_a_wrong_one(cli, project):
    schema = json.loads(cli("describe embedding --json-schema").out)
    good = read_run_file("run.yaml").values
    wrong = [{**good, "temprature": 1}, {**good, "temperature": 0}, {**good, "seed": "x"}, {"seed": 1}]
    if find_spec("jsonschema") is not None:
        from jsonschema import Draft202012Validator

        validator = Draft202012Validator(schema)
        assert validator.is_valid(good)
        assert not any(validator.is_valid(values) for values in wrong)
    known = schema["properties"]
    assert (schema["required"], schema["additionalProperties"]) == (["task_type"], False)
    assert known.keys() >= good.keys() and known["task_type"]["const"] == "embedding"
    assert known["temperature"]["exclusiveMinimum"] == known["max_steps"]["anyOf"][1]["exclusiveMinimum"] == 0
    assert (known["seed"]["type"], known["per_device_train_batch_size"]["default"]) == ("integer", 32)
    assert all(entry.get("description") for entry in known.values())


def test_python_m_and_version(swift, cli):
    assert swift("--version", code=0).stdout == f"swift-core {__version__}\n"
    assert cli("--version").out == f"swift-core {__version__}\n"
    assert "Fine-tune models" in cli("--help").out
    assert "RUN.yaml" in cli("train --help").out


def test_a_command_of_a_package_gets_the_rest_of_the_line(cli, install):
    text = "def main(argv):\n    print('hello', *argv)\n    return 7\n"
    install(
        "acme-hello",
        files={"acme_hello.py": text},
        entry_points={"swift.commands": {"hello": "acme_hello:main"}},
    )
    done = cli("hello --to you")
    assert (done.code, done.out) == (7, "hello --to you\n")
    # Where a line ends depends on what else is installed, and hyphens are as good as spaces to argparse.
    assert "hello(acme-hello)" in "".join(cli("--help").out.split())


# -- checking ---------------------------------------------------------------------------------------------


def test_check_tells_rows_tokens_and_cut_rows_and_needs_no_weights(project, cli):
    (project / "model/model.safetensors").unlink()
    done = cli("check run.yaml eval_split=0.25 max_length=3")
    assert done.code == 0, done.err
    assert "train     6 rows of train.jsonl:" in done.out and "eval      2 rows of" in done.out
    assert "6 rows cut to max_length (100.0%)" in done.out
    assert done.out.endswith("run.yaml: no fault found\n")
    assert not (project / "out").exists()
    told = json.loads(cli("check run.yaml --json").out)
    assert (told["task_type"], told["data"][0]["rows"]) == ("embedding", 8)
    assert cli("train run.yaml").code == 2  # the weights are really gone


@pytest.mark.parametrize(
    "content",
    [
        "\ufeff{text}".replace("\n", "\r\n"),
        "{text}\n# the end\n\n",
    ],
)
def test_a_run_file_of_another_editor_is_fine(content: str, project, cli):
    text = (project / "run.yaml").read_text()
    (project / "run.yaml").write_bytes(content.replace("{text}", text).replace("\n", "\r\n").encode())
    assert cli("check run.yaml").code == 0


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "a.jsonl",
            '\n\n{"query": "a", "positive": "b", "negatives": []}\n  \n{"query": "c", "positive": "d"}',
        ),
        ("a.jsonl", '\ufeff{"query": "a", "positive": "b"}\r\n{"query": "c", "positive": "d"}\r\n'),
        ("a.json", '[{"query": "a", "positive": "b"}, {"query": "c", "positive": "d"}]'),
        ("a.csv", 'query,positive\n"a, b",c\nd,"e\nf"\n'),
        ("a.tsv", "query\tpositive\na\tb\nc\td\n"),
    ],
)
def test_data_of_every_kind_is_read(name: str, content: str, project, cli):
    (project / name).write_text(content, newline="")
    done = cli(f"check run.yaml dataset={name}")
    assert done.code == 0, done.err
    assert f"2 rows of {name}:" in done.out


# -- the life of a run ------------------------------------------------------------------------------------


def test_train_evaluate_and_export(project, cli):
    done = cli("train run.yaml eval_split=0.25 logging_steps=1 export_formats=[hf]")
    assert done.code == 0, done.err
    head = [line.split("  ")[0] for line in done.out.splitlines()]
    assert head[:4] == ["task", "model", "train on", "evaluate"]
    assert "step 2/2" in done.out and "evaluation at step 2" in done.out
    run = next(project.glob("out/task-type=embedding/*"))
    assert f"finished  {run}\n" in done.out
    assert {"model", "exports", "run.json", "metrics.jsonl", "checkpoint-2"} <= {
        path.name for path in run.iterdir()
    }

    measured = json.loads(cli(f"evaluate {run} --json").out)
    record = json.loads((run / "run.json").read_text())
    assert (record["state"], record["label"]) == ("finished", "embedding")
    assert measured["eval_ndcg@10"] == pytest.approx(record["metrics"]["eval_ndcg@10"])
    assert "eval_ndcg@10" in cli(f"evaluate {run}").out

    exported = json.loads(cli(f"export {run} --format faiss --json").out)
    assert exported == {"format": "faiss", "folder": str(run / "exports/faiss")}
    assert (run / "exports/faiss/manifest.json").is_file()
    assert cli(f"export {run} --format hf query_prompt=Q:").code == 0


@pytest.mark.parametrize(
    "change", ["eval_strategy: epoch\nload_best_model_at_end: true\nsave_strategy: epoch", "bf16: true"]
)
def test_a_run_is_exported_where_its_training_could_not_run(change: str, project, trained_run, cli):
    shutil.copytree(trained_run, project / "R")
    path = project / "R/run.json"
    record = json.loads(path.read_text())
    pairs = (line.split(": ") for line in change.splitlines())
    record["options"].update({name: json.loads(text) if text == "true" else text for name, text in pairs})
    path.write_text(json.dumps(record))
    done = cli("export R --format hf")
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    "training", [{"early_stopping_patience": 3, "eval_strategy": "epoch"}, {"max_tokens_per_batch": 1}]
)
def test_a_run_is_not_asked_again_whether_its_training_could_run(
    training: dict[str, Any], trained_run, project
):
    run = Run.open(trained_run)
    run.record["options"].update({"dataset": str(trained_run.parents[2] / "train.jsonl"), **training})
    args = open_trained(run, ["eval_split=0.25", f"model_name_or_path={run.model}"])
    for prepare in (prepare_for_evaluation, prepare_for_export):
        ready = prepare(args)
        assert ready.train is not None and ready.evaluation is not None


@pytest.mark.parametrize(
    ("recorded", "asked"),
    [
        ({"eval_split": 0.25}, "eval_dataset=train.jsonl"),
        ({"eval_dataset": "train.jsonl"}, "eval-split=0.5"),
        ({"eval_retrieval": "beir"}, "eval_dataset=train.jsonl"),
        ({"eval_dataset": "train.jsonl"}, "eval_retrieval=beir"),
    ],
)
def test_evaluation_data_that_is_asked_for_takes_the_place_of_the_runs(
    recorded: dict[str, Any], asked: str, trained_run
):
    run = Run.open(trained_run)
    run.record["options"].update(recorded)
    args = open_trained(run, [asked])
    kept = {name: args.given.get(name) for name in ("eval_dataset", "eval_split", "eval_retrieval")}
    name, _, value = asked.replace("-", "_").partition("=")
    assert {name: str(found) for name, found in kept.items() if found} == {name: value}
    assert open_trained(run, ["seed=2"]).given.items() >= recorded.items()


def test_the_json_of_a_run_is_all_that_stdout_holds(project, swift):
    done = swift("train", "run.yaml", "eval_split=0.25", "export_formats=[hf]", "--json", "seed=3", code=0)
    told = json.loads(done.stdout)
    assert told["state"] == "finished" and told["exports"].keys() == {"hf"}
    assert Path(told["model"]).is_dir()
    assert json.loads((Path(told["folder"]) / "run.json").read_text())["options"]["seed"] == 3
    assert "task      embedding" in done.stderr


def test_training_goes_on_from_an_adapter_alone_merged_or_not(project, cli):
    assert cli("train run.yaml use_lora=true max_steps=1").code == 0
    saved = next(project.glob("out/*/*/model"))
    for name in ("tokenizer.json", "tokenizer_config.json"):  # as peft saves it
        (saved / name).unlink()
    for use_lora in ("false", "true"):
        done = cli(f"train run.yaml model_name_or_path={saved} use_lora={use_lora} max_steps=1")
        assert done.code == 0, done.err


def test_a_figure_that_is_nan_is_told(project, trained_run, cli, monkeypatch):
    shutil.copytree(trained_run.parent.parent, project / "out")
    (run,) = map(Run.open, (path.parent for path in project.glob("out/*/*/run.json")))
    run.update(metrics={"eval_mrr": math.nan, "eval_ndcg@10": 0.5})
    done = cli("runs out")
    assert done.code == 0 and "mrr -  ndcg@10 0.5" in done.out
    assert training_of(open_trained(run, []), run).metrics == {"ndcg@10": 0.5}
    monkeypatch.setattr(runner, "evaluate_run", lambda *_: {"eval_mrr": math.nan})
    assert cli("evaluate out --json").out == '{"eval_mrr": null}\n'


# -- Ctrl-C -----------------------------------------------------------------------------------------------


def wait_for(found: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    """Wait until ``found`` is true; fail with what the process said when it ends before."""
    deadline = time.monotonic() + 60
    while not found():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_ctrl_c_ends_with_130_and_the_command_that_goes_on(project, cli):
    command = [sys.executable, "-m", "swift_core", "train", "run.yaml", "max_steps=100000", "save_steps=3"]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        wait_for(lambda: list(project.glob("out/*/*/checkpoint-*/trainer_state.json")), process)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert "Traceback" not in said
    told, last = said.splitlines()[-2:]
    assert last == "swift: interrupted"
    (run,) = project.glob("out/*/*")
    assert json.loads((run / "run.json").read_text())["state"] == "interrupted"
    assert told.startswith(f"swift: {run} was interrupted; go on from checkpoint-")
    goes_on = told.partition("with: swift ")[2]
    assert goes_on == f"train run.yaml max_steps=100000 save_steps=3 --resume {run}"
    # The command works, here with an end in reach.
    step = int(told.partition("checkpoint-")[2].split()[0])
    done = cli(goes_on.replace("100000", str(step + 1)))
    assert done.code == 0, done.err
    assert json.loads((run / "run.json").read_text())["state"] == "finished"


def test_ctrl_c_before_the_first_checkpoint_says_that_there_is_nothing_to_go_on_from(
    project, cli, monkeypatch
):
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(SwiftTrainer, "training_step", interrupted)
    done = cli("train run.yaml save_steps=500")
    assert done.code == 130
    assert "no checkpoint was written yet (save_steps=500)" in done.err
    record = json.loads(next(project.glob("out/*/*/run.json")).read_text())
    assert record["state"] == "interrupted"


def test_ctrl_c_before_there_is_a_run_says_just_that(project, trained_run, cli, monkeypatch):
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    shutil.copytree(trained_run.parent.parent, project / "out")
    (record,) = project.glob("out/*/*/run.json")  # another process was interrupted here before
    session = {**json.loads(record.read_text())["sessions"][0], "pid": 1}
    record.write_text(
        json.dumps({**json.loads(record.read_text()), "state": "interrupted", "sessions": [session]})
    )
    monkeypatch.setattr("swift_core.runner.prepare_task", interrupted)
    done = cli(shlex.join(["train", "run.yaml"]))
    assert (done.code, done.err) == (130, "swift: interrupted\n")
