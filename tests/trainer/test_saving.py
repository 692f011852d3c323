"""What is saved is whole, is the model in memory, and loads where users load it."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import transformers
from peft import PeftModel

from swift_core import SwiftError, TrainingArguments, UserError, hookimpl
from swift_core.cli import main
from swift_core.evaluation_inputs import evaluation_inputs
from swift_core.runner import evaluate_run, export_run
from swift_core.runs.record import Run
from swift_core.saving import _probe_rows


def vectors(model: torch.nn.Module, tokenizer, texts: list[str]) -> np.ndarray:
    """Mean-pooled, normalised vectors by plain transformers, one text at a time."""
    found = []
    for text in texts:
        with torch.no_grad():
            hidden = model.eval()(**tokenizer(text, return_tensors="pt", return_token_type_ids=False))
        found.append(torch.nn.functional.normalize(hidden.last_hidden_state[0].mean(0), dim=0).numpy())
    return np.stack(found)


TEXTS = ["the sea holds fish", "rain", "old trees and deer under rain"]


def test_the_saved_model_is_the_one_in_memory(make_trainer):
    trainer = make_trainer()
    trainer.train()
    again = transformers.AutoModel.from_pretrained(trainer.run.model)
    for name, weight in trainer.model.named_parameters():
        assert torch.equal(weight, again.get_parameter(name)), name
    assert not list(trainer.run.folder.rglob("*.bin"))


def test_an_adapter_is_of_use_to_plain_peft(make_trainer, tiny_encoder: Path):
    trainer = make_trainer(use_lora=True, max_steps=8)
    trainer.train()
    tokenizer = transformers.AutoTokenizer.from_pretrained(trainer.run.model)
    base = transformers.AutoModel.from_pretrained(tiny_encoder)
    before = vectors(base, tokenizer, TEXTS)
    adapted = vectors(PeftModel.from_pretrained(base, trainer.run.model), tokenizer, TEXTS)
    mine = vectors(trainer.model, tokenizer, TEXTS)
    assert np.abs(adapted - mine).max() < 1e-6
    assert np.abs(adapted - before).max() > 1e-3, "the adapter changes nothing"


def test_an_export_of_a_lora_run_is_merged_and_leaves_the_adapter_alone(make_trainer):
    trainer = make_trainer(use_lora=True, max_steps=8)
    trainer.train()
    folder = trainer.save_model(format="hf")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    merged = transformers.AutoModel.from_pretrained(folder)
    assert not (folder / "adapter_config.json").exists()
    assert np.abs(vectors(merged, tokenizer, TEXTS) - vectors(trainer.model, tokenizer, TEXTS)).max() < 1e-5
    assert isinstance(trainer.model, PeftModel)


def test_the_manifest_vouches_for_every_file(make_trainer):
    trainer = make_trainer()
    trainer.train()
    folder = trainer.save_model(format="faiss")
    manifest = json.loads((folder / "manifest.json").read_text())
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert manifest["files"].keys() == files - {"manifest.json"}
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert (manifest["format"], manifest["label"], manifest["run_id"]) == (
        "faiss",
        "embedding",
        trainer.run.id,
    )


def test_an_export_that_fails_leaves_the_older_one_whole(make_trainer):
    class Flaky:
        broken = False

        @hookimpl(wrapper=True)
        def export(self):
            details = yield
            if self.broken:
                raise RuntimeError("half-way")
            return details

    flaky = Flaky()
    trainer = make_trainer(extensions=[flaky])
    trainer.train()
    folder = trainer.save_model(format="hf")
    before = sorted(path.name for path in folder.iterdir())
    flaky.broken = True
    with pytest.raises(RuntimeError, match="half-way"):
        trainer.save_model(format="hf")
    assert sorted(path.name for path in folder.iterdir()) == before
    assert [path.name for path in folder.parent.iterdir()] == ["hf"]


def test_a_save_that_does_not_reload_to_the_same_model_is_refused(make_trainer, tiny_encoder: Path):
    class Forgetful:
        """Reloads other weights than were saved."""

        @hookimpl(wrapper=True)
        def make_model(self, args):
            model = yield
            if args.core.model_name_or_path != str(tiny_encoder):
                torch.nn.init.zeros_(model.embeddings.word_embeddings.weight)
            return model

    trainer = make_trainer(extensions=[Forgetful()])
    with pytest.raises(SwiftError, match="it is not the model in memory: 1 weights differ"):
        trainer.train()
    assert not trainer.run.model.exists()
    assert trainer.run.record["state"] == "failed"


def test_an_unknown_format_is_refused_with_a_suggestion(make_trainer):
    trainer = make_trainer()
    trainer.train()
    with pytest.raises(UserError, match="Did you mean 'faiss'"):
        trainer.save_model(format="fais")


def test_a_model_can_be_saved_before_it_is_trained(make_trainer):
    trainer = make_trainer()
    folder = trainer.save_model(format="hf")
    assert (folder / "modules.json").exists()
    assert trainer.run.record["state"] == "finished"


@pytest.mark.parametrize("use_lora", [False, True])
def test_a_finished_run_is_evaluated_and_exported_from_its_folder(make_trainer, rows, tmp_path, use_lora):
    paths = {}
    for name, part in (("dataset", rows(16)), ("eval_dataset", rows(8))):
        paths[name] = str(tmp_path / f"{name}.jsonl")
        Path(paths[name]).write_text("".join(json.dumps(row) + "\n" for row in part))
    trainer = make_trainer(paths["dataset"], use_lora=use_lora, pooling_method="cls", **paths)
    trainer.train()
    metrics = trainer.evaluate()
    again = evaluate_run(trainer.run.folder)
    assert again["eval_ndcg@10"] == pytest.approx(metrics["eval_ndcg@10"], abs=1e-6)
    folder = export_run(trainer.run.folder, ["hf"])[0]
    assert json.loads((folder / "1_Pooling" / "config.json").read_text())["pooling_mode_cls_token"]


def test_an_export_that_needs_no_training_data_works_without_it(make_trainer, rows, tmp_path, capsys):
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(16)))
    trainer = make_trainer(str(path), dataset=str(path))
    trainer.train()
    path.unlink()
    assert (export_run(trainer.run.folder, ["hf"])[0] / "modules.json").exists()
    assert "the training data is not at hand" in capsys.readouterr().out
    with pytest.raises(UserError, match="export_corpus"):
        export_run(trainer.run.folder, ["faiss"])
    with pytest.raises(UserError, match=r"'gguf'[^$]*'ggml'"):
        export_run(trainer.run.folder, ["onnx", "gguf", "ggml"])
    assert [path.name for path in trainer.run.exports.iterdir()] == ["hf"]


def test_training_goes_on_from_an_adapter(make_trainer):
    first = make_trainer(use_lora=True)
    first.train()
    second = make_trainer(use_lora=True, model_name_or_path=str(first.run.model))
    names = [name for name, weight in second.model.named_parameters() if "lora_B" in name and weight.any()]
    assert names, "the adapter started anew"
    merged = make_trainer(model_name_or_path=str(first.run.model))
    assert not isinstance(merged.model, PeftModel)


@pytest.mark.parametrize("format", [None, "hf"])
def test_a_folder_of_the_user_is_never_replaced(make_trainer, tmp_path, format):
    trainer = make_trainer()
    trainer.train()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious.txt").write_text("keep me")
    with pytest.raises(UserError, match="is not empty and would be replaced"):
        trainer.save_model(tmp_path / "mine", format=format)
    assert (tmp_path / "mine" / "precious.txt").read_text() == "keep me"
    assert (trainer.save_model(tmp_path / "new", format=format) / "config.json").exists()


def test_an_export_says_what_data_it_holds_even_when_that_changed(make_trainer, rows, tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(16)))
    trainer = make_trainer(str(path), dataset=str(path))
    trainer.train()
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(4)))
    assert main(["export", str(trainer.run.folder), "--format", "hf", "--format", "faiss"]) == 0
    assert {path.name for path in trainer.run.exports.iterdir()} == {"hf", "faiss"}
    manifest = json.loads((export_run(trainer.run.folder, ["faiss"])[0] / "manifest.json").read_text())
    assert manifest["data"][0]["rows"] == manifest["documents"] == 4


def test_figures_on_changed_data_stay_out_of_the_record(make_trainer, rows, tmp_path, capsys):
    paths = {}
    for name, part in (("dataset", rows(16)), ("eval_dataset", rows(8))):
        paths[name] = str(tmp_path / f"{name}.jsonl")
        Path(paths[name]).write_text("".join(json.dumps(row) + "\n" for row in part))
    trainer = make_trainer(paths["dataset"], eval_rows=paths["eval_dataset"], **paths)
    trainer.train()
    trainer.evaluate()
    before = json.loads((trainer.run.folder / "run.json").read_text())["metrics"]
    Path(paths["eval_dataset"]).write_text(json.dumps(rows(1)[0]) + "\n")
    assert evaluate_run(trainer.run.folder)["eval_ndcg@10"] == 1.0
    assert json.loads((trainer.run.folder / "run.json").read_text())["metrics"] == before
    assert "not what the run was measured on" in capsys.readouterr().out


def beir_folder(folder: Path) -> str:
    """Three documents and two queries in the layout of BEIR."""
    files: dict[str, list[dict[str, object]]] = {
        "corpus.jsonl": [{"_id": name, "text": f"{name} number 1"} for name in ("sea", "fish", "rain")],
        "queries.jsonl": [{"_id": name, "text": f"{name} 1"} for name in ("sea", "fish")],
        "qrels/test.jsonl": [{"query-id": name, "corpus-id": name, "score": 1} for name in ("sea", "fish")],
    }
    for name, lines in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(folder)


def test_a_corpus_that_lost_a_line_is_other_data(make_trainer, rows, tmp_path, capsys):
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(16)))
    given = {"dataset": str(tmp_path / "train.jsonl"), "eval_retrieval": beir_folder(tmp_path / "beir")}

    def measured() -> Run:
        trainer = make_trainer(given["dataset"], **given)
        with trainer.recorded():
            trainer.train()
            trainer.evaluate()
        return Run.open(trainer.run.folder)

    first, same = measured(), measured()
    assert list(first.record["evaluation_inputs"]) == ["eval_retrieval"]
    first.update(metrics={"eval_ndcg@10": -1.0})
    evaluate_run(first.folder)
    assert Run.open(first.folder).record["metrics"]["eval_ndcg@10"] >= 0, "figures of the same data are kept"
    assert "not what the run was measured on" not in capsys.readouterr().out

    corpus = tmp_path / "beir" / "corpus.jsonl"
    corpus.write_text("".join(corpus.read_text().splitlines(keepends=True)[:2]))
    before = json.loads((first.folder / "run.json").read_text())
    evaluate_run(first.folder)
    assert "not what the run was measured on" in capsys.readouterr().out
    assert json.loads((first.folder / "run.json").read_text()) == before

    other = measured()
    commands = [f"compare {first.folder} {run.folder}".split() for run in (same, other)]
    assert [main(command) for command in commands] == [0, 2]
    assert "fingerprint of eval_retrieval" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("lengths", "groups", "kept"),
    [
        ([9, 9, 9, 9, 9], None, 4),
        ([32_768, 9, 9], None, 1),
        ([4_000, 4_000, 4_000], None, 2),
        ([9, 9, 9], [1, 1, 2], 2),
    ],
)
def test_a_few_rows_check_what_was_saved_and_of_long_documents_one(lengths, groups, kept):
    columns = {"length": lengths, **({} if groups is None else {"group": groups})}
    assert len(_probe_rows(datasets.Dataset.from_dict(columns))) == kept


def test_a_run_is_not_resumed_beside_another_corpus(make_trainer, tmp_path):
    corpus = Path(beir_folder(tmp_path / "beir")) / "corpus.jsonl"
    given = {"eval_retrieval": str(corpus.parent), "save_steps": 2, "eval_strategy": "no"}
    trainer = make_trainer(**given)
    with pytest.raises(KeyboardInterrupt), trainer.recorded():
        trainer.train()
        raise KeyboardInterrupt
    text = corpus.read_text()
    corpus.write_text(text + text.splitlines()[0].replace("sea", "deer") + "\n")
    checkpoint = trainer.run.checkpoints()[0]
    with pytest.raises(UserError, match="what eval_retrieval names is not what the run began with"):
        make_trainer(**given).train(resume_from_checkpoint=checkpoint)
    corpus.write_text(text)
    make_trainer(**given).train(resume_from_checkpoint=checkpoint)


def test_what_evaluations_read_has_a_fingerprint(options, tmp_path):
    def found(**changes: object) -> dict[str, str]:
        return evaluation_inputs(TrainingArguments(**{**options, "cache_dir": str(folder / "c"), **changes}))

    folder = tmp_path / "beir"
    given = {"eval_retrieval": beir_folder(folder)}
    assert found() == {}, "nothing is named"
    before = found(**given)
    shutil.copytree(folder, tmp_path / "copy")
    assert before == found(eval_retrieval=str(tmp_path / "copy")), "the place is not the data"
    assert before == found(**given, eval_retrieval_split="test"), "as by default"
    assert found(**given, eval_retrieval_split="dev").keys() - before == {"eval_retrieval_split"}
    # What training writes there, and a link that leads back up, are none of the data.
    for name in ("out/task-type=embedding/1/run.json", "c/tokens"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("{}")
    (folder / "up").symlink_to(folder)
    assert before == found(**given)
    moved = (folder / "qrels" / "test.jsonl").rename(folder / "qrels" / "dev.jsonl")
    assert before != found(**given)
    moved.rename(folder / "qrels" / "test.jsonl")
    assert before == found(**given)
    one = found(eval_retrieval=str(folder / "corpus.jsonl"))["eval_retrieval"]
    assert one == hashlib.sha256((folder / "corpus.jsonl").read_bytes()).hexdigest()
    text = hashlib.sha256(b"somebody/beir").hexdigest()
    assert found(eval_retrieval="somebody/beir") == {"eval_retrieval": text}
