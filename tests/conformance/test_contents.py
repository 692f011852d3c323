"""What a batch holds is found in whatever classes it is made of."""

from __future__ import annotations

import dataclasses
import pickle
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BatchEncoding

from swift_core.testing.contents import contents_of, different_contents


@dataclasses.dataclass
class Part:
    ids: Any
    note: str = "a"


class Slotted:
    __slots__ = ("unset", "weights")

    def __init__(self, weights: Any) -> None:
        self.weights = weights


class Opaque:
    pass


NAN = float("nan")


@pytest.mark.parametrize(
    ("before", "after", "names"),
    [
        (Part(torch.ones(2)), Part(torch.zeros(2)), ["batch.ids"]),
        ([Part(1), Part(2)], [Part(1), Part(2, note="b")], ["batch.1.note"]),
        ({"x": SimpleNamespace(n=1)}, {"x": SimpleNamespace(n=2)}, ["batch.x.n"]),
        (Slotted(torch.tensor([1.0])), Slotted(torch.tensor([2.0])), ["batch.weights"]),
        (BatchEncoding({"a": torch.ones(1)}), BatchEncoding({"a": torch.zeros(1)}), ["batch.a"]),
        (Part(np.array([1, 2])), Part(np.array([1, 3])), ["batch.ids"]),
        (torch.ones(2), torch.ones(3), ["batch"]),
        (torch.ones(2), torch.ones(2, dtype=torch.float64), ["batch"]),
        ({"a": 1}, {"a": 1, "b": None}, ["batch.b"]),
        ({"a": 1}, {"a": True}, ["batch.a"]),
        (Part({1, 2}), Part({1, 3}), ["batch.ids"]),
        ({"x": Opaque()}, {"x": Part(1)}, ["batch.x.class", "batch.x.ids", "batch.x.note"]),
    ],
)
def test_what_differs_is_named(before: object, after: object, names: list[str]) -> None:
    assert different_contents(contents_of(before), contents_of(after)) == names


@pytest.mark.parametrize(
    "part",
    [
        Part([torch.tensor([1.0, NAN]), np.array([[NAN, 1.0]]), NAN, None, "x", torch.float16]),
        SimpleNamespace(inner=Slotted(Part(3)), other=Opaque()),
        torch.eye(3).to_sparse(),
        {"list": (1, [2, {"three": b"4"}])},
    ],
)
def test_a_copy_is_the_same(part: object) -> None:
    assert different_contents(contents_of(part), contents_of(pickle.loads(pickle.dumps(part)))) == []


def test_an_object_that_holds_itself_ends() -> None:
    knot = SimpleNamespace(n=1)
    knot.own = [knot]
    assert contents_of(knot) == {"batch.n": 1}
