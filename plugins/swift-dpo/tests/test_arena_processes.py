"""Two processes share the answering, ask the judge once, and fail together."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

from swift_core.testing.forks import run_forked
from swift_dpo.arena import Arena
from swift_dpo.generation import Sampling
from swift_dpo.judges import Question

PROMPTS = ["what is a cat", "x", "how far is the moon"]
JUDGE = """


def length(prompt, answer, row):
    with open("asked.txt", "a") as file:
        file.write("x")
    return len(answer)

def broken(prompt, answer, row):
    raise KeyError("broken")
"""
JOB = """
import contextlib, json, sys
import torch
from torch import distributed
from transformers import AutoModelForCausalLM, AutoTokenizer
from swift_core.errors import SwiftError
from swift_dpo import arena, generation, judges

folder, prompts = json.load(open("job.json"))
distributed.init_process_group("gloo")
model = AutoModelForCausalLM.from_pretrained(folder)

def made(name):
    return arena.Arena(
        questions=[judges.Question(prompt=prompt) for prompt in prompts],
        tokenizer=AutoTokenizer.from_pretrained(folder),
        sampling=generation.Sampling(max_new_tokens=6, batch_size=1),
        judge=judges.function_judge(f"judge.py:{name}"),
    )

reference = lambda: contextlib.nullcontext(model)
found = made("length").evaluate(model, reference)
try:
    made("broken").evaluate(model, reference)
    failed = ""
except SwiftError as error:
    failed = str(error)
rank = distributed.get_rank()
json.dump([found.metrics, found.tables, failed], open(f"result-{rank}.json", "w"))
distributed.destroy_process_group()
"""


def test_two_processes_find_what_one_finds(causal: Path, tmp_path: Path) -> None:
    (tmp_path / "judge.py").write_text(JUDGE)
    (tmp_path / "job.py").write_text(JOB)
    (tmp_path / "job.json").write_text(json.dumps([str(causal), PROMPTS]))
    done = run_forked("job.py", folder=tmp_path, processes=2)
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (json.loads((tmp_path / f"result-{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert "broken failed on the prompt" in first[2]
    # Three prompts, to each of which both give one answer, on one of the processes.
    assert len((tmp_path / "asked.txt").read_text()) == 3
    model = AutoModelForCausalLM.from_pretrained(causal)
    arena = Arena(
        questions=[Question(prompt=prompt) for prompt in PROMPTS],
        tokenizer=AutoTokenizer.from_pretrained(causal),
        sampling=Sampling(max_new_tokens=6, batch_size=1),
    )
    alone = arena.evaluate(model)
    assert [row["answer"] for row in first[1]["samples"]] == [
        row["answer"] for row in alone.tables["samples"]
    ]
    assert first[0]["win_rate"] == 0.5 and first[0]["answer_tokens"] == alone.metrics["answer_tokens"]
