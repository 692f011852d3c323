"""Mistakes of a user: each ends with exit code 2, without a traceback, in a sentence that says what to do.

Exit code 1 is for what was right and failed: a disk, a damaged checkpoint, a training that diverged.
"""

from __future__ import annotations

import errno
import gzip
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from swift_core import SwiftTrainer, TrainingArguments, UserError

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


# -- ways to spoil a project ------------------------------------------------------------------------------


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


# -- the table --------------------------------------------------------------------------------------------

COMMANDS = [
    Wrong("no command", "", "swift: expected a command\nTry: swift --help"),
    Wrong("unknown command", "trian run.yaml", "there is no command 'trian'. Did you mean 'train'?"),
    Wrong("flag in place of a command", "--verbose", "unknown argument --verbose"),
    Wrong("no run file", "train", "required: RUN.yaml (it comes first"),
    Wrong("resume before the run file", "train --resume run.yaml", "it comes first, before --resume"),
    Wrong("unknown flag", f"{CHECK} --verbose", "unknown argument --verbose"),
    Wrong("option with dashes", f"{TRAIN} --learning_rate 2e-5", "without dashes: learning_rate=2e-5\n"),
    Wrong(
        "option with dashes and =", f"{TRAIN} --learning-rate=2e-5", "without dashes: learning_rate=2e-5\n"
    ),
    Wrong("option without =", f"{TRAIN} learning_rate 2e-5", "expected option=value, found 'learning_rate'"),
    Wrong("value of a switch", f"{CHECK} --json=1", "argument --json"),
    Wrong("no format", "export R", "required: --format"),
    Wrong("word too many", "tasks extra", "swift: unknown argument extra\n"),
    Wrong("unknown task to describe", "describe embeding", "Did you mean 'embedding'?"),
    Wrong("option behind a flag", f"{CHECK} --json temprature=1", "there is no option 'temprature'"),
]
OPTIONS = [
    Wrong(
        "typo in the file", CHECK, "run.yaml:9: there is no option 'learning_rte'", more("learning_rte: 1")
    ),
    Wrong(
        "typo on the command line", f"{CHECK} temprature=1", "command line: there is no option 'temprature'"
    ),
    Wrong(
        "type", f"{CHECK} learning_rate=fast", "learning_rate: expected a number >= 0, found 'fast' (text)"
    ),
    Wrong("yes for true", f"{CHECK} use_lora=yes", "use_lora: expected true or false, found 'yes'"),
    Wrong("range", f"{CHECK} temperature=0", "temperature: expected a number > 0, found 0"),
    Wrong(
        "choice", f"{CHECK} pooling_method=max", "expected one of cls, mean, lasttoken or null, found 'max'"
    ),
    Wrong("nothing", f"{CHECK} learning_rate=", "learning_rate: expected a number >= 0, found null"),
    Wrong("not a number", f"{CHECK} learning_rate=.nan", "learning_rate: expected a number >= 0, found nan"),
    Wrong("infinite", f"{CHECK} weight_decay=.inf", "weight_decay: expected a number >= 0, found inf"),
    Wrong("list for one", f"{CHECK} eval_k=5", "eval_k: expected a list (each an integer > 0), found 5"),
    Wrong("empty list", f"{CHECK} eval_k=[]", "eval_k: expected a list"),
    Wrong(
        "twice in the file",
        CHECK,
        "run.yaml:9: 'dataset' is given twice, first in line 3",
        more("dataset: x"),
    ),
    Wrong("twice on the command line", f"{CHECK} seed=1 seed=2", "'seed' is given twice; keep one"),
    Wrong("two evaluations", f"{CHECK} eval_split=0.1 eval_dataset=train.jsonl", "give one of them"),
    Wrong(
        "no task",
        CHECK,
        "task_type: expected the name of a task type, found none",
        put("run.yaml", "seed: 1"),
    ),
    Wrong(
        "number for a task",
        CHECK,
        "run.yaml:1: task_type: expected the name",
        put("run.yaml", "task_type: 3"),
    ),
    Wrong(
        "unknown task",
        f"{CHECK} task_type=embeding",
        "command line: task_type: no installed package provides",
    ),
    Wrong("task of no package", f"{CHECK} task_type=nobody:embedding", "swift-embedding:embedding"),
    Wrong(
        "export format", f"{CHECK} export_formats=[fais]", "no export format 'fais'. Did you mean 'faiss'?"
    ),
    Wrong("no effect here", f"{CHECK} label_smoothing_factor=0.1", "has no effect here: the task's own loss"),
    Wrong("resume as an option", f"{CHECK} resume_from_checkpoint=x", "write `swift train --resume`"),
    Wrong(
        "the library refuses", f"{CHECK} load_best_model_at_end=true", "requires the save and eval strategy"
    ),
    Wrong(
        "no data",
        CHECK,
        "dataset: expected training data",
        edit("run.yaml", lambda text: text.replace("dataset:", "run_name:")),
    ),
    Wrong("batch of 0", f"{CHECK} per_device_train_batch_size=0", "expected an integer > 0, found 0"),
    Wrong("accumulation of 0", f"{CHECK} gradient_accumulation_steps=0", "expected an integer > 0, found 0"),
    Wrong("no steps", f"{CHECK} max_steps=0", "max_steps: expected -1 or an integer > 0, found 0"),
    Wrong("no epochs", f"{CHECK} num_train_epochs=0", "num_train_epochs: expected a number > 0, found 0"),
    Wrong("seed below 0", f"{CHECK} seed=-1", "seed: expected an integer >= 0 and < 4294967296, found -1"),
    Wrong("workers below 0", f"{CHECK} dataloader_num_workers=-1", "expected an integer >= 0, found -1"),
    Wrong("negative rate", f"{CHECK} learning_rate=-1", "learning_rate: expected a number >= 0, found -1"),
    Wrong("log level", f"{CHECK} log_level=loud", "log_level: expected one of detail, debug"),
    Wrong(
        "evaluation of nothing",
        f"{CHECK} eval_strategy=epoch",
        "eval_strategy: 'epoch' needs evaluation data",
    ),
    Wrong("reports to nobody", f"{TRAIN} report_to=nonsense", "nonsense is not supported"),
    Wrong("missing package", f"{TRAIN} report_to=wandb", "a package that an option needs is not installed"),
    Wrong(
        "output_dir is a file",
        f"{TRAIN} output_dir=run.yaml",
        "output_dir: expected a folder that can be written",
    ),
    Wrong(
        "output_dir can't be made", f"{TRAIN} output_dir=/proc/x", "found /proc/x: No such file or directory"
    ),
    Wrong("output_dir is nothing", f"{CHECK} output_dir=", "output_dir: expected a text, found null"),
]
RUN_FILES = [
    Wrong("missing", "train rum.yaml", "rum.yaml: there is no such run file; . holds run.yaml"),
    Wrong("missing folder", "train no/run.yaml", "no/run.yaml: there is no such run file; check the path"),
    Wrong("empty", CHECK, "run.yaml: the run file is empty", put("run.yaml", "# nothing\n")),
    Wrong(
        "binary", CHECK, "expected UTF-8 text, found byte 0x89 at offset 0", put("run.yaml", b"\x89PNG\r\n")
    ),
    Wrong("UTF-16", CHECK, "save the file as UTF-8", edit("run.yaml", lambda text: text.encode("utf-16"))),
    Wrong("folder", "check model", "model: the run file can't be read: Is a directory"),
    Wrong("list", CHECK, "expected lines of 'option: value', found a list", put("run.yaml", "- a\n- b\n")),
    Wrong("one word", CHECK, "found a single value", put("run.yaml", "embedding")),
    Wrong("tab", CHECK, "run.yaml:9: not valid YAML", more("\tseed: 3\n")),
    Wrong(
        "no space after the colon",
        CHECK,
        "run.yaml:9: not valid YAML: expected 'option: value'",
        more("seed:3\n"),
    ),
    Wrong("key that is a number", CHECK, "run.yaml:9: expected a name before ':', found '3'", more("3: 4\n")),
    Wrong(
        "key that is a list",
        CHECK,
        "run.yaml:9: expected a name before ':', found a list",
        more("? [a]\n: 4\n"),
    ),
    Wrong("unknown tag", CHECK, "run.yaml:9: could not determine a constructor", more("seed: !x 3\n")),
    Wrong("holds itself", CHECK, "nested too deeply, or hold themselves", more("columns: &a {query: *a}\n")),
    Wrong("nested too deeply", CHECK, "nested too deeply", more(f"columns: {'[' * 3000}{']' * 3000}\n")),
    Wrong("two documents", CHECK, "not valid YAML", more("---\nseed: 3\n")),
    Wrong("the data", "check train.jsonl", "train.jsonl:2: not valid YAML"),
]
MODELS = [
    Wrong(
        "none",
        CHECK,
        "model_name_or_path: expected a local folder or a hub id",
        edit("run.yaml", lambda text: text.replace("model_name_or_path: model", "")),
    ),
    Wrong("missing folder", f"{TRAIN} model_name_or_path=./no", "there is no folder ./no; check the path"),
    Wrong("file", f"{TRAIN} model_name_or_path=model/config.json", "there is no folder model/config.json"),
    Wrong("hub id offline", f"{TRAIN} model_name_or_path=acme/no", "hf download acme/no"),
    Wrong(
        "neither path nor id",
        f"{TRAIN} model_name_or_path='a b'",
        "'a b' is neither a folder here nor a hub id",
    ),
    Wrong(
        "revision of a folder",
        f"{TRAIN} model_revision=v1",
        "model_revision: has no effect on the local folder",
    ),
    Wrong("no config", TRAIN, "holds neither config.json nor adapter_config.json", drop("model/config.json")),
    Wrong("broken config", TRAIN, "model/config.json can't be used", put("model/config.json", '{"a": ')),
    Wrong("config is a list", TRAIN, "model/config.json can't be used", put("model/config.json", "[]")),
    Wrong("config without a type", TRAIN, "should have a `model_type` key", put("model/config.json", "{}")),
    Wrong("unknown kind", TRAIN, "model type `odd`", put("model/config.json", '{"model_type": "odd"}')),
    Wrong(
        "code of its own",
        TRAIN,
        "set trust_remote_code=true",
        put("model/config.json", '{"model_type": "odd", "auto_map": {"AutoConfig": "code.Config"}}'),
    ),
    Wrong("no tokenizer", TRAIN, "model has no tokenizer; copy its files", drop("model/tokenizer*")),
    Wrong(
        "broken tokenizer", TRAIN, "no tokenizer that can be loaded", put("model/tokenizer.json", '{"a": ')
    ),
    Wrong(
        "tokenizer of another kind",
        TRAIN,
        "no tokenizer that can be loaded",
        put("model/tokenizer.json", "{}"),
    ),
    Wrong(
        "no padding token",
        TRAIN,
        "neither a padding nor an end token",
        edit("model/tokenizer_config.json", lambda text: text.replace('"pad_token"', '"other"')),
    ),
    Wrong("no weights", TRAIN, "model can't be loaded", drop("model/model.safetensors")),
    Wrong("pickled weights", TRAIN, "set allow_pickle=true if you trust them", pickled),
    Wrong("cut weights", TRAIN, "its weights are damaged", cut("model/model.safetensors", 3000)),
    Wrong("empty weights", TRAIN, "its weights are damaged", cut("model/model.safetensors", 0)),
    Wrong(
        "weights are a pointer",
        TRAIN,
        "was the copy or download cut short?",
        put("model/model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
    ),
    Wrong(
        "half of the weights",
        TRAIN,
        "lack 16 that its config.json asks for",
        weights(lambda found: {name: w for name, w in found.items() if "layer.1." not in name}),
    ),
    Wrong(
        "weights of something else",
        TRAIN,
        "which would start at random",
        weights(lambda found: {f"other.{name}": w for name, w in found.items()}),
    ),
    Wrong(
        "other shapes",
        TRAIN,
        "other shapes than its config.json says",
        weights(lambda found: {name: w[:4].clone() if "query" in name else w for name, w in found.items()}),
    ),
    Wrong("attention", f"{TRAIN} attn_implementation=fast", 'attn_implementation="fast"` is not supported'),
    Wrong("adapter without weights", f"{TRAIN} model_name_or_path=adapter", "has no weights", adapter()),
    Wrong(
        "base is gone",
        f"{TRAIN} model_name_or_path=adapter",
        "That is the base model in",
        adapter("/gone/base"),
    ),
    Wrong(
        "base is not named", f"{TRAIN} model_name_or_path=adapter", "base_model_name_or_path", adapter(None)
    ),
    Wrong(
        "base is an adapter", f"{TRAIN} model_name_or_path=adapter", "an adapter again", adapter("adapter")
    ),
    Wrong(
        "broken adapter",
        f"{TRAIN} model_name_or_path=adapter",
        "adapter_config.json: expected JSON",
        put("adapter/adapter_config.json", "{"),
    ),
    Wrong(
        "damaged adapter",
        f"{TRAIN} model_name_or_path=adapter",
        "the adapter adapter can't be loaded",
        both(adapter(), put("adapter/adapter_model.safetensors", "xx")),
    ),
    Wrong(
        "pickled adapter",
        f"{TRAIN} model_name_or_path=adapter",
        "adapter has only pickled weights",
        both(adapter(), put("adapter/adapter_model.bin", "xx")),
    ),
    Wrong("LoRA name", f"{TRAIN} use_lora=true lora_target_modules=[qury]", "linear modules are dense, key"),
    Wrong(
        "one LoRA name of two",
        f"{TRAIN} use_lora=true 'lora_target_modules=[query, qury]'",
        "['qury'] fits no",
    ),
    Wrong(
        "LoRA pattern", f"{TRAIN} use_lora=true 'lora_target_modules=('", "'(' fits no module of the model"
    ),
    Wrong(
        "broken pooling",
        TRAIN,
        "sentence_bert_config.json: expected JSON",
        put("model/sentence_bert_config.json", "{"),
    ),
    Wrong(
        "max_length above the model's",
        f"{CHECK} max_length=65",
        "the model takes at most 64 tokens, found 65",
    ),
    Wrong("max_length of 1", f"{CHECK} max_length=1", "expected more than the 2 special tokens"),
    Wrong("max_length of 0", f"{CHECK} max_length=0", "max_length: expected an integer > 0 or null"),
]
DATA = [
    Wrong("missing", f"{CHECK} dataset=trian.jsonl", "no such file or folder. Did you mean 'train.jsonl'?"),
    Wrong("missing folder", f"{CHECK} dataset=no/a.jsonl", "no such file, and no folder 'no'"),
    Wrong(
        "one of two missing", f"{CHECK} 'dataset=[train.jsonl, b.jsonl]'", "b.jsonl: no such file or folder"
    ),
    Wrong("missing evaluation", f"{CHECK} eval_dataset=no.jsonl", "no.jsonl: no such file or folder"),
    Wrong("empty", CHECK, "train.jsonl: there are no rows in it", put("train.jsonl", "")),
    Wrong("blank", CHECK, "train.jsonl: there are no rows in it", put("train.jsonl", "\n  \n\n")),
    Wrong(
        "broken JSON",
        CHECK,
        "train.jsonl:1: not valid JSON at column 15",
        put("train.jsonl", '{"query": "a",\n'),
    ),
    Wrong(
        "no object", CHECK, "train.jsonl:1: expected a JSON object, found a list", put("train.jsonl", "[1]\n")
    ),
    Wrong(
        "key twice",
        CHECK,
        'the key "query" appears twice',
        put("train.jsonl", '{"query": "a", "query": "b"}\n'),
    ),
    Wrong(
        "Latin-1",
        CHECK,
        "train.jsonl:1: not UTF-8 at byte 11",
        put("train.jsonl", '{"query":"é"}'.encode("latin1")),
    ),
    Wrong(
        "other columns",
        CHECK,
        "columns: {query: question}",
        put("train.jsonl", '{"question": "a", "answer": "b"}\n'),
    ),
    Wrong(
        "wrong mapping",
        f"{CHECK} 'columns={{query: foo}}'",
        "no row has a column 'foo', which columns: {query: foo}",
    ),
    Wrong("mapping of no column", f"{CHECK} 'columns={{qery: query}}'", "has no column 'qery'"),
    Wrong(
        "column missing in a row", CHECK, "train.jsonl:9: column 'positive' is missing", rows({"query": "x"})
    ),
    Wrong(
        "null",
        CHECK,
        "column 'positive': expected a text or a list of texts, found null",
        rows({"query": "x", "positive": None}),
    ),
    Wrong(
        "number",
        CHECK,
        "train.jsonl:9: column 'query': expected a text, found a number (5)",
        rows({"query": 5, "positive": "a"}),
    ),
    Wrong("nothing visible", CHECK, "found a string without a visible character", rows(query=" \u200b ")),
    Wrong(
        "text for a list",
        CHECK,
        "column 'negatives': expected a list of texts, found a string",
        rows(negatives="x"),
    ),
    Wrong(
        "null in a list",
        CHECK,
        "column 'negatives': item 2: expected a text, found null",
        rows(negatives=["a", None]),
    ),
    Wrong(
        "half a character",
        CHECK,
        "train.jsonl:1: column 'query'",
        put("train.jsonl", '{"query":"a\\ud800","positive":"b"}'),
    ),
    Wrong(
        "object over lines",
        f"{CHECK} dataset=a.json",
        "starts with an object over several lines",
        put("a.json", "{\n}"),
    ),
    Wrong(
        "csv with semicolons",
        f"{CHECK} dataset=a.csv",
        "columns found: query;positive",
        put("a.csv", "query;positive\na;b\n"),
    ),
    Wrong(
        "csv with a cell more",
        f"{CHECK} dataset=a.csv",
        "a.csv:2: expected 2 cells",
        put("a.csv", "query,positive\na,b,c\n"),
    ),
    Wrong(
        "csv with an open quote",
        f"{CHECK} dataset=a.csv",
        "a.csv:2: a quoted cell is never",
        put("a.csv", 'query,positive\n"a,b\n'),
    ),
    Wrong(
        "csv with an empty cell",
        f"{CHECK} dataset=a.csv",
        "found an empty cell",
        put("a.csv", "query,positive\na,\n"),
    ),
    Wrong(
        "csv with a column twice",
        f"{CHECK} dataset=a.csv",
        "two columns are named 'query'",
        put("a.csv", "query,query\na,b\n"),
    ),
    Wrong(
        "csv with a bare list",
        f"{CHECK} dataset=a.csv",
        "written as JSON in the cell",
        put("a.csv", "query,positive,negatives\na,b,c\n"),
    ),
    Wrong(
        "csv without rows",
        f"{CHECK} dataset=a.csv",
        "there are no rows in it",
        put("a.csv", "query,positive\n"),
    ),
    Wrong(
        "no parquet",
        f"{CHECK} dataset=a.parquet",
        "not a readable parquet file",
        put("a.parquet", "PAR1xxxx"),
    ),
    Wrong(
        "unknown kind", f"{CHECK} dataset=a.txt", "unknown kind of file; known are .jsonl", put("a.txt", "x")
    ),
    Wrong("no gzip", f"{CHECK} dataset=a.jsonl.gz", "can't be read to its end", put("a.jsonl.gz", "x")),
    Wrong(
        "cut gzip",
        f"{CHECK} dataset=a.jsonl.gz",
        "can't be read to its end",
        put("a.jsonl.gz", gzip.compress(b"{}")[:-9]),
    ),
    Wrong(
        "empty folder",
        f"{CHECK} dataset=data",
        "the folder holds no data files",
        lambda folder: (folder / "data").mkdir(),
    ),
    Wrong(
        "split of a folder",
        f"{CHECK} dataset=data dataset_split=dev",
        "split 'dev' can't be loaded",
        put("data/train.jsonl", '{"query": "a"}\n'),
    ),
    Wrong(
        "a pipe",
        f"{CHECK} dataset=f.jsonl",
        "neither file nor folder",
        lambda folder: os.mkfifo(folder / "f.jsonl"),
    ),
    Wrong("hub id offline", f"{CHECK} dataset=acme/no", "the hub could not be asked"),
    Wrong("url without a client", f"{CHECK} dataset=s3://bucket/a.jsonl", "s3://bucket/a.jsonl: can't be"),
    Wrong("one row to divide", f"{CHECK} eval_split=0.5", "eval_split: needs at least 2 rows", rows(keep=1)),
    Wrong("evaluation folder", f"{CHECK} eval_retrieval=beir", "beir/corpus.jsonl: there is no such file"),
    Wrong(
        "evaluation split",
        f"{CHECK} eval_retrieval=beir eval_retrieval_split=dev",
        "splits found: test",
        beir(),
    ),
    Wrong("corpus to export", f"{CHECK} export_corpus=no.jsonl", "no.jsonl: there is no such file"),
    Wrong("index that faiss can't make", f"{CHECK} export_formats=[faiss] index=IFV256,SQ8", "index: "),
    Wrong(
        "batch of one",
        f"{CHECK} per_device_train_batch_size=1",
        "set per_device_train_batch_size to 2 or more",
        rows(without="negatives"),
    ),
    Wrong(
        "no negatives at all",
        f"{CHECK} use_inbatch_negatives=false",
        "set use_inbatch_negatives=true",
        rows(without="negatives"),
    ),
    Wrong("one row", CHECK, "there is only one row", rows(keep=1, without="negatives")),
    Wrong(
        "no full batch",
        f"{CHECK} dataloader_drop_last=true per_device_train_batch_size=9",
        "nothing would be trained",
    ),
]
EVALUATE = "evaluate R eval_retrieval=beir"
RUNS = [
    Wrong(
        "no such run",
        "export no --format hf",
        "no/run.json: expected the record of a run, found no such folder",
    ),
    Wrong("no run", "export model --format hf", "expected the record of a run, found a folder without one"),
    Wrong("checkpoint", "export R/checkpoint-1 --format hf", "found a folder without one"),
    Wrong(
        "unknown format",
        "export R --format gguf",
        "--format: task type 'embedding' has no export format 'gguf'",
    ),
    Wrong(
        "option of an export", "export R --format hf sed=1", "there is no option 'sed'. Did you mean 'seed'?"
    ),
    Wrong("broken record", "export R --format hf", "R/run.json: expected JSON", put("R/run.json", "{")),
    Wrong(
        "other record",
        "export R --format hf",
        "expected the record of a run, found other JSON",
        put("R/run.json", "{}"),
    ),
    Wrong("newer record", "export R --format hf", "upgrade swift-core to read it", recorded(schema=99)),
    Wrong(
        "task is gone",
        "export R --format hf",
        "no installed package provides 'x:y'",
        recorded(task_type="x:y"),
    ),
    Wrong("finished without a model", "evaluate R", "somebody removed it; train again", drop("R/model")),
    Wrong(
        "failed without a model",
        "export R --format hf",
        "--resume",
        both(drop("R/model"), recorded(state="failed")),
    ),
    Wrong("nothing to evaluate on", "evaluate R", "eval_dataset: expected evaluation data"),
    Wrong(
        "nothing to index",
        "export R --format faiss",
        "export_corpus: expected a jsonl file",
        drop("train.jsonl"),
    ),
    Wrong(
        "file in the way", "export R --format hf", "found a file in its way; move it", put("R/exports", "")
    ),
    Wrong("no evaluation folder", EVALUATE, "beir/corpus.jsonl: there is no such file"),
    Wrong(
        "no judgements", EVALUATE, "there is no test.tsv or test.jsonl; splits found: none", beir(qrels=None)
    ),
    Wrong("unknown split", f"{EVALUATE} eval_retrieval_split=dev", "splits found: test", beir()),
    Wrong(
        "unknown document",
        EVALUATE,
        "test.tsv:2: corpus.jsonl has no document 'd1'",
        beir(corpus='{"_id": "d", "text": "a"}\n', qrels="query-id\tcorpus-id\tscore\nq0\td1\t1\n"),
    ),
    Wrong(
        "unknown query",
        EVALUATE,
        "test.tsv:2: queries.jsonl has no query 'q0'",
        beir(queries='{"_id": "q", "text": "a"}\n'),
    ),
    Wrong("no header", EVALUATE, "expected a header with query-id", beir(qrels="q0\td0\t1\n")),
    Wrong("nothing relevant", EVALUATE, "found none", beir(qrels="query-id\tcorpus-id\tscore\nq0\td0\t0\n")),
    Wrong(
        "document twice",
        EVALUATE,
        "corpus.jsonl:2: the _id 'd0' was there before",
        beir(corpus=BEIR["corpus.jsonl"].replace("d1", "d0")),
    ),
    Wrong("resume nothing", f"{TRAIN} --resume", "out holds no unfinished run of 'embedding'"),
    Wrong("resume nothing with an option", f"{TRAIN} --resume seed=3", "out holds no unfinished run"),
    Wrong("resume no run", f"{TRAIN} --resume model", "found a folder without one"),
    Wrong("resume a missing folder", f"{TRAIN} --resume no", "no/run.json: expected the record of a run"),
    Wrong("resume a finished run", f"{TRAIN} --resume R", "found one that has finished. Start a new run."),
    Wrong("resume a running run", f"{TRAIN} --resume R", "is running on host 'elsewhere'", elsewhere),
    Wrong(
        "resume without a checkpoint",
        f"{TRAIN} --resume R",
        "has no complete checkpoint",
        both(recorded(state="failed"), drop("R/checkpoint-*")),
    ),
    Wrong(
        "damaged checkpoint",
        f"{TRAIN} --resume R max_steps=3",
        "remove that folder and go on",
        both(recorded(state="failed"), put("R/checkpoint-2/model.safetensors", "x")),
        1,
    ),
    Wrong(
        "training diverges", f"{TRAIN} learning_rate=1e38", "training diverged. Lower learning_rate", None, 1
    ),
]


def cases(**tables: list[Wrong]) -> list[Any]:
    """The rows of the tables, each with a name of its own."""
    return [
        pytest.param(case, id=f"{table}-{case.name}") for table, entries in tables.items() for case in entries
    ]


@pytest.mark.parametrize(
    "case",
    cases(command=COMMANDS, option=OPTIONS, runfile=RUN_FILES, model=MODELS, data=DATA, run=RUNS),
)
def test_a_mistake_is_a_sentence(case: Wrong, project, request, cli, asked):
    if case in RUNS:
        shutil.copytree(request.getfixturevalue("trained_run"), project / "R")
    if case.build is not None:
        case.build(project)
    started = time.perf_counter()
    done = cli(case.command)
    assert done.code == case.code, done.err
    assert case.says.lower() in done.err.lower(), done.err
    assert done.err.startswith("swift: ") and "Traceback" not in done.err, done.err
    assert not asked, f"asked the network for {asked}"
    assert time.perf_counter() - started < 10


def test_the_names_of_the_cases_differ():
    names = [case.id for case in cases(a=COMMANDS, b=OPTIONS, c=RUN_FILES, d=MODELS, e=DATA, f=RUNS)]
    assert len(set(names)) == len(names) >= 60


# -- packages ---------------------------------------------------------------------------------------------

SPEC = """
from swift_core import Column, TaskSpec
SPEC = TaskSpec(
    name="toy", summary="a toy", columns=(Column(name="query", type="text", meaning="m"),),
    implementation="acme_toy.hooks", {more}
)
"""
HOOKS = """
from swift_core import hookimpl

@hookimpl
def make_model(args): ...
@hookimpl
def make_collator(args): ...
@hookimpl
def compute_loss(model, batch): ...
@hookimpl
def evaluate(model, data): ...
@hookimpl
def export(folder): ...
"""
OPTIONS_FILE = (
    "from dataclasses import dataclass\nfrom swift_core import option\n\n@dataclass\nclass Toy:\n    {line}\n"
)
TOY = f"{CHECK} task_type=toy"


def toy(
    *, spec: str | None = None, hooks: str = HOOKS, options: str | None = None, more: str = ""
) -> dict[str, str]:
    """The files of a package with the task type ``toy``."""
    if options is not None:
        more += 'options="acme_toy.options:Toy",'
    files = {"__init__.py": "", "spec.py": spec or SPEC.format(more=more), "hooks.py": hooks}
    if options:
        files["options.py"] = options
    return {f"acme_toy/{name}": text for name, text in files.items()}


PACKAGES = {
    "broken import": (TOY, "ModuleNotFoundError: No module named 'nowhere'", toy(spec="import nowhere")),
    "ends the process": (
        TOY,
        "acme_toy.spec:SPEC can't be loaded (SystemExit",
        toy(spec="raise SystemExit(3)"),
    ),
    "no spec": (TOY, "acme_toy.spec:SPEC is a dict, expected a swift_core.TaskSpec", toy(spec="SPEC = {}")),
    "hook is missing": (
        TOY,
        "export: not implemented",
        toy(hooks=HOOKS[: HOOKS.index("@hookimpl\ndef export")]),
    ),
    "hook is not marked": (
        TOY,
        "without @hookimpl",
        toy(hooks=HOOKS.replace("@hookimpl\ndef export", "def export")),
    ),
    "hook has a default": (
        TOY,
        "argument 'folder' has a default",
        toy(hooks=HOOKS.replace("folder", "folder=None")),
    ),
    "hooks can't be imported": (TOY, "acme_toy.hooks can't be loaded", toy(hooks="import nowhere")),
    "hook returns nothing": (TOY, "make_collator returned None", toy()),
    "options are missing": (TOY, "acme_toy.options:Toy can't be loaded", toy(options="")),
    "options are none": ("describe toy", "acme_toy.options:Toy is not a dataclass", toy(options="Toy = 3")),
    "options of unknown types": (
        "describe toy",
        "the types of acme_toy.options:Toy can't be resolved (NameError",
        toy(
            options="from __future__ import annotations\n"
            + OPTIONS_FILE.format(line="x: Nope = option(1, help='x')")
        ),
    ),
    "option of the core": (
        TOY,
        "its options seed have the names of options of the core",
        toy(options=OPTIONS_FILE.format(line="seed: int = option(1, help='x')")),
    ),
    "default of no option": (
        TOY,
        "defaults of its spec: there is no option 'sed'",
        toy(more='defaults={"sed": 1},'),
    ),
    "default of a wrong type": (
        TOY,
        "defaults of its spec: seed: expected an integer",
        toy(more='defaults={"seed": "1"},'),
    ),
    "parent is missing": (TOY, "no installed package provides 'nobody'", toy(more='parent="nobody",')),
}


@pytest.mark.parametrize("name", PACKAGES)
def test_a_broken_package_is_named_and_harms_nobody_else(name: str, project, install, cli, asked):
    command, says, files = PACKAGES[name]
    install("acme-toy", files=files, entry_points={"swift.tasks": {"toy": "acme_toy.spec:SPEC"}})
    done = cli(command)
    assert (done.code, "Traceback" in done.err) == (2, False), done.err
    assert says in done.err
    assert "acme" in done.err or "nobody" in done.err
    assert (cli(CHECK).code, cli("tasks").code, cli("plugins").code) == (0, 0, 0)
    assert not asked


def test_two_packages_of_one_name_are_told_apart(project, install, cli):
    for package in ("acme-toy", "other-toy"):
        install(package, files=toy(), entry_points={"swift.tasks": {"toy": "acme_toy.spec:SPEC"}})
    done = cli(TOY)
    assert done.code == 2
    assert "write task_type=acme-toy:toy or task_type=other-toy:toy, or uninstall one" in done.err
    assert "several packages provide 'toy'" in cli("plugins").out


@pytest.mark.parametrize(
    ("command", "says"),
    [("gone", "acme_cmd.nothing:main can't be loaded"), ("three", "acme_cmd:three is no function")],
)
def test_a_broken_command_of_a_package_is_a_sentence(command: str, says: str, project, install, cli):
    entries = {"gone": "acme_cmd.nothing:main", "three": "acme_cmd:three"}
    install("acme-cmd", files={"acme_cmd.py": "three = 3\n"}, entry_points={"swift.commands": entries})
    done = cli(command)
    assert (done.code, done.err.count("\n")) == (2, 1), done.err
    assert says in done.err


def test_a_second_owner_of_a_hook_is_refused(project):
    from swift_core import hookimpl

    class Second:
        @hookimpl
        def make_model(self, args):
            return None

    args = TrainingArguments.from_file("run.yaml")
    with pytest.raises(UserError, match=r"make_model: package swift-embedding .* owns this hook"):
        SwiftTrainer(args, extensions=[Second()])


# -- the Python API ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([], "there are no rows in it"),
        ([{"query": "a"}], "no row has the column 'positive'"),
        ([1], "row 1 of train_dataset: expected a mapping"),
        (3, "train_dataset: expected a path"),
        (["a.jsonl", {"query": "a"}], "a list that mixes paths and other things"),
    ],
)
def test_wrong_data_in_memory_is_refused_before_a_model_is_built(data: Any, says: str, project, monkeypatch):
    monkeypatch.setattr("swift_embedding.hooks.load_backbone", lambda *_: pytest.fail("a model was built"))
    with pytest.raises(UserError, match=says):
        SwiftTrainer(TrainingArguments.from_file("run.yaml"), train_dataset=data)


