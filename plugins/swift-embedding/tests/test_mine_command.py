"""``swift mine`` as a user types it: what it writes, what it refuses, and how it goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from swift_core.arguments import TrainingArguments
from swift_core.errors import UserError
from swift_core.preparation import prepare_task
from swift_embedding.mine_command import main
from swift_embedding.shards import sole_writer

WORDS = ["sea", "fish", "ship", "forest", "bird", "deer", "fox", "tree", "rain", "snow", "wind", "cloud"]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: ``run.yaml``, ``train.jsonl`` and a tiny random model that lacks its pooler."""
    vocabulary = {token: n for n, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    fast.save_pretrained(tmp_path / "model")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "model")
    rows: list[dict[str, Any]] = [
        {"query": f"{a} {b}", "positive": f"{b} {a} {a}", "negatives": [f"{a} wind"]}
        for a, b in pairwise(WORDS)
    ]
    rows.append({"query": "sea fish", "positive": "ship sea", "negatives": None})
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "run.yaml").write_text(
        "task_type: embedding\nmodel_name_or_path: model\ndataset: train.jsonl\ncache_dir: cache\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(path: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def test_writes_rows_that_training_reads(project, capsys):
    assert main(["run.yaml", "--output", "mined.jsonl", "--num-negatives", "4"]) == 0
    rows, given = read("mined.jsonl"), read("train.jsonl")
    assert [row.keys() for row in rows] == [{"query", "positive", "negatives"}] * len(given)
    assert [(r["query"], r["positive"]) for r in rows] == [(r["query"], r["positive"]) for r in given]
    assert all(len(set(row["negatives"])) == 4 for row in rows)
    assert not {"fish sea sea", "ship sea", "sea fish"} & {*rows[0]["negatives"], *rows[-1]["negatives"]}
    args = TrainingArguments.from_file("run.yaml", ["dataset=mined.jsonl"])
    prepared = prepare_task(args)
    assert prepared.train is not None
    assert prepared.train.records["negatives"] == [row["negatives"] for row in rows]
    printed = capsys.readouterr().out
    assert "rows      12 of train.jsonl" in printed and "written   mined.jsonl" in printed
    assert sorted(path.name for path in project.iterdir() if "mined" in path.name) == ["mined.jsonl"]


def test_keeps_negatives_and_writes_scores_when_asked(project):
    options = ["--num-negatives", "2", "--keep-negatives", "--scores"]
    assert main(["run.yaml", "--output", "mined.jsonl", *options]) == 0
    rows, given = read("mined.jsonl"), read("train.jsonl")
    assert [row["negatives"][:-2] for row in rows] == [row["negatives"] or [] for row in given]
    for row in rows:
        assert len(set(row["negatives"])) == len(row["negatives"]) == len(row["negative_scores"])
        assert len(row["positive_scores"]) == 1
        assert all(-1.001 <= score <= 1.001 for score in row["positive_scores"] + row["negative_scores"])


def test_searches_a_corpus_of_its_own_and_tells_rows_that_got_fewer(project, capsys):
    corpus = [
        {"_id": f"d{n}", "text": text} for n, text in enumerate(["rain", "snow cloud", " ", "fish sea sea"])
    ]
    Path("corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in corpus))
    Path("one.jsonl").write_text(json.dumps({"query": "sea fish", "positive": "fish sea sea"}) + "\n")
    options = ["--corpus", "corpus.jsonl", "--json", "--num-negatives", "5"]
    assert main(["run.yaml", "dataset=one.jsonl", "--output", "mined.jsonl", *options]) == 0
    assert sorted(read("mined.jsonl")[0]["negatives"]) == ["rain", "snow cloud"]
    told = json.loads(capsys.readouterr().out)
    assert (told["rows"], told["rows_with_fewer"], told["negatives"], told["documents"]) == (1, 1, 2, 3)
    assert main(["run.yaml", "dataset=one.jsonl", "--output", "again.jsonl", "--min-score", "0.9999"]) == 0
    assert read("again.jsonl")[0]["negatives"] == []
    assert "fewer     1 rows got fewer than 3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--output", "o", "--num-negative", "3"], "--num-negative. Did you mean '--num-negatives'?"),
        (["--output", "o", "--temperature", "3"], "without dashes: temperature=value"),
        (["--output", "o", "num_negatives=3"], "write --num-negatives 3"),
        (["--output", "o", "temprature=3"], "Did you mean 'temperature'?"),
        (["--output", "o", "--relative-margin", "x"], "invalid float value: 'x'"),
        (["--output", "o", "--range-min", "9", "--range-max", "10"], "range_max: expected at least"),
        (["--output", "o", "--corpus", "nowhere.jsonl"], "nowhere.jsonl: there is no such file"),
        (["--output", "o", "--reranker", "./nowhere"], "reranker: there is no folder ./nowhere"),
        (["--output", "no/such/o"], "--output: expected a file in a folder that is there"),
        (["--output", "train.jsonl"], "train.jsonl is there already; write --overwrite"),
        (["--output", "o", "dataset=null"], "dataset: expected rows"),
        ([], "required: --output"),
    ],
)
def test_a_mistake_is_told_and_leaves_nothing_behind(arguments: list[str], told: str, project):
    before = {path.name: path.read_bytes() for path in project.iterdir() if path.is_file()}
    with pytest.raises(UserError) as caught:
        main(["run.yaml", *arguments])
    assert told in str(caught.value)
    assert {path.name: path.read_bytes() for path in project.iterdir() if path.is_file()} == before
    assert not list(project.glob("*.partial"))


