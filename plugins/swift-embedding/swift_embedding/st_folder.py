"""Model folders that sentence-transformers (2 and later) and plain transformers both load."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from swift_core.adapters import merge_adapter
from swift_core.cards import hub_id
from swift_core.errors import SwiftError, UserError
from swift_core.flat import PoolingMethod
from swift_core.models import without_progress_bars
from swift_embedding.card import Card, write_card
from swift_embedding.encoding import Recipe, TextEncoder
from swift_embedding.pooling import IDENTITY, read_cut, read_include_prompt, read_modules, read_pooling

_TOLERANCE = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 5e-2}
"""Largest difference of a component after a reload; merging LoRA rounds once more in the weights' type."""


def tolerance(dtype: torch.dtype) -> float:
    """Largest difference of a component of what should be the same vectors, for weights of ``dtype``."""
    return _TOLERANCE.get(dtype, 1e-5)


def write_st_folder(folder: Path, encoder: TextEncoder) -> None:
    """Write weights (LoRA merged), tokenizer, configuration and a short model card into ``folder``.

    Args:
        folder: where to.
        encoder: its model is a transformers model, or a peft model around one; it is not changed.
    """
    merged: Any = merge_adapter(encoder.model)
    merged.save_pretrained(folder)
    write_st_config(folder, encoder)


def write_st_config(folder: Path, recipe: Recipe) -> None:
    """Write all of such a folder but the weights.

    The model, or its adapter, is saved there before: its config tells the size of the vectors, without which
    sentence-transformers refuses the folder.
    """
    tokenizer = copy.deepcopy(recipe.tokenizer)
    tokenizer.model_max_length = recipe.max_length
    tokenizer.save_pretrained(folder)
    normalize, dimensions = recipe.normalize_embeddings, recipe.dimensions
    names = [
        "Transformer",
        "Pooling",
        *(["Dense"] if dimensions else []),
        *(["Normalize"] if normalize else []),
    ]
    modules = [
        {
            "idx": place,
            "name": str(place),
            "path": f"{place}_{name}" if place else "",
            # Names of versions 2 to 5, which version 6 still reads; the other way round fails.
            "type": f"sentence_transformers.models.{name}",
        }
        for place, name in enumerate(names)
    ]
    _write(folder / "modules.json", modules)
    pooling = _pooling_config(folder, recipe.pooling_method)
    if not recipe.pool_prompts:
        pooling["include_prompt"] = False  # versions before 2.4 refuse a switch that they don't know
    _write(folder / "1_Pooling" / "config.json", pooling)
    if dimensions:
        _write_cut(folder / "2_Dense", _dimension(folder), dimensions)
    if normalize:
        # It has nothing to say, but version 2 wants the folder, and git keeps none without a file.
        _write(folder / str(modules[-1]["path"]) / "config.json", {})
    _write(
        folder / "sentence_bert_config.json", {"max_seq_length": recipe.max_length, "do_lower_case": False}
    )
    write_settings(folder, recipe)
    write_card(
        folder,
        Card(
            kind="adapter" if (folder / "adapter_config.json").exists() else "model",
            pooling_method=recipe.pooling_method,
            normalize=normalize,
            max_length=recipe.max_length,
            prompts=recipe.prompts,
            size=dimensions or _dimension(folder),
            dimensions=dimensions,
            base_model=hub_id(_base_model(folder) or tokenizer.name_or_path),
        ),
    )


def write_settings(folder: Path, recipe: Recipe) -> None:
    """Write ``config_sentence_transformers.json``: prompts, and both sides' lengths where they differ."""
    settings: dict[str, Any] = {
        "prompts": recipe.prompts,
        "default_prompt_name": None,
        "similarity_fn_name": "cosine" if recipe.normalize_embeddings else "dot",
    }
    lengths = {"query_max_length": recipe.query_max_length, "document_max_length": recipe.document_max_length}
    if any(length not in (None, recipe.max_length) for length in lengths.values()):
        # Of use to us only: sentence-transformers has one length, which is the longer one.
        settings.update(lengths)
    _write(folder / "config_sentence_transformers.json", settings)


def load_encoder(
    folder: Path, *, dtype: torch.dtype | str = "auto", device: torch.device | str = "cpu"
) -> TextEncoder:
    """Load what :func:`write_st_folder` wrote, by plain transformers: no network, no pickle, no remote code.

    Args:
        dtype: type of the weights; ``auto`` is the one they were saved in.

    Raises:
        UserError: the folder asks for a pooling that this package does not have.
    """
    from transformers import AutoModel, AutoTokenizer

    with without_progress_bars():
        # Not given, trust_remote_code makes the library ask on the terminal; the answer here is no.
        model = AutoModel.from_pretrained(
            folder, dtype=dtype, local_files_only=True, use_safetensors=True, trust_remote_code=False
        )
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    query_prompt, document_prompt = read_prompts(folder)
    query_length, document_length = read_side_lengths(folder)
    return TextEncoder(
        model=model.to(device).eval(),
        tokenizer=tokenizer,
        max_length=read_max_length(folder) or tokenizer.model_max_length,
        pooling_method=read_pooling(folder) or "mean",
        normalize_embeddings=any(name == "Normalize" for name, _ in read_modules(folder)),
        query_prompt=query_prompt,
        document_prompt=document_prompt,
        query_max_length=query_length,
        document_max_length=document_length,
        pool_prompts=read_include_prompt(folder),
        dimensions=read_cut(folder),
        share_batches=False,
    )