def test_wrong_options_in_python_are_told_all_at_once():
    with pytest.raises(UserError) as caught:
        TrainingArguments(task_type="embedding", seeed=1, temperature="low", max_steps=0)
    assert [fault.split(":")[0] for fault in caught.value.faults] == [
        "there is no option 'seeed'. Did you mean 'seed'?",
        "temperature",
        "max_steps",
    ]


# -- the environment --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (f"{TRAIN} model_name_or_path=acme/no", "the hub can't be reached"),
        (f"{CHECK} dataset=acme/no", "the hub could not be asked"),
        (f"{TRAIN} push_to_hub=true", "the hub can't be used"),
    ],
)
def test_a_hub_out_of_reach_is_a_sentence_within_seconds(command, says, project, cli, asked, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    started = time.perf_counter()
    done = cli(command)
    assert says in done.err and "Traceback" not in done.err, done.err
    assert done.code == (1 if "push" in command else 2)
    assert asked and time.perf_counter() - started < 10


def test_a_full_disk_at_the_start_is_told_with_the_folder(project, cli, monkeypatch):
    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr("swift_core.runs.stored.write_text", full)
    done = cli(TRAIN)
    assert done.code == 2
    assert "output_dir: expected a folder that can be written to" in done.err
    assert "Free space there" in done.err


def test_a_full_disk_while_saving_fails_the_run_and_says_so_in_its_record(project, cli, monkeypatch):
    def full(self: Any, *_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "model.safetensors")

    monkeypatch.setattr(SwiftTrainer, "_save", full)
    done = cli(TRAIN)
    assert (done.code, "Traceback" in done.err) == (1, False)
    assert "the disk is full (model.safetensors)" in done.err
    record = json.loads(next(project.glob("out/*/*/run.json")).read_text())
    assert record["state"] == "failed"


def test_an_unexpected_failure_is_shown_as_it_is(project, cli, monkeypatch):
    def broken(**_: Any) -> None:
        raise KeyError("a fault of ours")

    monkeypatch.setattr("swift_embedding.hooks.compute", lambda *_, **__: broken())
    done = cli(TRAIN)
    assert done.code == 1
    assert "Traceback" in done.err
    assert done.err.rstrip().endswith("swift: the run failed: KeyError: 'a fault of ours'")


# -- a shell ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        ("trian run.yaml", 2, "Did you mean 'train'?"),
        ("train run.yaml temprature=1", 2, "Did you mean 'temperature'?"),
        ("train run.yaml dataset=no.jsonl", 2, "no.jsonl: no such file or folder"),
        ("train run.yaml learning_rate=1e38", 1, "training diverged"),
    ],
)
def test_the_shell_sees_the_exit_code_and_no_traceback(command, code, says, project, swift):
    done = swift(*shlex.split(command), code=code)
    assert says in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_an_output_that_takes_nothing_is_a_sentence():
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "swift_core", "tasks"],
            stdout=full,
            stderr=subprocess.PIPE,
            # Buffered, as in most shells: it fails only when the command is done.
            env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (
        1,
        "swift: the output can't be written: No space left on device\n",
    )
