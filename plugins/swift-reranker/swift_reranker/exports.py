"""The export formats of the task type ``reranker``."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from swift_core.adapters import merge_adapter
from swift_core.errors import UserError
from swift_reranker.card import card_of, write_card
from swift_reranker.probing import Outputs, Probes
from swift_reranker.st_folder import (
    Answers,
    check_cross_encoder,
    cross_encoder_faults,
    vllm_overrides,
    write_cross_encoder,
)
from swift_reranker.template import chat_template

if TYPE_CHECKING:
    from swift_core.arguments import TrainingArguments
    from swift_core.runs.record import Run
    from swift_reranker.collator import RerankerCollator

# Shape legend: B pairs of a batch, V vocabulary.

Writer: TypeAlias = Callable[[Path, Any, "RerankerCollator", "TrainingArguments", "Run"], Mapping[str, Any]]


def write_hf(
    folder: Path, model: Any, collator: RerankerCollator, args: TrainingArguments, run: Run
) -> Mapping[str, Any]:
    """A folder that transformers loads, and ``CrossEncoder`` where it can, with LoRA merged.

    Raises:
        UserError: transformers itself would read the score at another token.
        SwiftError: loaded by one of both, the folder gives other scores.
    """
    probes, merged = Probes(model, collator), merge_adapter(model)
    pairs, answers = collator.pairs, answers_of(merged, collator)
    faults = cross_encoder_faults(merged, pairs.tokenizer, template=pairs.template, answers=answers)
    if faults and answers is None:
        raise UserError(*faults)
    if faults:
        merged.save_pretrained(folder)
    else:
        write_cross_encoder(
            folder,
            merged,
            pairs.tokenizer,
            max_length=pairs.max_length,
            template=pairs.template,
            instruction=pairs.instruction,
            answers=answers,
        )
    _write_texts(folder, collator)
    measured: dict[str, Any] = {"reload_difference": check_hf(folder, probes, answers, merged.device)}
    overrides = vllm_overrides(merged, pairs.tokenizer, answers)
    card = card_of("model", collator, args, run, answers=answers, cross_encoder=not faults, vllm=overrides)
    write_card(folder, card)
    if faults:
        return _details(collator, measured | _unchecked("; ".join(faults)))
    difference = check_cross_encoder(folder, probes.expected, probes.pairs, device=merged.device)
    if difference is None:
        return _details(collator, measured | _unchecked("sentence-transformers 6 or later is not installed"))
    return _details(collator, measured | {"cross_encoder_difference": difference})


def write_onnx(
    folder: Path, model: Any, collator: RerankerCollator, args: TrainingArguments, run: Run
) -> Mapping[str, Any]:
    """One ONNX graph from token ids to raw scores, with tokenizer and settings."""
    from swift_reranker import onnx_graph

    _write_texts(folder, collator)
    difference = onnx_graph.write_onnx(folder, model, collator, Probes(model, collator))
    write_card(folder, card_of("onnx", collator, args, run))
    return _details(collator, {"reload_difference": difference})


WRITERS: Mapping[str, Writer] = {"hf": write_hf, "onnx": write_onnx}


def answers_of(model: Any, collator: RerankerCollator) -> Answers | None:
    """Ids of the answers of a causal model; None for one with a head.

    Args:
        model: without an adapter.
    """
    return Answers(*model.answers) if collator.settings.scoring == "generative" else None


def check_hf(
    folder: Path, probes: Probes, answers: Answers | None, device: torch.device | str = "cpu"
) -> float:
    """Load ``folder`` as users of transformers do, and compare.

    Returns:
        The largest difference of a raw score.

    Raises:
        SwiftError: it is too large.
    """
    # Not given, trust_remote_code makes the library ask on the terminal; the answer here is no.
    local = {"local_files_only": True, "trust_remote_code": False}
    kind = AutoModelForSequenceClassification if answers is None else AutoModelForCausalLM
    plain: Any = kind.from_pretrained(folder, use_safetensors=True, **local)
    plain = plain.to(device).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, **local)
    found = probes.found(_outputs(plain, answers), tokenizer)
    return probes.check(folder, "reloaded, transformers", found)


def _outputs(plain: Any, answers: Answers | None) -> Outputs:
    """What a model of transformers says of a batch with padding on the right."""

    def outputs(batch: Mapping[str, Any]) -> np.ndarray:
        tensors = {name: torch.as_tensor(values, device=plain.device) for name, values in batch.items()}
        with torch.no_grad():
            found = plain(**tensors).logits if answers is None else _last_logits(plain, tensors)[:, answers]
        values: np.ndarray = found.float().cpu().numpy()
        return values

    return outputs


def _last_logits(plain: Any, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Logits [B, V] at the last token of each row; those of all tokens of a long text are gigabytes."""
    last = tensors["attention_mask"].sum(1) - 1  # [B]
    places, which = torch.unique(last, return_inverse=True)
    logits: torch.Tensor = plain(**tensors, logits_to_keep=places).logits  # [B, len(places), V]
    return logits[torch.arange(len(which), device=which.device), which]


def _write_texts(folder: Path, collator: RerankerCollator) -> None:
    """The tokenizer, with lengths and template of the run, and how pairs are read and scored."""
    pairs, tokenizer = collator.pairs, copy.deepcopy(collator.tokenizer)
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    tokenizer.model_max_length = pairs.max_length
    if pairs.template is not None:
        tokenizer.chat_template = chat_template(pairs.template, pairs.instruction)
        # Some give token types by default, which a decoder does not know.
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
    replace(collator, pairs=replace(pairs, tokenizer=tokenizer)).save_pretrained(folder)


def _unchecked(reason: str) -> dict[str, Any]:
    return {"cross_encoder_difference": None, "cross_encoder_unchecked": reason}


def _details(collator: RerankerCollator, measured: Mapping[str, Any]) -> dict[str, Any]:
    settings, template = collator.settings, collator.pairs.template
    told = template is not None and template.takes_instruction
    return {
        "scoring": settings.scoring,
        "max_length": settings.max_length,
        "query_max_length": settings.query_max_length,
        "template": settings.template,
        "instruction": settings.instruction if told else None,
        **measured,
    }
