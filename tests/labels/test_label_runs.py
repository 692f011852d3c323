"""A label is a task type to every command; its policy and its gates hold for runs."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from swift_core import SwiftTrainer, TrainingArguments, UserError
from swift_core.resuming import new_run
from swift_core.runner import open_trained
from swift_core.runs.record import Run

APPROVED = """\
[labels.speed-curve]
extends = "line-fitting"
status = "approved"
approval = { by = "ann", when = 2026-11-20, why = "it pays" }
"""
EASY = APPROVED + 'gates = ["mse < 1e9"]\n'
HARD = APPROVED + 'gates = ["mse < 1e9", "mse <= 1e-9"]\n'


@pytest.fixture
def write(project: Path) -> Callable[[str], None]:
    """Write labels.toml."""
    return lambda text: (project / "labels.toml").write_text(text) and None


def record_of(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return record


def sole_run(project: Path) -> Path:
    (folder,) = project.glob("output/*/*")
    return folder


# -- what a label is to a run -----------------------------------------------------------------------------


def test_a_run_is_filed_under_its_label_and_reloaded_without_the_file(cli, project, write, tmp_path):
    write(APPROVED + 'pool = "a100"\ndefaults = { start_slope = 2.0, learning_rate = 0.05, seed = 7 }\n')
    done = cli("train run.yaml seed=8 --json")
    assert done.code == 0, done.err
    run = sole_run(project)
    assert run.parent.name == "task-type=speed-curve"
    record = record_of(run)
    assert (record["label"], record["task_type"]) == ("speed-curve", "acme-linear:line-fitting")
    resolved = record["resolved_options"]
    # The task's default is 0.1, the run's own seed wins.
    assert (resolved["start_slope"], resolved["learning_rate"], resolved["seed"]) == (2.0, 0.05, 8)
    assert record["labels"]["label"]["pool"] == "a100"
    assert json.loads(done.out)["label"] == "speed-curve"
    assert "label     speed-curve (approved, extends line-fitting), policy enforce: labels.toml" in done.err

    (project / "labels.toml").unlink()
    again = json.loads(cli(f"evaluate {run} --json").out)
    assert again["eval_mse"] == pytest.approx(record["metrics"]["eval_mse"])
    assert cli(f"export {run} --format coefficients").code == 0
    manifest = json.loads((run / "exports/coefficients/manifest.json").read_text())
    assert (manifest["label"], manifest["gates"]) == ("speed-curve", None)


def test_evaluation_data_that_is_asked_for_takes_the_place_of_the_labels(project, write):
    write(APPROVED + "defaults = { eval_split = 0.5 }\n")
    run = new_run(TrainingArguments("speed-curve"))
    run.model.mkdir()
    assert open_trained(run, []).eval_split == 0.5
    args = open_trained(run, ["eval_dataset=data.csv"])
    assert (args.eval_dataset, args.eval_split) == ("data.csv", None)


def test_arguments_of_a_label_can_be_copied_pickled_and_changed(project, write):
    write(APPROVED + "defaults = { start_slope = 2.0 }\nfixed = { seed = 3 }\n")
    args = TrainingArguments("speed-curve")
    (project / "labels.toml").unlink()
    for twin in (copy.deepcopy(args), pickle.loads(pickle.dumps(args)), args.replace(logging_steps=3)):
        assert (twin.label, twin.task_type, twin.start_slope, twin.seed) == (
            "speed-curve",
            "line-fitting",
            2.0,
            3,
        )
    assert args.changed() == {} and "task_type='speed-curve'" in repr(args)


def test_the_label_is_listed_and_described_like_a_task_type(cli, write):
    write(APPROVED + 'description = "Speed by time"\nfixed = { start_slope = 4.5 }\n')
    rows = {row["task_type"]: row for row in json.loads(cli("tasks --json").out)}
    assert rows["speed-curve"]["extends"] == "line-fitting"
    assert rows["speed-curve"]["package"] == rows["line-fitting"]["package"] == "acme-linear"
    assert "speed-curve" in cli("tasks").out
    told = cli("describe speed-curve").out
    assert "Speed by time" in told and "Fit y = a x + b" in told and "start_slope              4.5" in told
    schema = json.loads(cli("describe speed-curve --json-schema").out)
    assert schema["properties"]["task_type"]["const"] == "speed-curve"
    assert schema["properties"]["start_slope"]["const"] == 4.5


def test_a_labels_file_with_faults_takes_nothing_from_the_list_of_tasks(cli, write):
    write("[labels.x\n")
    done = cli("tasks")
    assert done.code == 0 and "line-fitting" in done.out and "labels.toml:1: not valid TOML" in done.err


def test_faults_of_the_labels_own_values_are_told_with_the_place_in_its_file(cli, write):
    write(APPROVED + 'defaults = { start_slop = 1.0 }\nfixed = { seed = "a" }\n')
    done = cli("check run.yaml loging_steps=3")
    assert done.code == 2
    assert "labels.toml:5: label 'speed-curve': there is no option 'start_slop'" in done.err
    assert "labels.toml:6: label 'speed-curve': seed: expected an integer" in done.err
    assert "there is no option 'loging_steps'" in done.err


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("speed-curv", "Labels of labels.toml: speed-curve. Did you mean 'speed-curve'?"),
        (
            "old-curve",
            "label 'old-curve' is called 'speed-curve' now (labels.toml:1); write task_type: speed-curve",
        ),
        ("line-fitting-v2-new", "write task_type: line-fitting and run_name: v2-new"),
        ("LineFitting", "found 'LineFitting'; write line-fitting"),
    ],
)
def test_a_name_that_stands_for_nothing_is_refused_with_advice(cli, write, name: str, told: str):
    write(APPROVED + 'former = ["old-curve"]\n')
    done = cli(f"check run.yaml task_type={name}")
    assert done.code == 2 and told in done.err, done.err


def test_without_a_labels_file_an_unknown_name_says_that_there_is_none(cli):
    assert "There is no labels file here" in cli("check run.yaml").err


def test_a_label_that_extends_nothing_installed_says_where(cli, write):
    write(APPROVED.replace("line-fitting", "line-fiting"))
    done = cli("check run.yaml")
    assert "run.yaml:1: task_type: label 'speed-curve' extends 'line-fiting' (labels.toml:1)" in done.err
    assert "Did you mean 'line-fitting'?" in done.err


def test_a_label_with_the_name_of_an_installed_task_type_is_ambiguous(cli, write):
    write(APPROVED.replace("speed-curve", "line-fitting"))
    done = cli("check run.yaml task_type=line-fitting")
    assert done.code == 2 and "is a label (labels.toml:1) and a task type of acme-linear" in done.err
    assert cli("check run.yaml task_type=acme-linear:line-fitting").code == 0


def test_what_a_label_sets_counts_as_set(project, write):
    write(APPROVED + "defaults = { per_device_train_batch_size = 3 }\n")
    args = TrainingArguments("speed-curve", seed=1)
    assert args.says("per_device_train_batch_size") and args.says("seed") and not args.says("learning_rate")


# -- policy -----------------------------------------------------------------------------------------------

STRANGERS = """\
[policy]
mode = "enforce"

