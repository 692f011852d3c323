"""Which model a name stands for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from swift_core import TrainingArguments
from swift_core.errors import UserError
from swift_core.model_folders import base_args_of, load_single_stack_config, position_limit, saved_dtype


@pytest.mark.parametrize(("base", "revision"), [("owner/name", "abc123"), ("local", None)])
def test_an_adapter_is_put_on_the_revision_of_its_base_that_it_was_trained_on(
    tmp_path, monkeypatch, base, revision
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "local").mkdir()
    config = {"base_model_name_or_path": base, "revision": "abc123"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    args = base_args_of(tmp_path, TrainingArguments("embedding", model_name_or_path=str(tmp_path)))
    assert (args.core.model_name_or_path, args.core.model_revision) == (base, revision)


def test_an_encoder_decoder_is_refused_with_what_the_task_trains(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}))
    args = TrainingArguments("sequence-classification", model_name_or_path=str(tmp_path), report_to="none")
    with pytest.raises(UserError, match=r"is an encoder-decoder \(t5\), .*; choose a causal model$"):
        load_single_stack_config(args, choose="a causal model")


@pytest.mark.parametrize(
    ("config", "dtype"),
    [
        ({"dtype": "bfloat16"}, "bfloat16"),
        ({"torch_dtype": "float16"}, "float16"),
        ({"dtype": "int8"}, "float32"),
    ],
)
def test_the_type_of_saved_weights_is_told_in_the_words_of_model_dtype(
    tmp_path: Path, config: dict[str, str], dtype: str
) -> None:
    assert saved_dtype(tmp_path) == "float32"  # an adapter alone
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert saved_dtype(tmp_path) == dtype


_SMALL = {
    "vocab_size": 99,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "pad_token_id": 1,
}
_FAMILIES: dict[str, dict[str, Any]] = {
    "bert": {},
    "camembert": {},
    "data2vec-text": {},
    "esm": {"mask_token_id": 2},
    "ibert": {},
    "lilt": {"hidden_size": 24, "channel_shrink_ratio": 2},
    "luke": {"entity_vocab_size": 9, "entity_emb_size": 8},
    "markuplm": {},
    "mpnet": {},
    "roberta": {},
    "roberta-prelayernorm": {},
    "xlm-roberta": {},
    "xlm-roberta-xl": {},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
}


@pytest.mark.parametrize("family", _FAMILIES)
def test_the_longest_text_that_positions_allow(family: str) -> None:
    sizes = {**_SMALL, "num_attention_heads": 2, "max_position_embeddings": 20, **_FAMILIES[family]}
    config = transformers.AutoConfig.for_model(family, **sizes)
    model = transformers.AutoModel.from_config(config).eval()
    limit = position_limit(config)
    assert limit is not None
    with torch.no_grad():
        model(input_ids=torch.full((1, limit), 5))
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=torch.full((1, limit + 1), 5))


def test_positions_without_an_end() -> None:
    assert position_limit(transformers.XLNetConfig()) is None