def test_overwrites_only_when_asked_and_only_with_a_whole_file(project, monkeypatch):
    Path("mined.jsonl").write_text("mine\n")
    with monkeypatch.context() as patch:
        patch.setattr(json, "dumps", _failing_on_rows(json.dumps))
        with pytest.raises(OSError, match="disk"):
            main(["run.yaml", "--output", "mined.jsonl", "--overwrite"])
    assert Path("mined.jsonl").read_text() == "mine\n"
    assert main(["run.yaml", "--output", "mined.jsonl", "--overwrite"]) == 0
    assert len(read("mined.jsonl")) == 12


def _failing_on_rows(dumps: Callable[..., str]) -> Callable[..., str]:
    written = []

    def fail(value: Any, **options: Any) -> str:
        if isinstance(value, dict) and "negatives" in value:
            written.append(value)
            if len(written) == 3:
                raise OSError("the disk is full")
        return dumps(value, **options)

    return fail


def test_a_second_process_on_the_same_output_is_refused(project):
    with (
        sole_writer(Path("mined.jsonl.partial"), "mined.jsonl"),
        pytest.raises(UserError, match=f"mined.jsonl: process {os.getpid()} is writing it"),
    ):
        main(["run.yaml", "--output", "mined.jsonl"])
    # As a killed process leaves it.
    Path("mined.jsonl.partial").mkdir()
    Path("mined.jsonl.partial/lock").write_text("12345")
    assert main(["run.yaml", "--output", "mined.jsonl"]) == 0


def test_an_interrupted_command_says_how_to_go_on_and_keeps_its_vectors(project, monkeypatch, capsys):
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    command = ["run.yaml", "--output", "mined.jsonl", "use_lora=true"]
    with monkeypatch.context() as patch:
        patch.setattr("swift_embedding.mining._Miner.mine", stop)
        with pytest.raises(KeyboardInterrupt):
            main(command)
    assert "go on with the same command: swift mine run.yaml --output mined.jsonl" in capsys.readouterr().err
    assert not Path("mined.jsonl").exists()
    # The pooler and the adapter of this run start at random each time: no reason to encode again.
    assert main(command) == 0
    assert "of them kept from before" in capsys.readouterr().out
    assert not Path("mined.jsonl.partial").exists()


def test_a_cache_folder_outlives_the_run(project, capsys):
    for margin in ("0.1", "0.2"):
        command = [
            "run.yaml",
            "--output",
            f"{margin}.jsonl",
            "--cache",
            "vectors",
            "--absolute-margin",
            margin,
        ]
        assert main(command) == 0
    first, second = capsys.readouterr().out.split("written   0.1.jsonl")
    assert "kept from before" not in first and "kept from before" in second


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom swift_embedding.mine_command import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'numpy', 'faiss', 'transformers', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "usage: swift mine" in done.stdout and done.stdout.endswith("[]\n")