[groups]
speed = ["ann", "bob"]

[labels.speed-curve]
extends = "line-fitting"
owners = ["speed"]
fixed = { start_slope = 2.0 }
"""


def test_enforced_the_policy_lets_no_run_begin(cli, project, write, me):
    write(STRANGERS)
    for command in ("check", "train"):
        done = cli(f"{command} run.yaml")
        assert done.code == 2
        assert "run.yaml:1: label 'speed-curve' is proposed, not approved" in done.err
        assert f"belongs to speed, and '{me}' (os-user) is in none of them; ask one of ann, bob" in done.err
    done = cli("check run.yaml start_slope=3.5")
    told = "command line: start_slope: label 'speed-curve' fixes it to 2.0, found 3.5; leave it out"
    assert done.code == 2 and told in done.err
    with pytest.raises(UserError, match="is proposed, not approved"):
        SwiftTrainer(TrainingArguments("speed-curve", cache_dir="cache"), [{"x": 1.0, "y": 2.0}]).train()
    assert not list(project.glob("output/*/*"))


def test_with_warnings_a_run_goes_its_way_and_the_head_says_so(cli, project, write):
    write(STRANGERS.replace("enforce", "warn"))
    done = cli("train run.yaml start_slope=3.5")
    assert done.code == 0, done.err
    assert done.out.count("warning   ") == 3 and "fixes it to 2.0, found 3.5" in done.out
    assert record_of(sole_run(project))["resolved_options"]["start_slope"] == 3.5
    assert len(json.loads(cli("check run.yaml start_slope=3.5 --json").out)["warnings"]) == 3


def test_switched_off_the_policy_says_nothing(cli, write):
    write(STRANGERS.replace("enforce", "off"))
    done = cli("check run.yaml start_slope=3.5")
    assert done.code == 0 and "warning" not in done.out


def test_runs_under_the_task_type_itself_may_be_refused(cli, write):
    write("[policy]\nplain_task_types = false\n")
    done = cli("check run.yaml task_type=line-fitting")
    assert done.code == 2 and "'line-fitting' is no label" in done.err
    write("")
    assert cli("check run.yaml task_type=line-fitting").code == 0


# -- gates ------------------------------------------------------------------------------------------------


def test_a_run_that_passes_its_gates_is_exported(cli, project, write):
    write(EASY)
    done = cli("train run.yaml export_formats=[coefficients]")
    assert done.code == 0, done.err
    assert "gate      passed  mse < 1e9" in done.out and "exported  coefficients" in done.out
    verdict = record_of(sole_run(project))["gates"]
    assert verdict["passed"] is True and verdict["results"][0]["found"] > 0


def test_a_run_that_fails_is_finished_exits_with_1_and_is_not_exported(cli, project, write):
    write(HARD)
    done = cli("train run.yaml export_formats=[coefficients]")
    assert done.code == 1
    assert "gate      FAILED  mse <= 1e-9" in done.out and "finished  " in done.out
    assert done.err.splitlines()[-1] == "swift: the run failed the gates of its label 'speed-curve'"
    run = sole_run(project)
    record = record_of(run)
    assert (record["state"], record["exports"], record["error"]) == ("finished", {}, None)
    assert [result["passed"] for result in record["gates"]["results"]] == [True, False]

    refused = cli(f"export {run} --format coefficients")
    assert refused.code == 2 and "failed the gates of label 'speed-curve' (mse <= 1e-9" in refused.err
    assert not (run / "exports").exists()
    assert cli(f"export {run} --format coefficients --despite-gates").code == 0
    manifest = json.loads((run / "exports/coefficients/manifest.json").read_text())
    assert manifest["gates"]["passed"] is False
    assert "failed" in cli("runs").out


def test_despite_gates_exports_at_the_end_of_training_and_still_exits_with_1(cli, project, write):
    write(HARD)
    assert cli("train run.yaml export_formats=[coefficients] despite_gates=true").code == 1
    assert (sole_run(project) / "exports/coefficients/line.json").is_file()


def test_the_gate_command_judges_by_the_file_as_it_is_now(cli, project, write):
    write(EASY)
    cli("train run.yaml")
    run = sole_run(project)
    assert cli(f"gate {run}").code == 0
    write(HARD)
    done = cli(f"gate {run} --json")
    told = json.loads(done.out)
    assert (done.code, told["passed"], len(told["results"])) == (1, False, 2)
    assert record_of(run)["gates"]["passed"] is False
    (project / "labels.toml").unlink()  # then by what the record keeps
    assert cli(f"gate {run}").code == 0
    write(APPROVED)
    done = cli(f"gate {run}")
    assert done.code == 0 and "has no gates any more in labels.toml: the verdict is taken back" in done.out
    assert record_of(run)["gates"] is None and json.loads(cli("runs --json").out)[0]["gates"] is None


def test_a_verdict_that_is_taken_back_is_none(cli, project, write):
    write(HARD)
    run = new_run(TrainingArguments("speed-curve"))
    assert cli(f"gate {run.folder}").code == 1
    write(APPROVED)
    done = cli(f"gate {run.folder} --json")
    told = {"run_id": run.id, "passed": None, "file": "labels.toml", "results": []}
    assert (done.code, json.loads(done.out), record_of(run.folder)["gates"]) == (0, told, None)


def test_the_gate_command_of_a_label_without_gates_says_so(cli, project, write):
    write(APPROVED)
    cli("train run.yaml")
    done = cli(f"gate {sole_run(project)}")
    assert done.code == 2 and "label 'speed-curve' has no gates in labels.toml" in done.err


def test_gates_without_anything_to_measure_on_are_told_before_training(cli, write):
    write(EASY)
    told = "has gates (mse < 1e9) and the run nothing to be measured on"
    done = cli("check run.yaml eval_dataset=null")
    assert done.code == 2 and told in done.err
    with pytest.raises(UserError, match="nothing to be measured on"):
        SwiftTrainer(TrainingArguments("speed-curve", dataset="train.csv", cache_dir="cache")).train()
    write(EASY + '[policy]\nmode = "warn"\n')
    done = cli("check run.yaml eval_dataset=null --json")
    assert done.code == 0 and told in json.loads(done.out)["warnings"][0]
    assert f"warning   label 'speed-curve' {told}" in cli("train run.yaml eval_dataset=null").out


def test_from_python_a_run_is_judged_before_it_is_exported(project, write):
    write(HARD)
    args = TrainingArguments("speed-curve", max_steps=2, cache_dir="cache")
    rows = [{"x": 1.0, "y": 2.0}, {"x": 2.0, "y": 4.0}]
    trainer = SwiftTrainer(args, rows, rows)
    trainer.train()
    with pytest.raises(UserError, match=r"the run has no figure 'mse'\. Was it evaluated\?"):
        trainer.save_model(format="coefficients")
    # New figures take the verdict away.
    trainer.evaluate()
    assert trainer.run is not None and trainer.run.record["gates"] is None
    with pytest.raises(UserError, match="failed the gates of label 'speed-curve'"):
        trainer.save_model(format="coefficients")


def test_a_run_is_compared_with_a_baseline_on_the_same_data(cli, project, write):
    write(APPROVED)
    assert cli("train run.yaml run_name=base").code == 0
    base = sole_run(project).name
    gates = f'baseline = "{base}"\ngates = ["mse <= baseline + 1 %"]\n'
    write(APPROVED + gates)
    same = cli("train run.yaml run_name=same")
    assert same.code == 0 and "gate      passed  mse <= baseline + 1 % (<= " in same.out, same.out
    assert cli("train run.yaml learning_rate=1e-6 run_name=worse").code == 1

    (project / "other.csv").write_text("x,y\n1,2\n")
    other = cli("train run.yaml eval_dataset=other.csv")
    assert other.code == 1 and f"the baseline {base} was measured on other data" in other.out
    write(APPROVED + gates.replace(base, "20200101-000000"))
    lost = cli("train run.yaml")
    assert lost.code == 1 and "the baseline run '20200101-000000' is not there" in lost.out


def test_a_baseline_that_read_something_else_in_evaluations_is_other_data(cli, project, write):
    write(APPROVED)
    assert cli("train run.yaml run_name=base").code == 0
    base = Run.open(sole_run(project))
    assert base.record["evaluation_inputs"] == {}
    write(APPROVED + f'baseline = "{base.id}"\ngates = ["mse <= baseline + 1 %"]\n')
    assert cli("train run.yaml run_name=second").code == 0
    (second,) = (Run.open(path) for path in project.glob("output/*/*second"))

    for before, after, code in (
        ({"eval_prompts": "a"}, {"eval_prompts": "a"}, 0),
        ({"eval_prompts": "a"}, {"eval_prompts": "b"}, 1),
        ({"eval_prompts": "a"}, {}, 1),
    ):
        base.update(evaluation_inputs=before)
        second.update(evaluation_inputs=after)
        judged = cli(f"gate {second.folder}")
        assert judged.code == code, (before, after, judged.out)
        assert (f"the baseline {base.id} was measured on other data" in judged.out) == bool(code)

    # Recorded before there was such a field: nobody can say what it read.
    record = record_of(base.folder)
    del record["evaluation_inputs"]
    (base.folder / "run.json").write_text(json.dumps(record))
    second.update(evaluation_inputs={"eval_prompts": "b"})
    assert cli(f"gate {second.folder}").code == 0


JUDGED_BY_TWO = """
import sys
from pathlib import Path

