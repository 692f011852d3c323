"""The benchmarks of rerankers run, and all sides compute the same: a tiny model, a few lists."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizerFast

from benchmarks.rerank_lists import best_labelled, list_workload, one_positive, read_lists
from swift_reranker.template import QWEN3_INSTRUCTION, QWEN3_RERANKER

THINGS = ("sea", "fish", "ship", "forest", "bird", "deer")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT that knows the words of the data and of the template."""
    folder = tmp_path_factory.mktemp("reranker") / "bert"
    words = re.findall(r"\w+|[^\w\s]", f"{QWEN3_RERANKER} {QWEN3_INSTRUCTION} old what is".lower())
    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "yes", "no", *THINGS, *words]
    vocabulary = {word: n for n, word in enumerate(dict.fromkeys(known))}
    BertTokenizerFast(vocab=vocabulary, model_max_length=64).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each thing is asked for by its name, among three; the same as a BEIR folder."""
    folder = tmp_path_factory.mktemp("data") / "things"
    (folder / "qrels").mkdir(parents=True)

    def write(name: str, rows: list[dict[str, object]]) -> None:
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    pairs = [
        {"query": f"what is {t}", "document": "old " * (n + k) + THINGS[(n + k) % 6], "label": int(k == 1)}
        for n, t in enumerate(THINGS)
        for k in range(3)
    ]
    write("train.jsonl", pairs)
    write("test.jsonl", pairs)
    write("corpus.jsonl", [{"_id": t, "text": f"old {t}"} for t in THINGS])
    write("queries.jsonl", [{"_id": t, "text": f"what is old {t}"} for t in THINGS])
    write("qrels/test.jsonl", [{"query-id": t, "corpus-id": t, "score": 1} for t in THINGS])
    return folder


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results") / "results.jsonl"


@pytest.fixture(scope="module")
def out(run_benchmarks: Callable[..., str], data: Path, encoder: Path, results: Path) -> str:
    """What all benchmarks of this kind print."""
    model = ["--model", str(encoder)]
    train = ["reranking", *model, "--data", str(data / "train.jsonl"), "--lists", "2", "--list-size", "3"]
    train += ["--steps", "2", "--repeats", "1"]
    score = ["scoring", *model, "--repeats", "1", "--queries", "2"]
    quality = ["reranker-quality", "--data", str(data.parent), "--set", data.name, *model, "--seeds", "3"]
    quality += ["--results", str(results), "--lists", "2", "--list-size", "3", "--max-length", "64"]
    commands = [
        [*train, "--max-length", "64"],
        [*train, "--max-length", "64", "--loss", "lambda_loss"],
        [*train, "--causal"],
        [*score, "--max-length", "64", "--retrieval", str(data), "--depth", "4"],
        [*score, "--causal", "--data", str(data / "test.jsonl")],
        [*quality, "--epochs", "1", "--retrieval", str(data), "--depth", "3"],
    ]
    return run_benchmarks(*commands)


def test_all_sides_compute_the_same(out: str) -> None:
    relative = re.findall(r"Largest relative difference: (\S+)", out)
    assert len(relative) == 4 and all(float(found) <= 1e-5 for found in relative)  # two peers with --causal
    assert len(re.findall(r"\| pairs per CPU-second \| [\d.,]+ \| [\d.,]+ \| [\d.]+ \|", out)) == 4
    assert "| padded pairs | swift |" in out
    scores = re.findall(r"Largest difference of a score .*: (\S+)", out)
    assert len(scores) == 2 and all(float(found) <= 1e-4 for found in scores)
    assert re.search(r"pairs     8 of 2 queries", out) and re.search(r"\| swift \| [\d.,]+ \|", out)


def test_both_systems_are_trained_and_measured_once(out: str, results: Path) -> None:
    row = r"\| {} \|( [01]\.\d{{4}} \|){{6}}"
    assert all(re.search(row.format(system), out) for system in ("untrained", "peer", "swift"))
    assert "BM25 alone on things: ndcg@10 1.0000" in out
    untrained, swift, peer = map(json.loads, results.read_text().splitlines())  # each once
    assert [r["system"] for r in (untrained, swift, peer)] == ["untrained", "swift", "peer"]
    for result in (swift, peer):
        assert result["steps"] == 3 and result["trained_lists"] == 6
        assert result["train_cpu_seconds"] > 0 and 0 < result["metrics"]["bm25+map"] <= 1


def test_pairs_become_lists_of_one_length(data: Path) -> None:
    rows = read_lists(data / "train.jsonl")
    assert [row["labels"] for row in rows] == [[0, 1, 0]] * 6
    assert one_positive(rows, 2)[0] == {
        "query": "what is sea",
        "documents": ["sea", "old fish"],
        "labels": [0, 1],
    }
    assert one_positive(rows, 4) == []
    graded = {"query": "q", "documents": ["a", "b", "c", "d"], "labels": [0, 1, 2, 1]}
    assert best_labelled(graded, 2)["documents"] == ["b", "c"]


def test_padding_is_counted_as_the_peer_pads(tmp_path: Path) -> None:
    rows = [{"query": "q", "documents": ["a"] * 2, "labels": [0, 1], "n": n} for n in (1, 5)]
    work = list_workload(
        rows,
        tmp_path,
        lambda row: [row["n"], row["n"] + 1],
        lists=2,
        steps=3,
        chunk=2,
        max_length=8,
        learning_rate=1e-3,
    )
    assert (list(work.tokens), list(work.padded_tokens)) == ([14] * 3, [2 * 2 + 2 * 6] * 3)
    assert len(work.rows) == 6
