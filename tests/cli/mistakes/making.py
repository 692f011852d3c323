"""Mistakes, and ways to make them in a small project."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

CHECK, TRAIN = "check run.yaml", "train run.yaml"
BEIR = {
    "corpus.jsonl": '{"_id": "d0", "text": "sea number 0"}\n{"_id": "d1", "text": "deer"}\n',
    "queries.jsonl": '{"_id": "q0", "text": "sea 0"}\n',
    "qrels/test.tsv": "query-id\tcorpus-id\tscore\nq0\td0\t1\n",
}
Build = Callable[[Path], Any]


@dataclass(frozen=True)
class Wrong:
    """A mistake: what to change in the project, what to type, and what must be said."""

    name: str
    command: str
    says: str
    build: Build | None = None
    code: int = 2


def put(name: str, content: str | bytes) -> Build:
    """Write one file."""

    def build(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return build


def edit(name: str, change: Callable[[str], str | bytes]) -> Build:
    """Change the text of one file."""
    return lambda folder: put(name, change((folder / name).read_text()))(folder)


def more(line: str) -> Build:
    """One more line in the run file, which is line 9."""
    return edit("run.yaml", lambda text: text + line)


def rows(*extra: Any, keep: int = 8, without: str = "", **changes: Any) -> Build:
    """Other training data: some of the rows, changed, and more of them."""

    def change(text: str) -> str:
        found = [{**json.loads(line), **changes} for line in text.splitlines()[:keep]]
        found = [{key: value for key, value in row.items() if key != without} for row in found]
        return "".join(json.dumps(row) + "\n" for row in [*found, *extra])

    return edit("train.jsonl", change)


def drop(*names: str) -> Build:
    """Remove files and folders."""

    def build(folder: Path) -> None:
        for path in [found for name in names for found in folder.glob(name)]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return build


def both(*builds: Build) -> Build:
    """One change after another."""

    def build(folder: Path) -> None:
        for change in builds:
            change(folder)

    return build


def weights(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Build:
    """Other weights in the model's folder."""

    def build(folder: Path) -> None:
        path = folder / "model/model.safetensors"
        save_file(change(load_file(path)), path, metadata={"format": "pt"})

    return build


def cut(name: str, size: int) -> Build:
    """Keep only the first bytes of a file."""
    return lambda folder: os.truncate(folder / name, size)


def pickled(folder: Path) -> None:
    """Weights in a pickle, as old models have them."""
    torch.save(load_file(folder / "model/model.safetensors"), folder / "model/pytorch_model.bin")
    (folder / "model/model.safetensors").unlink()


def adapter(base: str | None = "model", **changes: Any) -> Build:
    """A folder ``adapter`` with the settings of one, but no weights."""
    settings = {"peft_type": "LORA", "base_model_name_or_path": base, "r": 4, "target_modules": ["query"]}
    return put("adapter/adapter_config.json", json.dumps({**settings, **changes}))


def recorded(**changes: Any) -> Build:
    """Other fields in the record of the run ``R``."""

    def build(folder: Path) -> None:
        path = folder / "R/run.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return build


def elsewhere(folder: Path) -> None:
    """The run ``R`` says that it runs on another host."""
    session = json.loads((folder / "R/run.json").read_text())["sessions"][0]
    recorded(state="running", sessions=[{**session, "host": "elsewhere"}])(folder)


def beir(**files: str | None) -> Build:
    """A folder ``beir``; ``corpus``, ``queries`` and ``qrels`` give other text, or None for no file."""
    content = {name: files.get(name.partition("/")[0].partition(".")[0], text) for name, text in BEIR.items()}
    return both(*(put(f"beir/{name}", text) for name, text in content.items() if text is not None))