from swift_core import TrainingArguments

sys.path.append(sys.argv[1])
from swift_core.runner import train_run

run = train_run(TrainingArguments.from_file("run.yaml", ["use_cpu=true", "export_formats=[coefficients]"]))
exported = list(Path("output").glob("*/*/exports"))
print("MAIN" if run is not None else "OTHER", "exported" if exported else "not exported")
"""


def test_every_process_learns_that_the_run_failed_its_gates(project, write, on_processes):
    write(HARD)
    (project / "script.py").write_text(JUDGED_BY_TWO)
    told = on_processes(2, project, "script.py", str(project.parent / "site"))
    assert "MAIN not exported" in told and "OTHER not exported" in told
    assert told.count("FAILED  mse <= 1e-9") == 1


# -- renaming ---------------------------------------------------------------------------------------------


def test_runs_under_a_former_name_are_found_and_gone_on_with(cli, project, write):
    write(APPROVED)
    cli("train run.yaml save_steps=1")
    run = sole_run(project)
    record = record_of(run)
    (run / "run.json").write_text(json.dumps({**record, "state": "interrupted"}))
    shutil.rmtree(run / "model")
    write(APPROVED.replace("speed-curve", "velocity") + 'former = ["speed-curve"]\n')
    for name in ("velocity", "speed-curve", "line-fitting", "acme-linear:line-fitting"):
        rows = json.loads(cli(f"runs --task-type {name} --json").out)
        assert [row["run_id"] for row in rows] == [run.name], name
    assert json.loads(cli("runs --task-type embedding --json").out) == []
    done = cli("train run.yaml task_type=velocity save_steps=1 --resume")
    assert done.code == 0, done.err
    assert record_of(run)["state"] == "finished"


def test_a_run_is_not_gone_on_with_when_its_label_says_something_else_now(cli, project, write):
    write(APPROVED + "defaults = { learning_rate = 0.01 }\n")
    cli("train run.yaml save_steps=1")
    run = sole_run(project)
    (run / "run.json").write_text(json.dumps({**record_of(run), "state": "interrupted"}))
    write(APPROVED + "defaults = { learning_rate = 0.02 }\n")
    done = cli(f"train run.yaml save_steps=1 --resume {run}")
    assert done.code == 2
    assert "--resume: option learning_rate was 0.01 by the label of that run, found 0.02" in done.err
    write(APPROVED.replace("speed-curve", "velocity"))
    done = cli(f"train run.yaml task_type=velocity save_steps=1 --resume {run}")
    assert done.code == 2 and "that run is filed under 'speed-curve', found 'velocity'" in done.err


def test_from_python_too_a_run_of_a_retired_label_is_not_gone_on_with(cli, project, write):
    write(APPROVED)
    cli("train run.yaml save_steps=1")
    run = sole_run(project)
    (run / "run.json").write_text(json.dumps({**record_of(run), "state": "interrupted"}))
    write(APPROVED.replace('"approved"', '"retired"') + '[policy]\nmode = "enforce"\n')
    args = TrainingArguments.from_file("run.yaml", ["save_steps=1"])
    with pytest.raises(UserError, match="label 'speed-curve' is retired"):
        SwiftTrainer(args).train(resume_from_checkpoint=str(run))


def test_a_recorded_run_keeps_its_task_type(cli, project, write):
    write(APPROVED)
    cli("train run.yaml")
    done = cli(f"evaluate {sole_run(project)} task_type=embedding")
    assert done.code == 2 and "the run is one of acme-linear:line-fitting and stays that" in done.err


def test_how_a_label_trains_is_nothing_that_evaluation_and_export_need(project, cli, write):
    """Without the file that it was measured on, a run of such a label has nothing to stop early by."""
    write(APPROVED + 'defaults = { eval_strategy = "epoch", early_stopping_patience = 1 }\n')
    assert cli("train run.yaml").code == 0
    run = sole_run(project)
    record = record_of(run)
    assert record["resolved_options"]["early_stopping_patience"] == 1
    args = open_trained(Run.open(run), [])
    assert (args.trainer.eval_strategy, args.core.early_stopping_patience) == ("no", None)
    assert cli(f"evaluate {run}").code == 0
    done = cli(f"export {run} --format coefficients")
    assert done.code == 0, done.err
    assert open_trained(Run.open(run), ["eval_strategy=epoch"]).trainer.eval_strategy == "epoch"