def check_st_folder(folder: Path, encoder: TextEncoder, texts: Sequence[str]) -> float:
    """Reload ``folder`` and compare its vectors of ``texts``, as queries and documents, with ``encoder``'s.

    Returns:
        The largest absolute difference of a component.

    Raises:
        SwiftError: it is above 1e-5 (float32; 5e-3 in float16, 5e-2 in bfloat16), relative to the largest
            component where that is above 1.
    """
    encoder = replace(encoder, share_batches=False)
    weight = next(encoder.model.parameters())
    reloaded = load_encoder(folder, dtype=weight.dtype, device=weight.device)
    before, after = (  # both [2N, D]
        np.concatenate([e.encode_queries(texts), e.encode_documents(texts)]) for e in (encoder, reloaded)
    )
    same_shape = before.shape == after.shape
    difference = float(np.abs(before - after).max(initial=0.0)) if same_shape else float("inf")
    allowed = tolerance(weight.dtype) * max(1.0, float(np.abs(before).max(initial=0.0)))
    if not difference <= allowed:  # also when it is NaN
        raise SwiftError(
            f"{folder}: reloaded, the model gives other vectors than the one in memory: they differ by "
            f"{difference:.2g}, expected at most {allowed:.2g}; the folder must not be used"
        )
    return difference


def read_prompts(folder: Path) -> tuple[str, str]:
    """Texts put before a query and before a document, as ``config_sentence_transformers.json`` has them.

    Raises:
        UserError: the file is not what sentence-transformers writes.
    """
    path = folder / "config_sentence_transformers.json"
    prompts = _read(path).get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(text, str | None) for text in prompts.values()):
        raise UserError(f"{path}: prompts: expected texts by name, found {json.dumps(prompts)[:100]}")
    document = next((prompts[name] for name in ("document", "passage", "corpus") if prompts.get(name)), "")
    return prompts.get("query") or "", document


def read_side_lengths(folder: Path) -> tuple[int | None, int | None]:
    """The longest query and document in tokens, where :func:`write_settings` wrote them."""
    settings = _read(folder / "config_sentence_transformers.json")
    found = (settings.get("query_max_length"), settings.get("document_max_length"))
    if not all(length is None or (isinstance(length, int) and length > 0) for length in found):
        raise UserError(
            f"{folder / 'config_sentence_transformers.json'}: expected lengths above 0, found {found}"
        )
    return found


def read_max_length(folder: Path) -> int | None:
    """``max_seq_length`` of ``sentence_bert_config.json``, or None when it is not there.

    Raises:
        UserError: the file is not what sentence-transformers writes.
    """
    path = folder / "sentence_bert_config.json"
    length = _read(path).get("max_seq_length")
    if length is not None and (not isinstance(length, int) or length < 1):
        raise UserError(f"{path}: max_seq_length: expected a number above 0, found {length!r}")
    return length


def _pooling_config(folder: Path, method: PoolingMethod) -> dict[str, Any]:
    # The switches of old versions, which version 6 reads too; the old ones refuse version 6's pooling_mode.
    config: dict[str, Any] = {
        "pooling_mode_cls_token": method == "cls",
        "pooling_mode_mean_tokens": method == "mean",
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
    }
    if method == "lasttoken":
        config["pooling_mode_lasttoken"] = True  # versions before 2.4 refuse a switch that they don't know
    dimension = _dimension(folder)
    return config if dimension is None else {"word_embedding_dimension": dimension, **config}


def _write_cut(folder: Path, size: int | None, dimensions: int) -> None:
    """A layer that passes on the first ``dimensions`` of ``size`` numbers as they are.

    The one way to cut that lies in a folder's files and stands before ``Normalize``: ``truncate_dim`` is an
    argument only, and cuts vectors that are normalised already. Needs sentence-transformers 3 or later:
    before, a layer was read from a pickle only.
    """
    if size is None:
        raise SwiftError("the model's config does not tell the size of its vectors, so they can't be cut")
    layer = {
        "in_features": size,
        "out_features": dimensions,
        "bias": False,
        "activation_function": IDENTITY,
    }
    _write(folder / "config.json", layer)
    save_file({"linear.weight": torch.eye(dimensions, size)}, folder / "model.safetensors")


def _dimension(folder: Path) -> int | None:
    """Size of the vectors of the model, or of the adapter's base model, that was saved in ``folder``."""
    base = _base_model(folder)
    config = _read(folder / "config.json") or (_read(Path(base) / "config.json") if base else {})
    # GPT-2, DistilBERT and T5 have names of their own for it.
    keys = ("hidden_size", "n_embd", "dim", "d_model")
    found = [part[key] for part in (config, config.get("text_config") or {}) for key in keys if key in part]
    return int(found[0]) if found else None


def _base_model(folder: Path) -> str | None:
    return _read(folder / "adapter_config.json").get("base_model_name_or_path")


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: expected JSON ({error}); mend or remove the file") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, found {json.dumps(value)[:100]}")
    return value


def _write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
