"""``swift add-scores`` as a user types it: what it writes, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from swift_core import TrainingArguments
from swift_core.cli import main as swift
from swift_core.errors import SwiftError, UserError
from swift_core.preparation import prepare_task
from swift_reranker.reranker import load_reranker, sigmoid
from swift_reranker.scores_command import main


@pytest.fixture
def project(
    build: Callable[..., Any],
    bert: Path,
    lists: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """The current folder: ``run.yaml``, ``train.jsonl``, a reranker and an encoder that is none."""
    model, collator, _ = build(bert)
    model.save_pretrained(tmp_path / "teacher")
    collator.save_pretrained(tmp_path / "teacher")
    (tmp_path / "encoder").symlink_to(bert)
    rows = [{"query_id": f"q{number}", **row} for number, row in enumerate(lists)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "run.yaml").write_text(
        "task_type: reranker\nmodel_name_or_path: teacher\ndataset: train.jsonl\ncache_dir: cache\n"
        "use_cpu: true\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def test_rows_get_the_scores_of_the_model_and_a_smaller_one_learns_them(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run.yaml", "--output", "scored.jsonl"]) == 0
    rows, given = read("scored.jsonl"), read("train.jsonl")
    assert [{**row, "scores": None} for row in rows] == [{**row, "scores": None} for row in given]
    teacher = load_reranker("teacher")
    for row in rows:
        found = sigmoid(np.array(row["scores"]))
        np.testing.assert_allclose(found, teacher.score(row["query"], row["documents"]).scores, atol=1e-4)
    assert len({score for row in rows for score in row["scores"]}) > 5
    agreement = sum(row["labels"][int(np.argmax(row["scores"]))] == max(row["labels"]) for row in rows) / len(
        rows
    )
    told = capsys.readouterr().out
    assert "scored    11 documents of 3 lists, in scored.jsonl" in told
    assert f"in {agreement:.1%} of them the best score has the best label" in told
    learns = ["model_name_or_path=encoder", "dataset=scored.jsonl", "loss=margin_mse"]
    prepared = prepare_task(TrainingArguments.from_file("run.yaml", learns))
    assert prepared.train is not None
    assert prepared.train.records["scores"] == [row["scores"] for row in rows]


def test_the_command_line_scores_rows_without_labels_with_a_causal_model(
    project: Path, qwen: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("one.jsonl").write_text(
        '{"query": "what is a cat", "documents": ["a cat", "rain"], "scores": [9, 1]}\n'
    )
    options = [f"model_name_or_path={qwen}", "scoring=generative", "dataset=one.jsonl"]
    # The command line of swift finds the command of this package.
    assert swift(["add-scores", "run.yaml", *options, "--output", "one-scored.jsonl", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "output": "one-scored.jsonl",
        "lists": 1,
        "pairs": 2,
        "agreement": None,
    }
    (row,) = read("one-scored.jsonl")
    assert row.keys() == {"query", "documents", "scores"}
    assert row["scores"] != [9, 1]
    assert swift(["add-scores", "run.yaml", *options, "--output", "one-scored.jsonl"]) == 2
    assert "one-scored.jsonl is there already; write --overwrite to replace it" in capsys.readouterr().err
    assert swift(["add-scores", "run.yaml", "--output", "one-scored.jsonl", "--overwrite"]) == 0
    assert len(read("one-scored.jsonl")) == 3


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--output", "train.jsonl"], "train.jsonl is there already; write --overwrite"),
        (["--output", "no/such/o"], "--output: expected a file in a folder that is there"),
        (["--output", "teacher"], "--output: expected a file in a folder that is there"),
        (["--output", "o", "dataset=null"], "dataset: expected rows to score"),
        (
            ["--output", "o", "model_name_or_path=encoder"],
            "encoder is no trained reranker: its head would be",
        ),
        (["--output", "o", "--overwrit"], "unknown argument --overwrit. Did you mean '--overwrite'?"),
        (["--output", "o", "max_lenght=9"], "Did you mean 'max_length'?"),
        (["--output", "o", "scoring=generative"], "scoring: the model is a reranker with scoring=head"),
        ([], "required: --output"),
    ],
)
def test_a_mistake_is_told_and_leaves_nothing_behind(arguments: list[str], told: str, project: Path) -> None:
    before = {path.name: path.read_bytes() for path in project.iterdir() if path.is_file()}
    with pytest.raises(UserError) as caught:
        main(["run.yaml", *arguments])
    assert told in str(caught.value)
    assert {path.name: path.read_bytes() for path in project.iterdir() if path.is_file()} == before


def test_scores_that_are_no_numbers_are_not_written(
    build: Callable[..., Any], bert: Path, project: Path
) -> None:
    model, _, _ = build(bert)
    model.classifier.bias.data.fill_(float("nan"))
    model.save_pretrained("teacher")
    with pytest.raises(
        SwiftError, match=r"not finite .* in 3 of 3 lists, the first is train\.jsonl:1; nothing"
    ):
        main(["run.yaml", "--output", "o"])
    assert not Path("o").exists()


def test_a_decoder_of_others_is_scored_by_a_given_template_only(
    build: Callable[..., Any], qwen: Path, project: Path
) -> None:
    model, collator, _ = build(qwen)
    model.save_pretrained("theirs")
    collator.tokenizer.save_pretrained("theirs")
    command = ["run.yaml", "--output", "o", "model_name_or_path=theirs"]
    with pytest.raises(UserError, match=r"^template: expected the text that theirs was trained to read"):
        main(command)
    with pytest.raises(UserError, match=r"theirs: expected a decoder with reranker\.json"):
        load_reranker("theirs")
    assert main([*command, "template='Q: {query} D: {document}'"]) == 0
    teacher = load_reranker("theirs", template="Q: {query} D: {document}")
    for row in read("o"):
        found = sigmoid(np.array(row["scores"]))
        np.testing.assert_allclose(found, teacher.score(row["query"], row["documents"]).scores, atol=1e-4)
    # A training may start from it with a text of its own.
    learns = ["model_name_or_path=theirs", "loss=lambda_loss"]
    prepared = prepare_task(TrainingArguments.from_file("run.yaml", learns))
    prepared.collator.save_pretrained("theirs")
    assert load_reranker("theirs").collator.settings == prepared.collator.settings


def test_all_faults_are_told_at_once(project: Path) -> None:
    with pytest.raises(UserError) as caught:
        main(["run.yaml", "--output", "o", "dataset=null", "model_name_or_path=encoder"])
    assert [fault.partition(":")[0] for fault in caught.value.faults] == ["dataset", "model_name_or_path"]


def test_runs_of_other_task_types_are_refused(project: Path, bert: Path) -> None:
    pytest.importorskip("swift_embedding")
    Path("other.yaml").write_text(
        f"task_type: embedding\nmodel_name_or_path: {bert}\ndataset: train.jsonl\nuse_cpu: true\n"
    )
    with pytest.raises(
        UserError, match="`swift add-scores` is for runs of the type reranker, found embedding"
    ):
        main(["other.yaml", "--output", "o"])
