"""The benchmarks of preference training run, and all sides compute the same: a tiny model, a few pairs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from benchmarks.preference_rows import (
    Shape,
    cut_rows,
    fitting,
    lengths_of,
    pairs_of,
    preference_workload,
    read_pairs,
)

pytest.importorskip("trl")

THINGS = ("sea", "fish", "ship", "forest", "bird", "deer", "fox", "tree")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen3 of two layers that reads bytes and writes ChatML."""
    folder = tmp_path_factory.mktemp("preference") / "qwen3"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=marks, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(THINGS, trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=marks[2], pad_token=marks[0], chat_template=CHAT_TEMPLATE
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=256,
        initializer_range=0.3,
        tie_word_embeddings=True,
        eos_token_id=2,
        pad_token_id=0,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Say a thing, not another one; with a row that no system can learn from."""
    folder = tmp_path_factory.mktemp("data") / "things"
    folder.mkdir()
    rows = [
        {"prompt": f"say {thing}", "chosen": f"a {thing}", "rejected": f"the {THINGS[n - 1]}", "thing": thing}
        for n, thing in enumerate(THINGS)
    ]
    same = {"prompt": "say it", "chosen": "it", "rejected": "it", "thing": "it"}
    for name, lines in (("train", [*rows, same]), ("test", rows)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    judge = "def score(prompt, answer, row):\n    return float(row['thing'] in answer) + len(answer) / 1000\n"
    (folder / "judge.py").write_text(judge)
    return folder


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results") / "results.jsonl"


@pytest.fixture(scope="module")
def out(run_benchmarks: Callable[..., str], data: Path, causal: Path, results: Path) -> str:
    """What all benchmarks of this kind print."""
    train = ["preference", "--model", str(causal), "--data", str(data / "train.jsonl"), "--batches", "2"]
    train += ["--repeats", "1", "--prompt-tokens", "9-20", "--answer-tokens", "3-9", "--batch-size", "2"]
    train += ["--learning-rate", "1e-4", "--max-length", "200"]
    quality = ["preference-quality", "--data", str(data.parent), "--set", data.name, "--model", str(causal)]
    quality += ["--results", str(results), "--batch-size", "4", "--prompts", "3", "--max-new-tokens", "4"]
    quality += ["--max-length", "200"]
    commands = [
        [*train, "--peers", "answers only", "as shipped"],
        [*train, "--lora", "4", "--cached", "--checkpointing", "--ranked", "3", "--same-library"],
        [*quality, "--judge", f"{data / 'judge.py'}:score", "--lora", "4"],
    ]
    return run_benchmarks(*commands)


def test_all_sides_compute_the_same(out: str) -> None:
    differences = re.findall(r"Largest difference of the loss over 3 steps: (\S+)", out)
    assert len(differences) == 4 and all(float(found) <= 1e-5 for found in differences)
    assert len(re.findall(r"\| useful tokens per CPU-second \| [\d.,]+ \| [\d.,]+ \| [\d.]+ \|", out)) == 4
    for form in ("answers only", "as shipped", "leanest", "leanest, reference precomputed"):
        assert f"| TRL, {form} | swift |" in out


def test_both_systems_are_trained_and_measured_once(out: str, results: Path) -> None:
    swift, peer = map(json.loads, results.read_text().splitlines())  # each once
    assert (swift["system"], peer["system"]) == ("swift", "peer")
    for result in (swift, peer):
        assert result["trained_rows"] == result["test_pairs"] == 8 and result["steps"] == 2
        assert 0 <= result["metrics"]["reward accuracy"] <= 1 and 0 <= result["metrics"]["win rate"] <= 1
        assert result["more"]["elo_gain_low"] <= result["metrics"]["Elo gain, %"]
    assert swift["losses"] == pytest.approx(peer["losses"], abs=1e-5)
    assert swift["metrics"] == pytest.approx(peer["metrics"], abs=1e-4)
    assert re.search(r"\| judge score, untrained \| judge score \| win rate \| Elo gain, % \|", out)
    assert re.search(r"losses of 2 steps, seed 0: largest difference \d", out)


def test_rows_have_the_lengths_that_were_asked_for(causal: Path, data: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(causal)
    text = " ".join(THINGS * 40)
    shape = Shape(answers=3, prompt=(20, 40), answer=(5, 9))
    rows = cut_rows(text, tokenizer, 12, shape)
    lengths = [lengths_of(row, tokenizer) for row in rows]
    bare = lengths_of({"prompt": [{"role": "user", "content": ""}], "answers": []}, tokenizer).prompt
    words = max(len(tokenizer(f" {thing}")["input_ids"]) for thing in THINGS)
    assert all(20 - words <= row.prompt - bare <= 40 for row in lengths)
    assert all(whole - row.prompt < 9 + bare for row in lengths for whole in row.wholes)
    assert len({row.prompt for row in lengths}) > 3 and rows == cut_rows(text, tokenizer, 12, shape)
    work = preference_workload(rows, causal, lengths, batch_size=6, max_length=99, learning_rate=1e-3)
    pairs = pairs_of(rows)
    assert work.steps == 2 and len(pairs) == 36 and pairs[2]["rejected"] == rows[0]["answers"][2]
    assert sum(work.tokens) == sum(
        n
        for pair in pairs
        for n in lengths_of({**pair, "answers": [pair["chosen"], pair["rejected"]]}, tokenizer).wholes
    )
    assert lengths[0].computed == sum(lengths[0].wholes) - 2 * lengths[0].prompt
    kept = fitting(read_pairs(data / "train.jsonl"), tokenizer, 200)
    assert [row["thing"] for row in kept] == list(THINGS)
    assert fitting(kept, tokenizer, 5) == []
