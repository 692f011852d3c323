"""No secret reaches a record, and nothing else is lost."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from swift_core.runs.plain import plain
from swift_core.runs.redact import redacted, without_credentials, without_hidden


@pytest.mark.parametrize(
    "name", ["token", "hub_token", "HF_TOKEN", "api_key", "apiKey", "apikey", "client-secret", "Password"]
)
def test_secret_by_name(name: str) -> None:
    assert redacted({name: "abc"}) == {name: "<REDACTED>"}


@pytest.mark.parametrize(
    "name",
    ["tokenizer", "max_tokens", "keyword", "secretary", "learning_rate", "turkey", "true_token", "pad_token"],
)
def test_name_that_only_looks_like_a_secret(name: str) -> None:
    assert redacted({name: "abc"}) == {name: "abc"}


def test_none_is_no_secret() -> None:
    assert redacted({"hub_token": None}) == {"hub_token": None}


def test_nested_options() -> None:
    options = {"hub": {"token": "a", "name": "b", "more": [{"key": "c"}, {"x": 1}]}, "secret": {"a": "b"}}
    assert redacted(options) == {
        "hub": {"token": "<REDACTED>", "name": "b", "more": [{"key": "<REDACTED>"}, {"x": 1}]},
        "secret": "<REDACTED>",
    }


def test_names_that_are_data_keep_their_numbers() -> None:
    weights = {"class_weights": {"rec.sport.hockey": 2.0, "reset_password": 3}}
    assert redacted(weights) == weights


def test_what_was_kept_out_is_no_value_when_a_run_is_opened_again() -> None:
    recorded = redacted(
        {"hub_token": "a", "acme": {"api_key": "b", "size": 3, "more": [{"key": "c", "n": 1}]}}
    )
    assert without_hidden(recorded) == {"acme": {"size": 3, "more": [{"n": 1}]}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://user:pass@host/a/b.jsonl", "https://host/a/b.jsonl"),
        ("https://ghp_token@github.com/a/b", "https://github.com/a/b"),
        ("postgresql://u:p@ss@db:5432/runs", "postgresql://db:5432/runs"),
        ("s3://bucket/data.parquet?sig=abc&exp=1", "s3://bucket/data.parquet"),
        ("https://u:p@host/x?sig=abc#part", "https://host/x"),
        ("https://user:p?ss@host/x", "https://<REDACTED>"),
        ("https://host?next=a@b", "https://<REDACTED>"),
        ("see https://u:p@h/a?x=1 and https://h/b", "see https://h/a and https://h/b"),
        ("zip://a.csv::https://u:p@h/a.zip?sig=1", "zip://a.csv::https://h/a.zip"),
        ("hf://datasets/org/name@main/a.jsonl", "hf://datasets/org/name@main/a.jsonl"),
        ("https://example.org/p@1.0", "https://example.org/p@1.0"),
        ("data/part-?.jsonl", "data/part-?.jsonl"),
        ("What is a@b?", "What is a@b?"),
    ],
)
def test_addresses(text: str, expected: str) -> None:
    assert redacted({"dataset": text, "more": [text]}) == {"dataset": expected, "more": [expected]}
    assert without_credentials({"token": [text]}) == {"token": [expected]}


class Colour(Enum):
    RED = "red"


@dataclass
class Options:
    path: Path
    rank: int


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (float("nan"), None),
        (float("-inf"), None),
        (np.float32("inf"), None),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (torch.tensor(2.5), 2.5),
        (torch.tensor([1.0, float("nan")]), [1.0, None]),
        (torch.bfloat16, "torch.bfloat16"),
        (Path("a/b"), "a/b"),
        (Colour.RED, "red"),
        (True, True),
        ((1, 2), [1, 2]),
        ({"b", "a"}, ["a", "b"]),
        (Options(path=Path("x"), rank=8), {"path": "x", "rank": 8}),
        ({1: float("nan"), "ä": "训练"}, {"1": None, "ä": "训练"}),
        ("bad \udcff name", "bad ? name"),
    ],
)
def test_plain_values(value: Any, expected: Any) -> None:
    result = plain(value)
    assert result == expected
    assert type(result) is type(expected)
    assert json.loads(json.dumps(result, allow_nan=False)) == expected
