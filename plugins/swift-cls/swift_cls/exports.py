"""The export formats of the task type ``sequence-classification``."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from swift_cls.card import Kind, card_of, write_card
from swift_cls.collator import ClassificationCollator
from swift_cls.probing import Probes
from swift_core.adapters import merge_adapter
from swift_core.errors import UserError

if TYPE_CHECKING:
    from swift_core.arguments import TrainingArguments
    from swift_core.runs.record import Run

Writer: TypeAlias = Callable[
    [Path, Any, ClassificationCollator, "TrainingArguments", "Run"], Mapping[str, Any]
]


def write_hf(
    folder: Path, model: Any, collator: ClassificationCollator, args: TrainingArguments, run: Run
) -> Mapping[str, Any]:
    """A folder that ``pipeline("text-classification")`` loads, with LoRA merged.

    Raises:
        UserError: the head reads other token vectors than transformers gives it.
        SwiftError: loaded by transformers, the folder gives other logits.
    """
    merged = merge_adapter(model)
    own, asked = merged.family_pooling, merged.pooling_method
    if asked != own:
        raise UserError(
            f"pooling_method: transformers' {type(merged).__name__} reads {own or 'something else'}, and the "
            f"model was trained with {asked}, so the format hf would give other labels; export as onnx"
        )
    merged.save_pretrained(folder)
    _write_texts(folder, collator)
    _write_card(folder, "model", collator, args, run)
    return _details(collator, {"reload_difference": check_hf(folder, Probes(model, collator), merged.device)})


def write_onnx(
    folder: Path, model: Any, collator: ClassificationCollator, args: TrainingArguments, run: Run
) -> Mapping[str, Any]:
    """One ONNX graph from token ids to logits, with tokenizer and settings."""
    from swift_cls import onnx_graph

    _write_texts(folder, collator)
    difference = onnx_graph.write_onnx(folder, model, collator)
    _write_card(folder, "onnx", collator, args, run)
    return _details(collator, {"reload_difference": difference})


def write_int8(
    folder: Path, model: Any, collator: ClassificationCollator, args: TrainingArguments, run: Run
) -> Mapping[str, Any]:
    """The same graph with weights of 8 bits."""
    from swift_cls import onnx_graph

    _write_texts(folder, collator)
    measured = onnx_graph.write_int8(folder, model, collator)
    _write_card(folder, "onnx-int8", collator, args, run)
    return _details(collator, measured)


WRITERS: Mapping[str, Writer] = {"hf": write_hf, "onnx": write_onnx, "onnx-int8": write_int8}


def check_hf(folder: Path, probes: Probes, device: torch.device | str = "cpu") -> float:
    """Load ``folder`` as users of transformers do, and compare.

    Returns:
        The largest difference of a logit.

    Raises:
        SwiftError: it is too large.
    """
    # Not given, trust_remote_code makes the library ask on the terminal; the answer here is no.
    local = {"local_files_only": True, "trust_remote_code": False}
    plain = AutoModelForSequenceClassification.from_pretrained(folder, use_safetensors=True, **local)
    plain = plain.to(device).eval()

    def logits(batch: Mapping[str, Any]) -> np.ndarray:
        with torch.no_grad():
            tensors = {name: torch.as_tensor(values, device=device) for name, values in batch.items()}
            values: np.ndarray = plain(**tensors).logits.float().cpu().numpy()
        return values

    tokenizer = AutoTokenizer.from_pretrained(folder, **local)
    return probes.check(folder, "reloaded, transformers", probes.found(logits, tokenizer))


def _write_texts(folder: Path, collator: ClassificationCollator) -> None:
    """The tokenizer, which pads on the right and cuts as in training, labels, threshold and temperature."""
    tokenizer = copy.deepcopy(collator.tokenizer)
    tokenizer.padding_side = "right"
    tokenizer.model_max_length = collator.texts.max_length
    replace(collator, texts=replace(collator.texts, tokenizer=tokenizer)).save_pretrained(folder)


def _write_card(
    folder: Path, kind: Kind, collator: ClassificationCollator, args: TrainingArguments, run: Run
) -> None:
    card, picture = card_of(kind, collator, args, run)
    if picture is not None:
        shutil.copyfile(picture, folder / picture.name)
    write_card(folder, card)


def _details(collator: ClassificationCollator, measured: Mapping[str, Any]) -> dict[str, Any]:
    labels, decision = collator.known_labels, collator.decision
    return {
        "problem": labels.problem,
        "labels": list(labels.names),
        "max_length": collator.texts.max_length,
        "long_text": collator.texts.long_text,
        "threshold": decision.threshold,
        "temperature": decision.temperature,
        **measured,
    }
