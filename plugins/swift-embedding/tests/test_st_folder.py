"""What is written is what sentence-transformers reads, with and without LoRA."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from swift_core.errors import SwiftError, UserError
from swift_embedding.encoding import TextEncoder
from swift_embedding.pooling import default_pooling, read_cut
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
    write_st_folder(folder, encoder)
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


@pytest.mark.parametrize("name", ["minilm", "decoder"])
@pytest.mark.parametrize("normalize", [True, False])
def test_cut_vectors_are_the_same_everywhere(
    name: str, normalize: bool, texts: list[str], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    whole = replace(request.getfixturevalue(name), normalize_embeddings=normalize, query_prompt="q: ")
    full = whole.encode_documents(texts).astype(np.float64)[:, :10]
    expected = full / np.linalg.norm(full, axis=1, keepdims=True) if normalize else full
    encoder = replace(whole, dimensions=10)
    np.testing.assert_allclose(encoder.encode_documents(texts), expected, atol=1e-6, rtol=1e-5)
    assert encoder.size == 10
    write(tmp_path, encoder)
    same_in_sentence_transformers(tmp_path, encoder, texts)
    assert load_encoder(tmp_path).dimensions == 10
    check_st_folder(tmp_path, encoder, texts)
    with pytest.raises(SwiftError, match="gives other vectors"):
        check_st_folder(tmp_path, whole, texts)


def test_cut_vectors_in_half_precision(decoder: TextEncoder, texts: list[str], tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    encoder = replace(decoder, model=decoder.model.to(torch.bfloat16), dimensions=10)
    write(tmp_path, encoder)
    peer = SentenceTransformer(str(tmp_path), device="cpu", local_files_only=True)
    assert np.abs(peer.encode(texts) - encoder.encode_documents(texts)).max() < 2e-2


def test_training_does_not_go_on_with_cut_vectors(decoder: TextEncoder, tmp_path: Path) -> None:
    write(tmp_path, replace(decoder, dimensions=10))
    with pytest.raises(UserError, match=r"were cut to 10 numbers.*model/ of its run.*pooling_method"):
        default_pooling(tmp_path, decoder.model.config)


def test_only_a_layer_that_cuts_is_read_as_a_cut(decoder: TextEncoder, tmp_path: Path) -> None:
    write(tmp_path, replace(decoder, dimensions=10))
    weights = tmp_path / "2_Dense" / "model.safetensors"
    save_file({"linear.weight": torch.eye(10, 32) * 1.001}, weights)
    assert read_cut(tmp_path) is None
    with pytest.raises(UserError, match="the model has Dense after its transformer"):
        load_encoder(tmp_path)
    save_file({"linear.weight": torch.eye(10, 32)}, weights)
    config = tmp_path / "2_Dense" / "config.json"
    config.write_text(config.read_text().replace("linear.Identity", "activation.Tanh"))
    assert read_cut(tmp_path) is None


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
    assert "a vector of 32 numbers and length 1 (lasttoken pooling)" in card
    assert "Before a query stands `'q: '`, before a document nothing." in card


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
    write_st_config(tmp_path, encoder)
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


def test_lengths_of_both_sides_and_the_pooling_of_prompts_come_back(
    minilm: TextEncoder, texts: list[str], tmp_path: Path
) -> None:
    encoder = replace(
        minilm,
        query_prompt="a question: ",
        query_max_length=12,
        document_max_length=40,
        max_length=40,
        pool_prompts=False,
    )
    write(tmp_path, encoder)
    found = load_encoder(tmp_path)
    assert (found.max_length, found.query_max_length, found.document_max_length) == (40, 12, 40)
    assert not found.pool_prompts
    assert check_st_folder(tmp_path, encoder, texts) < 1e-5
    from sentence_transformers import SentenceTransformer

    peer = SentenceTransformer(str(tmp_path), device="cpu", local_files_only=True)
    short = [text for text in texts if len(text) < 40]
    assert torch.allclose(
        torch.from_numpy(found.encode_queries(short)),
        peer.encode(short, prompt_name="query", convert_to_tensor=True),
        atol=1e-5,
    )
