"""Runs the code blocks of a page of the docs, in order, in one folder.

The conventions, for those who write docs:

- a block with ``title="name"`` behind its language is written to the file of that name; with
  ``<!-- test: append -->`` before it, it goes to the end of that file;
- a ``python`` block without a title is executed; all of a page share their names;
- a ``console`` block holds commands (``$ ...``) and what they print. ``swift``, ``python FILE``, ``cat``,
  ``head``, ``ls`` and ``pip install -e .`` (in a page that wrote a pyproject.toml) are run. Each line shown
  must be printed, numbers and folders aside; ``...`` stands for any lines, at a line's end for any end;
- ``<!-- test: skip, REASON -->`` before a block leaves it out, ``<!-- test: exit N -->`` says how its last
  command ends, ``<!-- test: output differs -->`` compares no output;
- other languages are not run; ``yaml`` and ``jsonl`` without a title must be in good order.

Tiny random models stand in the folder under the hub ids that the docs use: a local folder wins over the hub.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
)

from swift_core.cli import main
from swift_core.runfile import read_run_file
from swift_core.testing.__main__ import main as conformance

ENCODERS = ("BAAI/bge-small-zh-v1.5", "sentence-transformers/all-MiniLM-L6-v2")
DECODERS = ("Qwen/Qwen3-Embedding-0.6B",)
CHATS = ("HuggingFaceTB/SmolLM2-135M-Instruct",)
_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_FENCE = re.compile(
    r"(?:^<!-- test: (?P<note>[^\n]*?) -->\n+)?^```(?P<language>[a-z]*)(?: title=\"(?P<title>[^\"]+)\")?\n"
    r"(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_NUMBER = re.compile(r"(?<![A-Za-z_@])[-+]?\d[\d,.:]*(e[-+]?\d+)?")
_RUN = re.compile(r"(?P<parent>[^\s=]*task-type=[a-z-]+)/\d{8}-\d{6}(?P<slug>(-[a-z][\w]*)*)")
_OUTPUT_FOLDER = re.compile(r"/\S*/output/")


@dataclass(frozen=True)
class Block:
    """A fenced block: its place, language, file name and note for the tests."""

    place: str
    language: str
    title: str | None
    note: str
    text: str


@dataclass
class Page:
    """A page that is being run; ``folder`` is the working directory, ``install`` makes a package visible."""

    folder: Path
    install: Callable[[str, str, dict[str, dict[str, str]]], None]
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "docs"})

    def run(self, block: Block) -> None:
        """Do what a reader would do with the block."""
        if block.note.startswith("skip"):
            assert "," in block.note, f"{block.place}: say why the block is skipped"
        elif block.title is not None:
            path = self.folder / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            before = path.read_text(encoding="utf-8") + "\n" if block.note == "append" else ""
            if path.exists():
                forget_modules_in(self.folder)
            path.write_text(before + block.text, encoding="utf-8")
        elif block.language == "python":
            exec(compile(block.text, block.place, "exec"), self.names)
        elif block.language == "console":
            self._console(block)
        elif block.language == "yaml":
            path = self.folder / "block-of-the-docs.yaml"
            path.write_text(block.text, encoding="utf-8")
            read_run_file(path)
        elif block.language == "jsonl":
            assert all(json.loads(line) for line in block.text.splitlines())

    def _console(self, block: Block) -> None:
        exits = re.match(r"exit (\d+)", block.note)
        commands = list(_commands(block.text))
        for number, (command, shown) in enumerate(commands, start=1):
            code, printed = self._command(self._with_real_runs(command))
            expected = int(exits[1]) if exits and number == len(commands) else 0
            assert code == expected, f"{block.place}: `{command}` ended with {code}:\n{printed}"
            if block.note != "output differs":
                missing = missing_lines(shown, printed)
                assert not missing, f"{block.place}: `{command}` did not print {missing!r} but\n{printed}"

    def _command(self, command: str) -> tuple[int, str]:
        program, *arguments = shlex.split(command, comments=True)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            if program == "swift":
                code = _exit_code(lambda: main(arguments))
            elif (program, *arguments[:2]) == ("python", "-m", "swift_core.testing"):
                code = _exit_code(lambda: conformance(arguments[2:]))
            elif program == "python":
                code = _exit_code(lambda: runpy.run_path(arguments[0], run_name="__main__"))
            elif (program, *arguments) == ("pip", "install", "-e", "."):
                code = self._pip_install()
            else:
                assert program in ("cat", "head", "ls"), f"the tests don't know the command {program}"
                done = subprocess.run(
                    [program, *arguments], cwd=self.folder, capture_output=True, text=True, check=False
                )
                code = done.returncode
                printed.write(done.stdout + done.stderr)
        return code, printed.getvalue()

    def _pip_install(self) -> int:
        project = tomllib.loads((self.folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        self.install(project["name"], project["version"], project.get("entry-points", {}))
        return 0

    def _with_real_runs(self, command: str) -> str:
        def real(match: re.Match[str]) -> str:
            runs = sorted((self.folder / match["parent"]).glob(f"[0-9]*{match['slug']}"))
            assert runs, f"{command}: there is no such run"
            return f"{match['parent']}/{runs[-1].name}"

        return _RUN.sub(real, command)


def forget_modules_in(folder: Path) -> None:
    """Have what was imported from ``folder`` imported again, as in the reader's next command."""
    for name, module in [*sys.modules.items()]:
        if str(folder) in str(getattr(module, "__file__", "")):
            del sys.modules[name]
    importlib.invalidate_caches()


