"""How a given model wants its token vectors reduced to one vector a text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from swift_core.errors import UserError
from swift_core.flat import PoolingMethod


def default_pooling(model_folder: Path, config: Any) -> PoolingMethod:
    """How the model in ``model_folder`` was meant to be pooled.

    What the folder's sentence-transformers configuration says, else ``lasttoken`` for decoders (only the
    last token has seen the whole text) and ``mean`` for encoders.

    Args:
        model_folder: where the model is; ``modules.json`` is looked for here.
        config: the model's transformers configuration.

    Raises:
        UserError: the folder asks for a pooling, or for further layers, that this package does not have.
    """
    cut = read_cut(model_folder)
    if cut is not None:
        raise UserError(
            f"{model_folder}: its vectors were cut to {cut} numbers when it was exported, which training "
            "would not do; train the model/ of its run, or set pooling_method to train the uncut vectors"
        )
    return read_pooling(model_folder) or ("lasttoken" if is_decoder(config) else "mean")


def is_decoder(config: Any) -> bool:
    """Whether a token of this model sees only the tokens before it."""
    # The names and not the classes: those would import every model of the library.
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    # Decoders turned into encoders (EmbeddingGemma, LLM2Vec) say so in one of these two fields.
    bidirectional = getattr(config, "use_bidirectional_attention", None) in (True, "all")
    if bidirectional or getattr(config, "is_causal", True) is False:
        return False
    if getattr(config, "is_encoder_decoder", False):
        return False
    if getattr(config, "is_decoder", False):
        return True
    # BERT and its like are in both mappings; what can fill masks reads in both directions.
    if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return False
    if config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return True
    return any(name.endswith("ForCausalLM") for name in getattr(config, "architectures", None) or ())


def read_modules(folder: Path) -> list[tuple[str, Path]]:
    """Class name and folder of each module in ``modules.json``; empty when there is no such file.

    Raises:
        UserError: the file is not what sentence-transformers writes.
    """
    path = folder / "modules.json"
    if not path.exists():
        return []
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return [(str(entry["type"]).rpartition(".")[2], folder / entry["path"]) for entry in entries]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: expected a list of modules with 'type' and 'path', as sentence-transformers writes it; "
            "mend the file, or remove it and set pooling_method"
        ) from error


def read_pooling(folder: Path) -> PoolingMethod | None:
    """The pooling that the sentence-transformers configuration in ``folder`` asks for, or None without one.

    Raises:
        UserError: it asks for something that this package does not have.
    """
    modules = read_modules(folder)
    known = {"Transformer", "Pooling", "Normalize", "Dropout"}
    if read_cut(folder) is not None:
        known.add("Dense")
    strange = [name for name, _ in modules if name not in known]
    if strange:
        raise UserError(
            f"{folder / 'modules.json'}: the model has {', '.join(strange)} after its transformer, which are "
            "not applied here, so vectors would differ from the author's; to train without them set "
            "pooling_method"
        )
    for name, path in modules:
        if name == "Pooling":
            return _pooling_of(path / "config.json")
    return None


def read_include_prompt(folder: Path) -> bool:
    """Whether tokens of a prompt count in mean pooling, as the folder's configuration says; true without."""
    for name, path in read_modules(folder):
        if name == "Pooling" and (path / "config.json").exists():
            config = json.loads((path / "config.json").read_text(encoding="utf-8"))
            return bool(config.get("include_prompt", True))
    return True


def read_cut(folder: Path) -> int | None:
    """To how many numbers the folder's vectors are cut after pooling, or None where nothing cuts them.

    A cut is a ``Dense`` layer that passes the first numbers on as they are; any other ``Dense`` is none.
    """
    layers = [path for name, path in read_modules(folder) if name == "Dense"]
    if len(layers) != 1:
        return None
    try:
        config = json.loads((layers[0] / "config.json").read_text(encoding="utf-8"))
        weights = load_file(layers[0] / "model.safetensors")
    except (OSError, ValueError, SafetensorError):
        return None
    plain = config.get("activation_function") == IDENTITY and not config.get("use_residual")
    weight = weights.get("linear.weight")
    if not plain or len(weights) != 1 or weight is None or weight.ndim != 2:
        return None
    return len(weight) if torch.equal(weight, torch.eye(*weight.shape, dtype=weight.dtype)) else None


IDENTITY = "torch.nn.modules.linear.Identity"

_SWITCHES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


def _pooling_of(path: Path) -> PoolingMethod:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        named = config.get("pooling_mode")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path}: modules.json names a pooling configuration that can't be read here; set pooling_method"
        ) from error
    if named is None:
        # Version 5 and older: one switch for each; without any of them the mean is the library's default.
        named = [method for key, method in _SWITCHES.items() if config.get(key, False)] or "mean"
    methods = [named] if isinstance(named, str) else list(named)
    if len(methods) != 1 or methods[0] not in get_args(PoolingMethod):
        raise UserError(
            f"{path}: expected one pooling of {', '.join(get_args(PoolingMethod))}, found "
            f"{' + '.join(map(str, methods))}; choose one with pooling_method and train with it"
        )
    return cast("PoolingMethod", methods[0])
