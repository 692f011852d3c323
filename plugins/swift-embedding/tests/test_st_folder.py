"""What is written is what sentence-transformers reads, with and without LoRA."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from swift_core.errors import SwiftError, UserError
from swift_embedding.encoding import TextEncoder
from swift_embedding.st_folder import (
    check_st_folder,
    load_encoder,
    read_max_length,
    read_prompts,
    write_st_config,
    write_st_folder,
)

AddLora = Callable[[torch.nn.Module], torch.nn.Module]

# peft 0.21 asks transformers 5.23 by an old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def write(folder: Path, encoder: TextEncoder) -> Path:
    write_st_folder(
        folder,
        model=encoder.model,
        tokenizer=encoder.tokenizer,
        pooling_method=encoder.pooling_method,
        normalize=encoder.normalize_embeddings,
        max_length=encoder.max_length,
        prompts={"query": encoder.query_prompt, "document": encoder.document_prompt},
    )
    return folder


def same_in_sentence_transformers(folder: Path, encoder: TextEncoder, texts: list[str]) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    close = {"rtol": 0, "atol": 1e-5 * max(1.0, float(np.abs(encoder.encode_queries(texts)).max()))}
    np.testing.assert_allclose(
        model.encode(texts, prompt_name="query"), encoder.encode_queries(texts), **close
    )
    np.testing.assert_allclose(
        model.encode(texts, prompt_name="document"), encoder.encode_documents(texts), **close
    )
    assert model.max_seq_length == encoder.max_length
    assert model.get_embedding_dimension() == encoder.encode_queries(["a"]).shape[1]
    assert model.similarity_fn_name == ("cosine" if encoder.normalize_embeddings else "dot")


@pytest.mark.parametrize("lora", [False, True], ids=["plain", "lora"])
@pytest.mark.parametrize("name", ["minilm", "decoder"])
def test_sentence_transformers_gives_the_same_vectors(
    name: str, lora: bool, texts: list[str], tmp_path: Path, add_lora: AddLora, request: pytest.FixtureRequest
) -> None:
    encoder: TextEncoder = request.getfixturevalue(name)
    encoder = replace(encoder, query_prompt="query: ", document_prompt="passage: ", max_length=20)
    before = encoder.encode_queries(texts)
    if lora:
        encoder = replace(encoder, model=add_lora(encoder.model))
        assert np.abs(encoder.encode_queries(texts) - before).max() > 1e-2
    write(tmp_path, encoder)
    same_in_sentence_transformers(tmp_path, encoder, texts)
    assert check_st_folder(tmp_path, encoder, texts) <= 1e-5
    if lora:
        assert any("lora_B" in key for key, _ in encoder.model.named_parameters())  # was not merged in place


@pytest.mark.parametrize("method", ["cls", "mean", "lasttoken"])
@pytest.mark.parametrize("normalize", [True, False])
def test_every_pooling_survives(
    method: str, normalize: bool, decoder: TextEncoder, texts: list[str], tmp_path: Path
) -> None:
    encoder = replace(decoder, pooling_method=method, normalize_embeddings=normalize)  # type: ignore[arg-type]
    write(tmp_path, encoder)
    same_in_sentence_transformers(tmp_path, encoder, texts)
    reloaded = load_encoder(tmp_path)
    assert (reloaded.pooling_method, reloaded.normalize_embeddings) == (method, normalize)
    check_st_folder(tmp_path, encoder, texts)


def test_the_files_are_those_that_old_versions_read(decoder: TextEncoder, tmp_path: Path) -> None:
    write(tmp_path, replace(decoder, query_prompt="q: "))
    modules = json.loads((tmp_path / "modules.json").read_text())
    assert [(m["path"], m["type"]) for m in modules] == [
        ("", "sentence_transformers.models.Transformer"),
        ("1_Pooling", "sentence_transformers.models.Pooling"),
        ("2_Normalize", "sentence_transformers.models.Normalize"),
    ]
    pooling = json.loads((tmp_path / "1_Pooling" / "config.json").read_text())
    assert pooling["word_embedding_dimension"] == 32
    assert {key for key, value in pooling.items() if value is True} == {"pooling_mode_lasttoken"}
    assert (tmp_path / "2_Normalize").is_dir()
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["model_max_length"] == 24
    assert decoder.tokenizer.model_max_length > 24  # the tokenizer in memory is as it was
    card = (tmp_path / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: sentence-transformers\n")
    assert "32 numbers (lasttoken\npooling, length 1)" in card
    assert "`q: ` before a query, nothing before a document" in card


def test_half_precision_is_kept(decoder: TextEncoder, texts: list[str], tmp_path: Path) -> None:
    encoder = replace(decoder, model=decoder.model.to(torch.bfloat16))
    write(tmp_path, encoder)
    # Not 0: .to(bfloat16) rounded the rotary frequencies too, which a loaded model keeps in float32.
    assert check_st_folder(tmp_path, encoder, texts) < 1e-2
    assert next(load_encoder(tmp_path).model.parameters()).dtype == torch.bfloat16


def test_an_adapter_beside_its_configuration(
    minilm: TextEncoder, texts: list[str], tmp_path: Path, add_lora: AddLora
) -> None:
    encoder = replace(minilm, model=add_lora(minilm.model))
    encoder.model.save_pretrained(tmp_path)  # type: ignore[operator]
    write_st_config(
        tmp_path,
        tokenizer=encoder.tokenizer,
        pooling_method="mean",
        normalize=True,
        max_length=256,
        prompts={"query": "", "document": ""},
    )
    same_in_sentence_transformers(tmp_path, encoder, texts)


def test_other_weights_are_noticed(decoder: TextEncoder, texts: list[str], tmp_path: Path) -> None:
    write(tmp_path, decoder)
    with torch.no_grad():
        decoder.model.norm.weight[0] += 0.01
    with pytest.raises(
        SwiftError, match=r"gives other vectors than the one in memory: they differ by 0\.\d+"
    ):
        check_st_folder(tmp_path, decoder, texts)


@pytest.mark.parametrize(
    ("change", "file", "value"),
    [
        ("pooling", "1_Pooling/config.json", {"pooling_mode": "mean"}),
        ("prompt", "config_sentence_transformers.json", {"prompts": {"query": "other: "}}),
        ("length", "sentence_bert_config.json", {"max_seq_length": 5}),
    ],
)
def test_other_settings_are_noticed(
    change: str, file: str, value: object, decoder: TextEncoder, texts: list[str], tmp_path: Path
) -> None:
    write(tmp_path, decoder)
    (tmp_path / file).write_text(json.dumps(value))
    with pytest.raises(SwiftError, match="gives other vectors"):
        check_st_folder(tmp_path, decoder, texts)


def test_vectors_that_are_no_numbers_are_noticed(
    decoder: TextEncoder, texts: list[str], tmp_path: Path
) -> None:
    with torch.no_grad():
        decoder.model.norm.weight[0] = float("nan")
    write(tmp_path, decoder)
    with pytest.raises(SwiftError, match="differ by nan"):
        check_st_folder(tmp_path, decoder, texts)


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        ({"query": "q: ", "document": "d: "}, ("q: ", "d: ")),
        ({"query": "query: ", "passage": "passage: "}, ("query: ", "passage: ")),
        ({"query": "q: ", "document": "", "corpus": "c: "}, ("q: ", "c: ")),
        ({"query": None}, ("", "")),
        ({"clustering": "x"}, ("", "")),
    ],
)
def test_prompts_are_read(prompts: dict[str, str], expected: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts}))
    assert read_prompts(tmp_path) == expected


def test_what_is_not_there_and_what_is_broken(minilm_folder: Path, tmp_path: Path) -> None:
    assert read_prompts(tmp_path) == ("", "") == read_prompts(minilm_folder)
    assert read_max_length(tmp_path) is None
    assert read_max_length(minilm_folder) == 256
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": "long"}')
    with pytest.raises(UserError, match="max_seq_length: expected a number above 0, found 'long'"):
        read_max_length(tmp_path)
    (tmp_path / "config_sentence_transformers.json").write_text('{"prompts": ["q"]}')
    with pytest.raises(UserError, match="prompts: expected texts by name"):
        read_prompts(tmp_path)
    (tmp_path / "config_sentence_transformers.json").write_text("{")
    with pytest.raises(UserError, match=r"config_sentence_transformers\.json: expected JSON"):
        read_prompts(tmp_path)


def test_a_folder_that_brings_code_is_refused_without_a_question(tmp_path, monkeypatch) -> None:
    def ask(*arguments: object) -> str:
        raise AssertionError("the library asked whether to run the code of the model")

    monkeypatch.setattr("builtins.input", ask)
    (tmp_path / "config.json").write_text(
        '{"model_type": "unheard-of", "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}}'
    )
    (tmp_path / "evil.py").write_text("raise SystemExit('code of the model ran')")
    with pytest.raises(ValueError, match="trust_remote_code"):
        load_encoder(tmp_path)
