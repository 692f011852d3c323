"""Preferences for benchmarks: real text cut to lengths that are drawn, and a random chat model to read it."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from benchmarks.workload import Row, Workload

_MARKS = ("<|im_start|>", "<|im_end|>")
_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + ' ' + message['content'] "
    "+ '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant ' }}{% endif %}"
)
"""ChatML on one line: a tokenizer of words reads no line breaks."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What rows look like; lengths are the lowest and the highest number of tokens, drawn evenly.

    Attributes:
        answers: of each prompt, the best first.
    """

    answers: int
    prompt: tuple[int, int]
    answer: tuple[int, int]


def write_chat_model(tokenizer_folder: Path, target: Path) -> Path:
    """Save a Qwen3 of some 30 M parameters with random weights and a chat template, for speed only.

    Args:
        tokenizer_folder: has the tokenizer: MiniLM's gives a vocabulary of 30,524.
        target: written.
    """
    import torch
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder, local_files_only=True)
    tokenizer.add_special_tokens({"additional_special_tokens": list(_MARKS), "eos_token": _MARKS[1]})
    tokenizer.chat_template = _CHAT_TEMPLATE
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=512,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    Qwen3ForCausalLM(config).save_pretrained(target)
    tokenizer.model_max_length = config.max_position_embeddings
    tokenizer.save_pretrained(target)
    return target


def read_text(path: Path) -> str:
    """All that a jsonl file of ``prompt``, ``chosen`` and ``rejected`` says, each text or messages."""
    with path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return "\n".join(text for row in rows for text in _texts(row))


def _texts(row: Row) -> Iterator[str]:
    for name in ("prompt", "chosen", "rejected"):
        value = row[name]
        yield from [value] if isinstance(value, str) else [message["content"] for message in value]


def read_pairs(path: Path) -> list[Row]:
    """Rows of a jsonl file with ``prompt``, ``chosen`` and ``rejected`` as messages; other columns stay."""
    with path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
    return [row | {name: _messages(row[name], role) for name, role in roles.items()} for row in rows]


def _messages(value: Any, role: str) -> list[Row]:
    return [{"role": role, "content": value}] if isinstance(value, str) else value


def fitting(rows: Sequence[Row], tokenizer: Any, max_length: int) -> list[Row]:
    """Rows of :func:`read_pairs` of at most ``max_length`` tokens whose answers differ and say something."""

    def fits(row: Row) -> bool:
        chosen, rejected = (
            "".join(m["content"] for m in row[name]).strip() for name in ("chosen", "rejected")
        )
        ranked = {"prompt": row["prompt"], "answers": [row["chosen"], row["rejected"]]}
        return "" not in (chosen, rejected) and chosen != rejected and longest(ranked) <= max_length

    def longest(row: Row) -> int:
        return max(lengths_of(row, tokenizer).wholes)

    return [row for row in rows if fits(row)]


def cut_rows(text: str, tokenizer: Any, count: int, shape: Shape) -> list[Row]:
    """Rows of messages whose prompts and answers are pieces of ``text``, of the lengths of ``shape``.

    Each row has ``prompt``, ``answers`` and ``scores``. What a chat template adds is not counted.

    Raises:
        ValueError: the text has not enough words.
    """
    words = [found.span() for found in re.finditer(r"\S+", text)]
    starts = [0, *(end for _, end in words)]  # a word with the space before it, which may be a token too
    sizes = _sizes(tokenizer, [text[start:end] for start, (_, end) in zip(starts, words, strict=False)])
    if sum(sizes) <= max(shape.prompt[1], shape.answer[1]):
        raise ValueError(f"expected more than {shape.prompt[1]:,} tokens of text, found {sum(sizes):,}")
    draw = random.Random(0)

    def piece(low: int, high: int) -> str:
        wanted, held = draw.randint(low, high), 0
        first = last = draw.randrange(len(words))
        while held + sizes[last] <= wanted or last == first:
            held, last = held + sizes[last], last + 1
            if last == len(words):
                first, last, held = 0, 0, 0
        return text[words[first][0] : words[last - 1][1]]

    def message(role: str, lengths: tuple[int, int]) -> list[Row]:
        return [{"role": role, "content": piece(*lengths)}]

    def answers() -> list[list[Row]]:
        found: list[list[Row]] = []
        while len(found) < shape.answers:
            # Equal answers teach nothing: Swift leaves such a row out, TRL does not, and batches part.
            if (drawn := message("assistant", shape.answer)) not in found:
                found.append(drawn)
        return found

    scores = [float(n) for n in range(shape.answers - 1, -1, -1)]
    return [
        {"prompt": message("user", shape.prompt), "answers": answers(), "scores": scores}
        for _ in range(count)
    ]


def _sizes(tokenizer: Any, words: Sequence[str]) -> list[int]:
    return [len(ids) for ids in tokenizer(list(words), add_special_tokens=False)["input_ids"]]


def pairs_of(rows: Sequence[Row]) -> list[Row]:
    """All pairs of each row, as TRL takes them; answers stand from the best to the worst."""
    return [
        {"prompt": row["prompt"], "chosen": better, "rejected": worse}
        for row in rows
        for better, worse in combinations(row["answers"], 2)
    ]


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Tokens of a row, with those of the chat template."""

    prompt: int
    wholes: Sequence[int]

    @property
    def computed(self) -> int:
        """With the prompt once."""
        return self.prompt + sum(whole - self.prompt for whole in self.wholes)

    @property
    def useful(self) -> int:
        """Those of all pairs, each with its prompt twice."""
        return (len(self.wholes) - 1) * sum(self.wholes)


def lengths_of(row: Row, tokenizer: Any) -> Lengths:
    """Count a row."""

    def count(messages: Sequence[Row], asked: bool) -> int:
        made = tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=asked, tokenize=True, return_dict=True
        )
        return len(made["input_ids"])

    return Lengths(
        prompt=count(row["prompt"], True),
        wholes=[count([*row["prompt"], *answer], False) for answer in row["answers"]],
    )


def preference_workload(
    rows: Sequence[Row],
    model: Path,
    lengths: Sequence[Lengths],
    *,
    batch_size: int,
    max_length: int,
    learning_rate: float,
) -> Workload:
    """Batches of ``batch_size`` rows; the peer pads all sequences of a batch to the longest."""
    steps = [lengths[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    pairs = [sum(len(list(combinations(row.wholes, 2))) for row in step) for step in steps]
    return Workload(
        model=model,
        rows=rows,
        tokens=[sum(row.useful for row in step) for step in steps],
        padded_tokens=[
            2 * count * max(n for row in step for n in row.wholes)
            for count, step in zip(pairs, steps, strict=True)
        ],
        steps=len(steps),
        batch_size=batch_size,
        max_length=max_length,
        learning_rate=learning_rate,
    )