def blocks_of(path: Path) -> list[Block]:
    """All fenced blocks of a page."""
    text = path.read_text(encoding="utf-8")
    return [
        Block(
            place=f"{path.name}:{text.count(chr(10), 0, match.start('text'))}",
            language=match["language"],
            title=match["title"],
            note=match["note"] or "",
            text=match["text"],
        )
        for match in _FENCE.finditer(text)
    ]


def missing_lines(shown: list[str], printed: str) -> list[str]:
    """The lines of ``shown`` that ``printed`` lacks, or has in another order."""
    left = [_alike(line) for line in printed.splitlines()]
    missing = []
    for line in shown:
        wanted = _alike(line)
        if wanted in ("", "..."):
            continue
        stem = wanted.removesuffix("...").rstrip() if wanted.endswith("...") else None
        found = next((n for n, got in enumerate(left) if _fits(got, wanted, stem)), None)
        if found is None:
            missing.append(line)
        else:
            left = left[found + 1 :]
    return missing


def _fits(got: str, wanted: str, stem: str | None) -> bool:
    return got == wanted if stem is None else got.startswith(stem)


def _alike(line: str) -> str:
    return _NUMBER.sub("#", _OUTPUT_FOLDER.sub("output/", " ".join(line.split())))


def _commands(text: str) -> Iterator[tuple[str, list[str]]]:
    command: str | None = None
    shown: list[str] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            if command is not None:
                yield command, shown
            command, shown = line.removeprefix("$ "), []
        else:
            shown.append(line)
    if command is not None:
        yield command, shown


def _exit_code(call: Callable[[], Any]) -> int:
    try:
        result = call()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    return result if isinstance(result, int) else 0


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small model under each hub id that the docs use."""
    folder = tmp_path_factory.mktemp("hub")
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    tokenizer = _byte_tokenizer()
    for name in ENCODERS:
        tokenizer.save_pretrained(folder / name)
        BertModel(BertConfig(vocab_size=300, max_position_embeddings=512, **sizes)).save_pretrained(
            folder / name
        )
    for name in DECODERS:
        tokenizer.save_pretrained(folder / name)
        config = Qwen3Config(vocab_size=300, num_key_value_heads=1, head_dim=16, **sizes)
        Qwen3Model(config).save_pretrained(folder / name)
    for name in CHATS:
        _chat_tokenizer().save_pretrained(folder / name)
        config = Qwen3Config(vocab_size=300, num_key_value_heads=1, head_dim=16, eos_token_id=2, **sizes)
        Qwen3ForCausalLM(config).save_pretrained(folder / name)
    return folder


def _bytes(special: list[str]) -> Tokenizer:
    alphabet = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={token: n for n, token in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _chat_tokenizer() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=_bytes(["[PAD]", "<|im_start|>", "<|im_end|>"]),
        pad_token="[PAD]",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=_CHAT_TEMPLATE,
    )


def _byte_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = _bytes(["[PAD]", "[CLS]", "[SEP]"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", eos_token="[SEP]"
    )


@pytest.fixture
def reader_folder(tmp_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory of somebody who reads a page: empty but for the models."""
    folder = tmp_path / "reader"
    folder.mkdir()
    for name in (*ENCODERS, *DECODERS, *CHATS):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).symlink_to(hub / name)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    importlib.invalidate_caches()
    yield folder
    forget_modules_in(folder)


@pytest.fixture
def run_page(reader_folder: Path, install: Callable[..., Path]) -> Callable[[Path], Page]:
    """Run all blocks of a page and return what is left of it."""

    def run(path: Path) -> Page:
        def add(name: str, version: str, entry_points: Mapping[str, Mapping[str, str]]) -> None:
            install(name, version=version, entry_points=entry_points)

        page = Page(reader_folder, add)
        for block in blocks_of(path):
            page.run(block)
        return page

    return run


@pytest.fixture
def lines_missing() -> Callable[[list[str], str], list[str]]:
    """How shown lines are compared with printed ones."""
    return missing_lines


@pytest.fixture
def page_blocks() -> Callable[[Path], list[Block]]:
    """The fenced blocks of a page, as the runner sees them."""
    return blocks_of
