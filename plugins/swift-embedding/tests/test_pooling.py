"""What models say themselves about how they are pooled."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoConfig

from swift_core.errors import UserError
from swift_embedding.pooling import default_pooling, is_decoder

ENCODERS = [
    "bert",
    "roberta",
    "xlm-roberta",
    "modernbert",
    "distilbert",
    "mpnet",
    "deberta-v2",
    "electra",
    "t5",
]
DECODERS = ["llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text", "gpt2"]


@pytest.mark.parametrize("model_type", ENCODERS)
def test_encoders_take_the_mean(model_type: str, tmp_path: Path) -> None:
    assert default_pooling(tmp_path, AutoConfig.for_model(model_type)) == "mean"


@pytest.mark.parametrize("model_type", DECODERS)
def test_decoders_take_the_last_token(model_type: str, tmp_path: Path) -> None:
    assert default_pooling(tmp_path, AutoConfig.for_model(model_type)) == "lasttoken"


def test_what_a_config_says_comes_before_its_family() -> None:
    assert not is_decoder(AutoConfig.for_model("gemma3_text", use_bidirectional_attention=True))
    assert not is_decoder(AutoConfig.for_model("qwen3", is_causal=False))
    assert is_decoder(AutoConfig.for_model("bert", is_decoder=True))
    unknown = AutoConfig.for_model("bert", architectures=["HouseForCausalLM"])
    unknown.model_type = "house"
    assert is_decoder(unknown)


def st_folder(folder: Path, pooling: dict[str, object], *more: str) -> Path:
    """A folder with a sentence-transformers configuration and no model."""
    names = ["Transformer", "Pooling", *more]
    modules = [
        {
            "idx": n,
            "name": str(n),
            "path": f"{n}_{name}" if n else "",
            "type": f"sentence_transformers.models.{name}",
        }
        for n, name in enumerate(names)
    ]
    (folder / "1_Pooling").mkdir()
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False}, "lasttoken"),
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode": "lasttoken", "pooling_mode_mean_tokens": True}, "lasttoken"),
        ({"pooling_mode": ["cls"], "include_prompt": True}, "cls"),
        ({"word_embedding_dimension": 8}, "mean"),
    ],
)
def test_the_folder_decides(pooling: dict[str, object], expected: str, tmp_path: Path) -> None:
    folder = st_folder(tmp_path, pooling, "Normalize")
    for model_type in ("bert", "llama"):
        assert default_pooling(folder, AutoConfig.for_model(model_type)) == expected


def test_the_real_encoder_says_mean(minilm_folder: Path) -> None:
    assert default_pooling(minilm_folder, AutoConfig.for_model("llama")) == "mean"


@pytest.mark.parametrize(
    ("pooling", "found"),
    [
        ({"pooling_mode_max_tokens": True}, "found max"),
        ({"pooling_mode": "weightedmean"}, "found weightedmean"),
        ({"pooling_mode": ["cls", "mean"]}, r"found cls \+ mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, r"found cls \+ mean"),
    ],
)
def test_other_poolings_are_refused(pooling: dict[str, object], found: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{found}.*pooling_method"):
        default_pooling(st_folder(tmp_path, pooling), AutoConfig.for_model("bert"))


def test_further_layers_are_not_dropped_in_silence(tmp_path: Path) -> None:
    folder = st_folder(tmp_path, {"pooling_mode": "mean"}, "Dense", "Normalize")
    with pytest.raises(UserError, match=r"the model has Dense after its transformer.*pooling_method"):
        default_pooling(folder, AutoConfig.for_model("bert"))


def test_broken_files_are_named(tmp_path: Path) -> None:
    folder = st_folder(tmp_path, {})
    (folder / "1_Pooling" / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"1_Pooling.config\.json: .*can't be read.*pooling_method"):
        default_pooling(folder, AutoConfig.for_model("bert"))
    (folder / "modules.json").write_text('{"a": 1}')
    with pytest.raises(UserError, match=r"modules\.json: expected a list of modules"):
        default_pooling(folder, AutoConfig.for_model("bert"))
