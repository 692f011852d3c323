"""Each check catches the defect that it is for: toys with one thing broken."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from swift_core.testing import CHECKS, ConformanceError, NotApplicable, Subject
from swift_core.testing import toy as toy_package
from swift_core.testing.toy import TOY_ROWS
from swift_core.testing.toy.hooks import Topics

ROOT = Path(__file__).parents[2]
TOY = Path(toy_package.__file__).parent
BY_NAME = {check.name: check for check in CHECKS}


class Defect(NamedTuple):
    """What is broken (as the docs say it), and where: see ``defects.toml``."""

    name: str
    check: str
    plugin: str
    file: str
    old: str
    new: str
    told: str


DEFECTS = [
    Defect(**entry)
    for entry in tomllib.loads(Path(__file__).with_name("defects.toml").read_text("utf-8"))["defect"]
]
IN_OTHER_PROCESSES = [defect for defect in DEFECTS if defect.plugin == "processes"]
(LEAK,) = [defect for defect in DEFECTS if defect.plugin == "flat"]

FLAT = """
import zlib
import torch
from transformers import BertConfig, BertModel
from swift_core import LossOutput, hookimpl
from swift_core.flat import FlatState, Rung, flat_batch, forward_flat, set_state
from swift_core.testing.toy.hooks import evaluate, export

class Reader(BertModel):
    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        return output

class Collator:
    def encode(self, record):
        ids = [zlib.crc32(word.encode()) % 50 for word in record["text"].split()]
        return {"ids": ids, "length": len(ids)}

    def __call__(self, features):
        return {"texts": flat_batch([row["ids"] for row in features])}

@hookimpl
def make_model():
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = Reader(BertConfig(vocab_size=50, **sizes), add_pooling_layer=False)
    return model

@hookimpl
def make_collator():
    return Collator()

@hookimpl
def compute_loss(model, batch):
    return LossOutput(forward_flat(model, batch["texts"])[:, 0].square().mean())
"""
TRUSTED = (
    "    return model\n",
    '    set_state(model, FlatState(rung=Rung.FLAT, original="sdpa"))\n    return model\n',
)


@pytest.fixture
def subject_of(install: Callable[..., Path], tmp_path: Path) -> Callable[..., Subject]:
    """Install a toy with some of its text replaced, and look at it."""

    def build(*defects: Defect, hooks: str | None = None) -> Subject:
        files = {name: (TOY / name).read_text() for name in ("spec.py", "hooks.py")}
        files["hooks.py"] = hooks or files["hooks.py"]
        for defect in defects:
            assert files[defect.file].count(defect.old) == 1, f"{defect.name}: the toy has other text by now"
            files[defect.file] = files[defect.file].replace(defect.old, defect.new)
        files = {
            f"acme_toy/{name}": text.replace("swift_core.testing.toy.spec:", "acme_toy.spec:").replace(
                'implementation="swift_core.testing.toy.', 'implementation="acme_toy.'
            )
            for name, text in files.items()
        }
        entry = {"swift.tasks": {"toy-topics": "acme_toy.spec:SPEC"}}
        install("acme-toy", files={"acme_toy/__init__.py": "", **files}, entry_points=entry)
        bad = ({"text": "it rains", "topic": "weather"}, "topic")
        return Subject(
            task_type="toy-topics",
            rows=TOY_ROWS,
            folder=tmp_path / "conformance",
            bad_rows=[bad],
            reload_export=exported_outputs,
            outputs=lambda model, collator: logits_of(model),
        )

    return build


@pytest.fixture(scope="module")
def trained_toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    """The toy as it is, trained once for several tests."""
    with toy_package.toy_installed() as toy:
        yield Subject(
            task_type=toy,
            rows=TOY_ROWS,
            folder=tmp_path_factory.mktemp("trained"),
            steps=2,
            reload_export=exported_outputs,
            outputs=lambda model, collator: logits_of(model),
        )


def logits_of(model: nn.Module) -> Any:
    return model(torch.arange(60), torch.arange(0, 60, 6))


def exported_outputs(format: str, folder: Path) -> Any:
    weights = json.loads((folder / "weights.json").read_text())
    model = Topics(len(weights["words.weight"]), len(weights["head.weight"]), 0.0).eval()
    model.load_state_dict({name: torch.tensor(weight) for name, weight in weights.items()})
    return logits_of(model)


@pytest.mark.parametrize("defect", [d for d in DEFECTS if d.plugin == "toy"], ids=lambda d: d.name)
def test_a_defect_is_caught(subject_of: Callable[..., Subject], defect: Defect) -> None:
    with pytest.raises(ConformanceError, match=re.escape(defect.told)):
        BY_NAME[defect.check].run(subject_of(defect))


def test_defects_that_show_in_other_processes_are_caught(subject_of: Callable[..., Subject]) -> None:
    subject = subject_of(*IN_OTHER_PROCESSES)
    for defect in IN_OTHER_PROCESSES:
        with pytest.raises(ConformanceError, match=re.escape(defect.told)):
            BY_NAME[defect.check].run(subject)


def test_a_leak_on_flat_rows_is_caught(subject_of: Callable[..., Subject]) -> None:
    hooks = FLAT.replace(*TRUSTED)
    with pytest.raises(ConformanceError, match=LEAK.told):
        BY_NAME[LEAK.check].run(subject_of(LEAK, hooks=hooks))


def test_a_sound_model_agrees_with_itself_on_flat_rows(subject_of: Callable[..., Subject]) -> None:
    BY_NAME[LEAK.check].run(subject_of(hooks=FLAT))


def test_the_core_does_not_trust_a_model_that_leaks(subject_of: Callable[..., Subject]) -> None:
    with pytest.raises(NotApplicable, match="not run on flat rows"):
        BY_NAME[LEAK.check].run(subject_of(LEAK, hooks=FLAT))


@pytest.mark.parametrize("nothing", [None, float("nan"), [torch.tensor([1.0, float("nan")])], {}])
def test_an_export_that_is_compared_with_nothing_is_told(
    trained_toy: Subject, nothing: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = BY_NAME["exports_give_the_same_outputs"]
    check.run(trained_toy)
    monkeypatch.setattr(trained_toy, "reload_export", lambda format, folder: nothing)
    with pytest.raises(ConformanceError, match=r"from reload_export\('json', \.\.\.\); found (N|nothing)"):
        check.run(trained_toy)
    # Both of them the same nothing is no agreement.
    monkeypatch.setattr(trained_toy, "outputs", lambda model, collator: nothing)
    with pytest.raises(ConformanceError, match="from outputs; found"):
        check.run(trained_toy)
    monkeypatch.setattr(trained_toy, "outputs", None)
    with pytest.raises(ConformanceError, match="found reload_export alone; write the other one too"):
        check.run(trained_toy)


def documented(heading: str) -> list[list[str]]:
    """Rows of the table below a heading of the docs, without its head."""
    section = (ROOT / "docs" / "conformance.md").read_text("utf-8").partition(f"## {heading}\n")[2]
    rows = [line for line in section.partition("\n## ")[0].splitlines() if line.startswith("| ")]
    return [[cell.strip(" `") for cell in row.strip("|").split("|")] for row in rows[2:]]


def test_every_check_has_a_defect_that_it_catches_and_the_docs_have_them_all() -> None:
    assert documented("What each check catches") == [[d.name, d.check] for d in DEFECTS]
    assert {defect.check for defect in DEFECTS} == set(BY_NAME)
    assert [row[0] for row in documented("The checks")] == list(BY_NAME)
