"""Each check catches the defect that it is for: toys with one thing broken."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
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
    """What is broken (as the docs say it), the check, the file, its text before and after, and the answer."""

    name: str
    check: str
    file: str
    old: str
    new: str
    told: str


DEFECTS = (
    Defect(
        "the spec imports torch",
        "spec_imports_no_torch",
        "spec.py",
        "from dataclasses import dataclass",
        "import torch\nfrom dataclasses import dataclass",
        "found torch imported",
    ),
    Defect(
        "a hook without @hookimpl",
        "hooks_are_complete",
        "hooks.py",
        "@hookimpl\ndef evaluate",
        "def evaluate",
        "evaluate: there is a function of this name without @hookimpl",
    ),
    Defect(
        "an option without help",
        "options_are_documented_and_typed",
        "spec.py",
        'help="How many numbers words are hashed to."',
        'help=""',
        "option buckets has no help text",
    ),
    Defect(
        "an option that takes any value",
        "options_are_documented_and_typed",
        "spec.py",
        "buckets: Annotated[int, Gt(0)]",
        "buckets: object",
        "option buckets takes any value",
    ),
    Defect(
        "two options that differ by one letter",
        "typos_are_refused",
        "spec.py",
        "    hidden_dropout",
        '    bucket: int = option(1, help="Another number.")\n    hidden_dropout',
        "an option 'bucket' beside 'buckets'",
    ),
    Defect(
        "a column of any type, and an encode that relies on one",
        "bad_rows_are_named",
        "spec.py",
        'name="text", type="text"',
        'name="text", type="any"',
        "AttributeError: 'dict' object has no attribute 'split'",
    ),
    Defect(
        "a row that is refused without its column",
        "bad_rows_are_named",
        "hooks.py",
        "if record",
        "if False and record",
        "in list; start the ValueError with the column's name",
    ),
    Defect(
        "a collator that can't be pickled",
        "collator_works_in_workers",
        "hooks.py",
        "        self.buckets = buckets\n",
        "        self.buckets = buckets\n        self.clean = lambda word: word\n",
        "a collator that can be pickled",
    ),
    Defect(
        "a collator that counts its calls",
        "collator_works_in_workers",
        "hooks.py",
        '        lengths = torch.tensor([0, *(len(row["ids"]) for row in features)])\n',
        '        lengths = torch.tensor([0, *(len(row["ids"]) for row in features)])\n'
        '        self.calls = getattr(self, "calls", 0) + 1\n'
        '        features = [{**row, "ids": row["ids"][: self.calls]} for row in features]\n'
        "        lengths = lengths.clamp(max=self.calls)\n",
        "another one from a pickled copy: batch.batch.ids",
    ),
    Defect(
        "a loss whose gradient points the wrong way",
        "loss_is_finite_and_falls",
        "hooks.py",
        '    return LossOutput(nn.functional.cross_entropy(logits, batch["topic"]))',
        '    loss = nn.functional.cross_entropy(logits, batch["topic"])\n'
        "    return LossOutput(2 * loss.detach() - loss)",
        "a loss that falls by 1% at least within 12 steps",
    ),
    Defect(
        "a loss that is infinite",
        "loss_is_finite_and_falls",
        "hooks.py",
        'return LossOutput(nn.functional.cross_entropy(logits, batch["topic"]))',
        'return LossOutput(nn.functional.cross_entropy(logits, batch["topic"]) + float("inf"))',
        "found inf at step 1",
    ),
    Defect(
        "chance that no seed governs",
        "same_seed_gives_the_same_curve",
        "hooks.py",
        '    logits = model(batch["ids"], batch["starts"])\n    return LossOutput',
        "    import os\n\n"
        '    logits = model(batch["ids"], batch["starts"]) * (1 + os.urandom(1)[0] / 256)\n'
        "    return LossOutput",
        "the same losses with the same seed",
    ),
    Defect(
        "a model that is kept in the module",
        "runs_leave_each_other_alone",
        "hooks.py",
        "    return Topics(args.buckets, len(args.topics), args.hidden_dropout)",
        '    kept = globals().setdefault("KEPT", [])\n'
        "    kept.append(Topics(args.buckets, len(args.topics), args.hidden_dropout))\n"
        "    return kept[0]",
        "a run that had the process for itself",
    ),
    Defect(
        "a counter on the model that is not saved",
        "resume_continues_exactly",
        "hooks.py",
        "        logits: Tensor = self.head(self.dropout(vectors))\n",
        '        self.calls = getattr(self, "calls", 0) + self.training\n'
        "        logits: Tensor = self.head(self.dropout(vectors)) / (1 + self.calls)\n",
        "a run that goes on from a checkpoint",
    ),
    Defect(
        "a loss that is a sum",
        "accumulation_keeps_the_gradient",
        "hooks.py",
        'cross_entropy(logits, batch["topic"]))',
        'cross_entropy(logits, batch["topic"], reduction="sum"))',
        "return the mean over the items",
    ),
    Defect(
        "a mean over words, and a number of items that is that of rows",
        "accumulation_keeps_the_gradient",
        "hooks.py",
        '    return LossOutput(nn.functional.cross_entropy(logits, batch["topic"]))',
        '    ends = torch.cat([batch["starts"], torch.tensor([len(batch["ids"])])])\n'
        '    losses = nn.functional.cross_entropy(logits, batch["topic"], reduction="none")\n'
        "    return LossOutput((losses * ends.diff()).sum() / ends[-1])",
        "put their number into the batch",
    ),
    Defect(
        "a metric that is declared and never measured",
        "metrics_exist",
        "hooks.py",
        '{"accuracy": right, "log_loss": log_loss}',
        '{"accuracy": right}',
        "did not return the declared metrics log_loss",
    ),
    Defect(
        "a primary metric that is not a number",
        "metrics_exist",
        "hooks.py",
        '"accuracy": right',
        '"accuracy": float("nan")',
        "accuracy not finite",
    ),
    Defect(
        "a buffer that is not saved",
        "reload_evaluates_the_same",
        "hooks.py",
        "        logits: Tensor = self.head(self.dropout(vectors))\n",
        '        self.seen: Tensor\n        if not hasattr(self, "seen"):\n'
        '            self.register_buffer("seen", torch.zeros(()), persistent=False)\n'
        "        self.seen = self.seen + self.training\n"
        "        logits: Tensor = self.head(self.dropout(vectors)) + self.seen * self.head.bias\n",
        "a saved folder that holds the model in memory",
    ),
    Defect(
        "an export that writes no file",
        "exports_exist",
        "hooks.py",
        "    path.write_text(json.dumps(weights))\n    if json.loads(path.read_text()) != weights:\n",
        "    if not path:\n",
        "found no files",
    ),
    Defect(
        "an export of something else than the trained weights",
        "exports_exist",
        "hooks.py",
        "    weights = {name: weight.tolist() for",
        "    weights = {name: torch.zeros_like(weight).tolist() for",
        "the same files for other weights",
    ),
    Defect(
        "an export that rounds, and compares with what it rounded",
        "exports_give_the_same_outputs",
        "hooks.py",
        "    weights = {name: weight.tolist() for",
        "    weights = {name: weight.round().tolist() for",
        "to give the model's outputs",
    ),
)

# One plugin for both, since both need other processes.
IN_OTHER_PROCESSES = (
    Defect(
        "a loss that is multiplied by the number of processes",
        "two_processes_keep_the_gradient",
        "hooks.py",
        'LossOutput(nn.functional.cross_entropy(logits, batch["topic"]))',
        'LossOutput(\n        nn.functional.cross_entropy(logits, batch["topic"])\n'
        '        * int(__import__("os").environ.get("WORLD_SIZE", 1))\n    )',
        "two processes with two rows each",
    ),
    Defect(
        "an evaluation of a share of the rows",
        "two_processes_measure_the_same",
        "hooks.py",
        "    batch = collator([rows[n] for n in range(len(rows))])\n    logits",
        '    rank = int(__import__("os").environ.get("RANK", 0))\n'
        "    batch = collator([rows[n] for n in range(rank, len(rows))])\n    logits",
        "on process 1: eval_accuracy",
    ),
)

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
LEAK = Defect(
    "a model that is run on flat rows unchecked, and mixes neighbours in them",
    "padded_and_flat_agree",
    "hooks.py",
    "        return output\n",
    "        hidden = output.last_hidden_state\n"
    "        output.last_hidden_state = hidden + hidden.roll(1, dims=1)\n"
    "        return output\n",
    "the same loss on a flat row and on a padded batch",
)
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


def logits_of(model: nn.Module) -> Any:
    return model(torch.arange(60), torch.arange(0, 60, 6))


def exported_outputs(format: str, folder: Path) -> Any:
    weights = json.loads((folder / "weights.json").read_text())
    model = Topics(len(weights["words.weight"]), len(weights["head.weight"]), 0.0).eval()
    model.load_state_dict({name: torch.tensor(weight) for name, weight in weights.items()})
    return logits_of(model)


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.name)
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


def documented(heading: str) -> list[list[str]]:
    """Rows of the table below a heading of the docs, without its head."""
    section = (ROOT / "docs" / "conformance.md").read_text("utf-8").partition(f"## {heading}\n")[2]
    rows = [line for line in section.partition("\n## ")[0].splitlines() if line.startswith("| ")]
    return [[cell.strip(" `") for cell in row.strip("|").split("|")] for row in rows[2:]]


def test_every_check_has_a_defect_that_it_catches_and_the_docs_have_them_all() -> None:
    everything = (*DEFECTS, *IN_OTHER_PROCESSES, LEAK)
    assert documented("What each check catches") == [[d.name, d.check] for d in everything]
    assert {defect.check for defect in everything} == set(BY_NAME)
    assert [row[0] for row in documented("The checks")] == list(BY_NAME)
