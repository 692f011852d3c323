"""Rows whose label may be wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from swift_cls.noise import confident_learning, out_of_fold
from swift_core.cli import main
from swift_core.errors import UserError


def by_the_paper(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, set[int]]:
    """Equations 1 and 2 as loops."""
    rows, count = probabilities.shape
    thresholds = []
    for j in range(count):
        own = [float(probabilities[n, j]) for n in range(rows) if labels[n] == j]
        thresholds.append(sum(own) / len(own))
    joint, suspects = np.zeros((count, count), dtype=int), set()
    for n in range(rows):
        sure = [j for j in range(count) if probabilities[n, j] >= thresholds[j]]
        if sure:
            best = max(sure, key=lambda j: probabilities[n, j])
            joint[labels[n], best] += 1
            if best != labels[n]:
                suspects.add(n)
    return joint, suspects


@pytest.mark.parametrize("seed", range(3))
def test_the_joint_is_that_of_the_paper(seed: int) -> None:
    draw = np.random.default_rng(seed)
    probabilities = draw.dirichlet(np.ones(4), size=200)
    labels = np.concatenate([np.arange(4), draw.integers(4, size=196)])
    noise = confident_learning(probabilities, labels)
    joint, suspects = by_the_paper(probabilities, labels)
    np.testing.assert_array_equal(noise.joint, joint)
    assert set(noise.suspects) == suspects
    assert list(noise.margins) == sorted(noise.margins, reverse=True)


def test_flipped_labels_are_found_and_others_left_alone() -> None:
    draw = np.random.default_rng(0)
    truth = np.arange(300) % 3
    vectors = np.eye(8)[truth] * 4 + draw.normal(size=(300, 8))
    given = truth.copy()
    flipped = draw.choice(300, size=20, replace=False)
    given[flipped] = (given[flipped] + 1) % 3
    noise = confident_learning(out_of_fold(vectors, given), given)
    found = set(noise.suspects)
    assert len(found & set(flipped.tolist())) >= 13  # those above the threshold of their label
    assert len(found - set(flipped.tolist())) <= 6
    suggested = dict(zip(noise.suspects, noise.suggested, strict=True))
    assert all(suggested[row] == truth[row] for row in found & set(flipped.tolist()))


def test_a_row_is_judged_by_a_classifier_that_did_not_see_it() -> None:
    # Vectors without meaning: who saw a row would know its label by heart.
    draw = np.random.default_rng(0)
    labels = np.arange(60) % 2
    probabilities = out_of_fold(draw.normal(size=(60, 200)), labels)
    assert (probabilities.argmax(1) == labels).mean() < 0.7


@pytest.fixture
def run_file(bert: Path, rows: list[dict[str, Any]], tmp_path: Path) -> Path:
    (tmp_path / "train.jsonl").write_text(
        "\n".join(json.dumps(row) for row in [*rows, {"text": "one of its kind", "label": "only"}])
    )
    path = tmp_path / "run.yaml"
    path.write_text(
        f"task_type: sequence-classification\nmodel_name_or_path: {bert}\ndataset: {tmp_path}/train.jsonl\n"
        f"cache_dir: {tmp_path}/cache\nuse_cpu: true\n"
    )
    return path


def test_the_command_writes_suspects_as_rows(
    run_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "suspects.jsonl"
    assert main(["label-noise", str(run_file), "--output", str(output), "--folds", "3", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["rows"], result["left_out"]) == (9, ["only"])
    assert (result["folds"], result["folds_asked"]) == (3, 3)
    found = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(found) == result["suspects"]
    for row in found:
        assert {"row", "text", "label", "suggested", "margin"} <= row.keys()
        assert row["place"] == f"{tmp_path}/train.jsonl:{row['row']}"
        assert row["label"] != row["suggested"]
    assert main(["label-noise", str(run_file), "--output", str(output)]) == 2
    assert "is there already" in capsys.readouterr().err


def test_what_a_run_file_says_of_evaluation_has_no_say(
    run_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluates = [f"eval_dataset={tmp_path}/train.jsonl", "eval_strategy=epoch", "eval_on_start=true"]
    assert main(["label-noise", str(run_file), *evaluates, "--output", str(tmp_path / "o"), "--folds=5"]) == 0
    assert "folds     3, for some label has no more rows than that" in capsys.readouterr().out


def test_several_labels_are_refused(
    run_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "several.jsonl").write_text(
        '{"text": "a", "labels": ["x", "y"]}\n{"text": "b", "labels": []}\n'
    )
    command = [
        "label-noise",
        str(run_file),
        f"dataset={tmp_path}/several.jsonl",
        "--output",
        str(tmp_path / "o"),
    ]
    assert main(command) == 2
    assert "judges rows with one label, found multi_label data" in capsys.readouterr().err


def test_a_misspelt_flag_is_told(run_file: Path) -> None:
    from swift_cls.noise_command import main as command

    with pytest.raises(UserError, match=r"unknown argument --fold. Did you mean '--folds'"):
        command([str(run_file), "--output", "x", "--fold", "3"])
