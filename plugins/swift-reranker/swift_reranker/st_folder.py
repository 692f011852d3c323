"""Model folders that ``CrossEncoder`` of sentence-transformers and plain transformers both load."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch

from swift_core.errors import SwiftError, UserError
from swift_core.models import without_progress_bars
from swift_reranker.template import Template, chat_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Shape legend: K pairs, N tokens, V vocabulary.

Activation = Literal["Sigmoid", "Identity"]

_TOLERANCE = {torch.float16: 2e-2, torch.bfloat16: 1e-1}
_TOLERANCE_FLOAT32 = 1e-4
"""Largest difference of a raw score, relative to the largest one where that is above 1. Padding sums in
another order, and in 16 bits a difference of two logits is as coarse as the logits are."""

_ACTIVATIONS: dict[Activation, str] = {
    "Sigmoid": "torch.nn.modules.activation.Sigmoid",
    "Identity": "torch.nn.modules.linear.Identity",
}
_PROBE_LENGTH = 8
_PADDING = 5


class Answers(NamedTuple):
    """Ids of the tokens whose logits are compared: the one that speaks for a document comes first."""

    true: int
    false: int


def write_cross_encoder(
    folder: Path,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    template: Template | None = None,
    instruction: str = "",
    answers: Answers | None = None,
    activation: Activation = "Sigmoid",
) -> None:
    """Write weights, tokenizer and configuration into ``folder``.

    Three kinds of model: an encoder with one output, that reads pairs as its tokenizer makes them (no
    ``template``); a decoder with one output, read at the last token of the template's text; a causal language
    model (``answers``), whose score is the logit of one next token less that of another.

    What is longer than ``max_length`` is cut by ``CrossEncoder`` as here: of the document, at its end. Only
    a query that leaves no room for a document is another matter: cut in a template's text, refused for pairs.

    Args:
        model: a transformers model, LoRA merged; it is not changed.
        tokenizer: that of the model; it is not changed.
        max_length: longest pair in tokens.
        activation: what ``CrossEncoder.predict`` puts a raw score through.

    Raises:
        UserError: ``CrossEncoder`` could not give the same scores.
    """
    faults = cross_encoder_faults(model, tokenizer, template=template, answers=answers)
    if faults:
        raise UserError(*faults)
    with without_progress_bars():
        model.save_pretrained(folder)
    _write_tokenizer(folder, tokenizer, max_length, template, instruction)
    config = _read(folder / "config.json")
    path = _ACTIVATIONS[activation]
    # Read by sentence-transformers 4 and 5, and by vLLM; version 6 reads the same in its own file first.
    config["sentence_transformers"] = {"activation_fn": path}
    _write(folder / "config.json", config)
    _write(
        folder / "config_sentence_transformers.json",
        {
            "model_type": "CrossEncoder",
            "prompts": {},
            "default_prompt_name": None,
            "activation_fn": path,
        },
    )
    _write(folder / "sentence_bert_config.json", _transformer(template, answers))
    _write_modules(folder, answers)


def cross_encoder_faults(
    model: Any, tokenizer: PreTrainedTokenizerBase, *, template: Template | None, answers: Answers | None
) -> list[str]:
    """Why ``CrossEncoder`` would give other scores than the model does without padding; none: it does not.

    Encoders that count positions from the padding token, and decoders padded on the right, are fine.
    """
    faults = []
    if answers is not None and template is None:
        faults.append("template: expected one for a causal language model, found none")
    if answers is None and model.config.num_labels != 1:
        faults.append(f"model: expected one output, found {model.config.num_labels}")
    if tokenizer.pad_token_id is None:
        faults.append("tokenizer: expected a padding token, found none; set tokenizer.pad_token")
    elif answers is None and template is not None:
        faults += _head_faults(model, tokenizer, template)
    if not faults and answers is not None and _left_padding_matters(model, tokenizer):
        faults.append(
            f"model: {type(model).__name__} counts positions from the left, padding included, and "
            "CrossEncoder pads causal language models on the left, so its scores would depend on the batch; "
            "train with scoring=head, or choose another model"
        )
    return faults


def _head_faults(model: Any, tokenizer: PreTrainedTokenizerBase, template: Template) -> list[str]:
    """Why transformers would read another token than the last one of a text."""
    padding: int | None = model.config.get_text_config().pad_token_id
    if padding != tokenizer.pad_token_id:
        return [
            f"model: expected pad_token_id {tokenizer.pad_token_id} in its config, as its tokenizer has it, "
            f"found {padding}; transformers would read the score at a padding token"
        ]
    ids = tokenizer(template.render("0", "0"), add_special_tokens=False)["input_ids"]
    if ids[-1] != padding:
        return []
    return [
        f"template: it ends with {tokenizer.pad_token!r}, which is also the padding token, and transformers "
        "reads the score at the last token that is none; end the template with something else"
    ]


def _left_padding_matters(model: Any, tokenizer: PreTrainedTokenizerBase) -> bool:
    device = next(model.parameters()).device
    row = torch.arange(1, _PROBE_LENGTH + 1, device=device)[None]  # [1, N]
    padding = torch.full((1, _PADDING), int(tokenizer.pad_token_id), device=device)
    mask = torch.ones_like(row)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        alone = model(input_ids=row, attention_mask=mask).logits[0, -1].float()  # [V]
        padded = model(
            input_ids=torch.cat([padding, row], dim=1),
            attention_mask=torch.cat([torch.zeros_like(padding), mask], dim=1),
        ).logits[0, -1]
    model.train(was_training)
    return bool((alone - padded.float()).abs().max() > _allowed(model.dtype, alone.abs().max()))


def _write_tokenizer(
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    template: Template | None,
    instruction: str,
) -> None:
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.model_max_length = max_length
    # CrossEncoder turns it to the left itself for a causal language model.
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    if template is not None:
        tokenizer.chat_template = chat_template(template, instruction)
        # Some give token types by default, which a decoder does not know.
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.save_pretrained(folder)


def _transformer(template: Template | None, answers: Answers | None) -> dict[str, Any]:
    reads = {"method": "forward", "method_output_name": "logits"}
    found: dict[str, Any] = {
        "transformer_task": "sequence-classification" if answers is None else "text-generation",
        "modality_config": {"text": reads},
        "module_output_name": "scores" if answers is None else "causal_logits",
    }
    if template is None:
        # Not given, the longer of both texts is cut.
        found["processing_kwargs"] = {"text": {"truncation": "only_second"}}
    else:
        # "flat": as parts of a message, a query that is the address of a picture would be lost.
        found["modality_config"]["message"] = {**reads, "format": "flat"}
    return found


def _write_modules(folder: Path, answers: Answers | None) -> None:
    modules = [("", "sentence_transformers.base.modules.transformer.Transformer")]
    if answers is not None:
        modules.append(("1_LogitScore", "sentence_transformers.cross_encoder.modules.logit_score.LogitScore"))
        _write(
            folder / "1_LogitScore" / "config.json",
            {
                "true_token_id": answers.true,
                "false_token_id": answers.false,
                "module_input_name": "causal_logits",
            },
        )
    _write(
        folder / "modules.json",
        [
            {"idx": number, "name": str(number), "path": path, "type": kind}
            for number, (path, kind) in enumerate(modules)
        ],
    )


def check_cross_encoder(
    folder: Path,
    expected_scores: np.ndarray,
    pairs: Sequence[tuple[str, str]],
    *,
    device: torch.device | str = "cpu",
) -> float | None:
    """Load ``folder`` as users of sentence-transformers do, and compare: pairs in a batch, and each alone.

    Args:
        expected_scores: [K] raw scores (before the activation) of the model in memory.
        pairs: K queries with a document.

    Returns:
        The largest difference of a raw score; None, with a warning that says so, where sentence-transformers
        6 or later is not installed, which the folder needs.

    Raises:
        SwiftError: it is too large.
    """
    if find_spec("sentence_transformers") is None or find_spec("sentence_transformers.base") is None:
        warnings.warn(
            f"{folder} was not checked: sentence-transformers 6 or later is not installed", stacklevel=2
        )
        return None
    from sentence_transformers import CrossEncoder

    with without_progress_bars():
        encoder = CrossEncoder(
            str(folder), device=str(device), local_files_only=True, trust_remote_code=False
        )
    given = [list(pair) for pair in pairs]
    found = [
        encoder.predict(given, batch_size=size, activation_fn=torch.nn.Identity(), show_progress_bar=False)
        for size in (len(given), 1)
    ]
    expected = np.asarray(expected_scores, dtype=np.float64)
    # NaN stays NaN in a maximum.
    difference = float(np.max([np.abs(scores - expected).max() for scores in found]))
    allowed = _allowed(next(encoder.parameters()).dtype, float(np.abs(expected).max()))
    if not difference <= allowed:
        raise SwiftError(
            f"{folder}: reloaded, CrossEncoder gives other scores than the model in memory: they differ by "
            f"{difference:.2g}, expected at most {allowed:.2g}; the folder must not be used"
        )
    return difference


def _allowed(dtype: torch.dtype, largest: Any) -> float:
    return _TOLERANCE.get(dtype, _TOLERANCE_FLOAT32) * max(1.0, float(largest))


def vllm_overrides(
    model: Any, tokenizer: PreTrainedTokenizerBase, answers: Answers | None
) -> dict[str, Any] | None:
    """What ``vllm serve`` needs as ``--hf-overrides`` for a generative reranker; None where it can't score.

    vLLM makes one row of the vocabulary head, that of yes less that of no, which it does for Qwen3 only. It
    leaves the tokenizer's chat template alone: ``--chat-template FOLDER/chat_template.jinja`` goes with it.
    """
    if answers is None or model.config.model_type != "qwen3":
        return None
    tokens = tokenizer.convert_ids_to_tokens([answers.false, answers.true])
    # It looks the names up again.
    if tokenizer.convert_tokens_to_ids(tokens) != [answers.false, answers.true]:
        return None
    return {
        "architectures": ["Qwen3ForSequenceClassification"],
        "classifier_from_token": list(tokens),
        "is_original_qwen3_reranker": True,
    }


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
