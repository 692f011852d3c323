"""What several tests need: packages that look installed, and a command line in a process of its own."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from swift_core.testing.forks import run_forked

WORDS = ["sea", "fish", "ship", "forest", "bird", "deer", "fox", "tree", "rain", "snow", "wind"]

Installer = Callable[..., Path]


def write_package(
    site: Path,
    name: str,
    *,
    version: str = "1.0",
    requires: Sequence[str] = (),
    files: Mapping[str, str] | None = None,
    entry_points: Mapping[str, Mapping[str, str]] | None = None,
) -> Path:
    """Lay a package into ``site`` as pip would: its modules, and metadata with entry points."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    needs = "".join(f"Requires-Dist: {requirement}\n" for requirement in requires)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}")
    lines = []
    for group, entries in (entry_points or {}).items():
        lines += [f"[{group}]", *(f"{key} = {value}" for key, value in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    for path, text in (files or {}).items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text)
    return site


@pytest.fixture(scope="session")
def lay_package() -> Installer:
    """Lay a package into a folder, for a process of its own: see :func:`write_package`."""
    return write_package


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installer]:
    """Make a package importable and visible to importlib.metadata for one test."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    before = set(sys.modules)

    def add(name: str, **parts: object) -> Path:
        write_package(site, name, **parts)  # type: ignore[arg-type]
        importlib.invalidate_caches()
        return site

    yield add
    for module in set(sys.modules) - before:
        if str(site) in str(getattr(sys.modules[module], "__file__", "")):
            del sys.modules[module]


@pytest.fixture
def swift(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run ``python -m swift_core`` in a process of its own, in the test's folder."""

    def run(
        *arguments: str, path: Path | None = None, code: int | None = None, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
        if path is not None:
            env["PYTHONPATH"] = str(path)
        done = run_forked("-m", "swift_core", *arguments, folder=tmp_path, environment=env, timeout=timeout)
        if code is not None:
            assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT with two layers and its own tokenizer, saved as a folder."""
    folder = tmp_path_factory.mktemp("tiny") / "encoder"
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    texts = [f"{word} no number {n} old what" for n, word in enumerate(WORDS * 6)]
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=200,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def on_processes() -> Callable[..., str]:
    """Run a script in a folder on so many gloo processes; returns what they printed."""

    def run(count: int, folder: Path, *command: str) -> str:
        done = run_forked(*command, folder=folder, processes=count)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return run
