"""What a model card says is true: its code is run, its front matter is read as the hub reads it."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard

from swift_core import SwiftTrainer, TrainingArguments
from swift_core.cards import hub_id
from swift_core.errors import SwiftError
from swift_core.runner import export_run
from swift_embedding.encoding import TextEncoder

ROWS = [
    {"query": f"where is {word}", "positive": f"{word} lies in the north", "negatives": [f"no {word} here"]}
    for word in ("oslo", "paris", "rome", "lima", "cairo", "delhi", "quito", "accra")
]
PLACEHOLDER = '"path/to/this/folder"'
QUERIES, DOCUMENTS = ["What swims?"], ["A fish swims in the sea.", "A stone lies still."]

# peft 0.21 asks transformers 5.23 by an old name.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def run_code(folder: Path) -> list[dict[str, Any]]:
    """The names that each block of Python on the card leaves behind."""
    blocks = re.findall(r"^```python\n(.*?)^```$", (folder / "README.md").read_text(), re.M | re.S)
    found = []
    for block in blocks:
        assert PLACEHOLDER in block
        names: dict[str, Any] = {}
        exec(compile(block.replace(PLACEHOLDER, repr(str(folder))), "card", "exec"), names)
        found.append(names)
    return found


@pytest.fixture
def decoder_folder(decoder: TextEncoder, tmp_path: Path) -> Path:
    decoder.model.save_pretrained(tmp_path / "decoder")
    decoder.tokenizer.save_pretrained(tmp_path / "decoder")
    return tmp_path / "decoder"


@pytest.fixture
def folder_of(minilm_folder: Path, decoder_folder: Path) -> dict[str, Path]:
    return {"minilm": minilm_folder, "decoder": decoder_folder}


def trained(model: Path, tmp_path: Path, **options: Any) -> SwiftTrainer:
    args = TrainingArguments(
        "embedding",
        model_name_or_path=str(model),
        output_dir=str(tmp_path / "out"),
        max_length=24,
        per_device_train_batch_size=8,
        max_steps=3,
        learning_rate=5e-3,
        query_prompt="Q: ",
        disable_tqdm=True,
        logging_steps=5,
        **options,
    )
    trainer = SwiftTrainer(args, train_dataset=ROWS, eval_dataset=ROWS[:4])
    trainer.train()
    return trainer


def encoder_of(trainer: SwiftTrainer, model: torch.nn.Module | None = None) -> TextEncoder:
    collator: Any = trainer.collator
    return collator.encoder(trainer.network if model is None else model)  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["minilm", "decoder"])
def test_an_adapter_is_of_use_to_plain_peft(name: str, folder_of: dict[str, Path], tmp_path: Path) -> None:
    """The adapter of a run, loaded as its card says, gives the run's vectors, and not the base model's."""
    from peft import PeftModel

    trainer = trained(folder_of[name], tmp_path, use_lora=True, lora_rank=4)
    run = encoder_of(trainer)
    queries, documents = run.encode_queries(QUERIES), run.encode_documents(DOCUMENTS)
    assert isinstance(trainer.network, PeftModel)
    with trainer.network.disable_adapter():
        assert np.abs(run.encode_queries(QUERIES) - queries).max() > 1e-2
    folder = Path(str(trainer.args.output_dir)) / "model"
    card = ModelCard.load(folder / "README.md")
    assert (card.data.library_name, card.data.pipeline_tag) == ("peft", "feature-extraction")
    assert "lora" in card.data.tags
    assert "plain peft and transformers" in card.text
    blocks = run_code(folder)
    assert len(blocks) == 2  # sentence-transformers, and peft with transformers
    assert type(blocks[1]["model"]).__name__.startswith("PeftModel")
    for names in blocks:
        assert np.abs(np.asarray(names["queries"]) - queries).max() < 1e-5
        assert np.abs(np.asarray(names["documents"]) - documents).max() < 1e-5


@pytest.mark.parametrize("pooling_method", ["cls", "mean", "lasttoken"])
@pytest.mark.parametrize(("normalize", "cut"), [(True, None), (False, None), (True, 8), (False, 8)])
def test_the_code_of_an_export(
    pooling_method: str, normalize: bool, cut: int | None, decoder_folder: Path, tmp_path: Path
) -> None:
    trainer = trained(
        decoder_folder,
        tmp_path,
        pooling_method=pooling_method,
        normalize_embeddings=normalize,
        document_prompt='"D":\n',
        export_dimensions=cut,
    )
    folder = trainer.save_model(format="hf")
    run = encoder_of(trainer)
    expected = run.encode_documents(DOCUMENTS)[:, :cut]
    if normalize:
        expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    blocks = run_code(folder)
    assert len(blocks) == 2
    for names in blocks:
        np.testing.assert_allclose(np.asarray(names["documents"]), expected, atol=2e-5, rtol=0)


def test_an_onnx_export_of_a_decoder_in_half_precision(decoder_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    from swift_embedding.onnx_graph import check_onnx

    trainer = trained(decoder_folder, tmp_path, export_dimensions=16, model_dtype="bfloat16")
    folder = trainer.save_model(format="onnx")
    run = replace(encoder_of(trainer), dimensions=16)
    assert next(trainer.network.parameters()).dtype == torch.bfloat16
    # The graph computes in float32, so it is compared with a copy of the model that does so too.
    exact = replace(run, model=copy.deepcopy(trainer.network).float())
    (names,) = run_code(folder)
    np.testing.assert_allclose(names["queries"], exact.encode_queries(QUERIES), atol=1e-4, rtol=0)
    np.testing.assert_allclose(names["documents"], exact.encode_documents(DOCUMENTS), atol=1e-4, rtol=0)
    assert ModelCard.load(folder / "README.md").data.library_name == "onnx"
    with torch.no_grad():
        trainer.network.layers[0].mlp.down_proj.weight.mul_(-9.0)  # type: ignore[operator, union-attr, index]
    with pytest.raises(SwiftError, match="the ONNX graph gives other vectors than the model in memory"):
        check_onnx(folder, run)


def test_an_export_tells_data_options_and_figures(decoder_folder: Path, tmp_path: Path) -> None:
    trainer = trained(decoder_folder, tmp_path, use_lora=True, temperature=0.07)
    before = ModelCard.load(trainer.save_model(format="hf") / "README.md")
    assert before.data.eval_results is None  # nothing is known, so nothing is said
    assert "## Evaluation" not in before.text
    metrics = trainer.evaluate()
    run = Path(str(trainer.args.output_dir))
    card = ModelCard.load(export_run(run, ["hf"])[0] / "README.md")
    assert (card.data.library_name, card.data.pipeline_tag) == (
        "sentence-transformers",
        "sentence-similarity",
    )
    figures = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert figures["ndcg@10"] == pytest.approx(metrics["eval_ndcg@10"], abs=1e-6)
    assert "runtime" not in figures
    for line in (
        "| train | train_dataset | 8 |",
        "| eval | eval_dataset | 4 |",
        "| `temperature` | 0.07 |",
        "| `learning_rate` | 0.005 |",
        "| `resolved_lora_alpha` | 32.0 |",
        f"| ndcg@10 | {metrics['eval_ndcg@10']:.4f} |",
    ):
        assert line in card.text
    assert str(tmp_path) not in card.content  # where things lay on this machine is nobody's business
    assert card.data.base_model is None
    cut = ModelCard.load(export_run(run, ["hf"], ["export_dimensions=8"])[0] / "README.md")
    assert cut.data.eval_results is None
    assert "with the uncut vectors" in cut.text


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("BAAI/bge-small-zh-v1.5", "BAAI/bge-small-zh-v1.5"),
        ("bert-base-uncased", "bert-base-uncased"),
        ("/cache/hub/models--BAAI--bge-m3/snapshots/abc", "BAAI/bge-m3"),
        ("/data/models/mine", None),
        ("./mine", None),
        ("a/b/c", None),
        ("", None),
        (None, None),
    ],
)
def test_only_hub_ids_are_base_models(name: str | None, expected: str | None) -> None:
    assert hub_id(name) == expected


def test_a_local_folder_is_no_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert hub_id("org/name") is None
