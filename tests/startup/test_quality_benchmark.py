"""The benchmark of quality: both systems train, one evaluation measures them, and nothing is done twice."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.holdout import hold_out
from benchmarks.quality_report import spread, table
from swift_core.data.beir import load_retrieval

THINGS = ("sea", "fish", "ship", "forest", "bird", "deer", "fox", "tree")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data set that asks for each thing by its name."""
    folder = tmp_path / "data" / "things"
    (folder / "qrels").mkdir(parents=True)

    def write(name: str, rows: list[dict[str, object]]) -> None:
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    write("train.jsonl", [{"query": t, "positive": f"old {t}", "negatives": []} for t in THINGS])
    write("corpus.jsonl", [{"_id": t, "text": f"old {t}"} for t in THINGS])
    write("queries.jsonl", [{"_id": t, "text": t} for t in THINGS])
    write("qrels/test.jsonl", [{"query-id": t, "corpus-id": t, "score": 1} for t in THINGS])
    return folder.parent


def test_both_systems_are_trained_and_measured_once(
    run_benchmarks: Callable[..., str], data: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    results = tmp_path / "results.jsonl"
    recipe = {"eval_max_length": 8, "query_prompt": "no ", "document_prompt": ""}
    key = {"set": "things", "split": "test", "model": tiny_encoder.name, "system": "untrained", "seed": None}
    metrics = {"ndcg@10": 0.5, "mrr@10": 0.5, "recall@10": 0.5, "recall@100": 0.5}
    done_before = json.dumps({**key, "rows": None, "recipe": recipe, "metrics": metrics})
    results.write_text(done_before + "\n")
    command = ["quality", "--data", str(data), "--set", "things", "--seeds", "3"]
    command += ["--model", str(tiny_encoder)]
    command += ["--results", str(results), "--query-prompt", "no ", "--batch-size", "4", "--max-length", "8"]
    out = run_benchmarks([*command, "--threads", "1"])
    assert "| untrained | 0.5000 |" in out
    assert re.search(r"\| peer \| \d\.\d{4} \|.*\n\| swift \| \d\.\d{4} \|", out)
    first, *trained = results.read_text().splitlines()
    assert first == done_before
    swift, peer = map(json.loads, trained)
    assert (swift["system"], peer["system"]) == ("swift", "peer")
    for result in (swift, peer):
        assert result["steps"] == 2 and result["trained_rows"] == len(THINGS)
        assert result["train_cpu_seconds"] > 0 and 0 < result["metrics"]["ndcg@10"] <= 1


def test_what_is_held_out_is_not_trained_on(tmp_path: Path) -> None:
    rows = [
        {"query": f"q{n % 17}", "positive": f"p{n % 10}", "negatives": [f"p{(n + 1) % 10}", f"n{n}"]}
        for n in range(40)
    ]
    left = hold_out(rows, 0.2, tmp_path / "dev")
    dev = load_retrieval(tmp_path / "dev", "dev")
    answers = {dev.corpus[name] for found in dev.qrels.values() for name in found}
    assert len(answers) == 2
    assert left and not answers & {row["positive"] for row in left}
    assert not set(dev.queries.values()) & {row["query"] for row in left}
    assert set(dev.corpus.values()) == {text for row in rows for text in (row["positive"], *row["negatives"])}
    asked = {(row["query"], row["positive"]) for row in rows if row["positive"] in answers}
    found = {(dev.queries[q], dev.corpus[d]) for q, documents in dev.qrels.items() for d in documents}
    assert found == asked


def test_the_table_has_means_spreads_and_ratios_of_pairs() -> None:
    def result(system: str, seed: int | None, ndcg: float, cpu: float | None) -> dict[str, object]:
        times = {} if cpu is None else {"train_cpu_seconds": cpu, "train_wall_seconds": 2 * cpu}
        return {"system": system, "seed": seed, "metrics": {"ndcg@10": ndcg}, **times}

    lines = table(
        [
            result("untrained", None, 0.25, None),
            result("swift", 0, 0.5, 10),
            result("peer", 0, 0.4, 30),
            result("swift", 1, 0.7, 20),
            result("peer", 1, 0.5, 30),
            result("swift", 2, 0.6, 10),
        ]
    )
    text = "\n".join(lines)
    assert "| untrained | 0.2500 |  |  |" in text
    assert "| peer | 0.4500 ± 0.0707 | 30 | 60 |" in text
    assert "| swift | 0.6000 ± 0.1000 | 13 | 27 |" in text
    assert "CPU-seconds, peer / swift, seed by seed: 3.00, 1.50; median 2.25" in text
    assert spread([0.5]) == "0.5000"
