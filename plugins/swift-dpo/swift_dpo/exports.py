"""The export formats of preference-tuned models."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from peft import PeftConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from swift_core.adapters import known_warnings_of_peft, merge_adapter
from swift_core.errors import SwiftError, UserError
from swift_core.runs.atomic import write_text
from swift_core.saving import finish_saved_folder
from swift_dpo.card import card_of, write_card
from swift_dpo.ends import end_tokens
from swift_dpo.probing import Probes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from swift_core.arguments import TrainingArguments
    from swift_core.data.dataset import TaskData
    from swift_core.runs.record import Run

Writer: TypeAlias = Callable[
    [Path, Any, Any, "TaskData | None", "TrainingArguments", "Run"], Mapping[str, Any]
]
"""Folder, model, collator, training data, options, run -> details of the manifest."""

# Not given, trust_remote_code makes the library ask on the terminal; the answer here is no.
_LOCAL: Mapping[str, Any] = {"local_files_only": True, "trust_remote_code": False}


def write_hf(
    folder: Path, model: Any, collator: Any, data: TaskData | None, args: TrainingArguments, run: Run
) -> Mapping[str, Any]:
    """A folder that ``AutoModelForCausalLM`` and vLLM load, with LoRA merged.

    Raises:
        SwiftError: loaded again, it gives other log-probabilities.
    """
    probes, merged = Probes(model, collator, data), merge_adapter(model)
    merged.save_pretrained(folder)
    _finish_generation_config(folder, merged, collator.tokenizer)
    collator.save_pretrained(folder)
    _check_tokenizer(folder, collator.tokenizer, probes)
    plain = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True, **_LOCAL).to(merged.device)
    return _finished(folder, "hf", "reloaded, transformers", plain, probes, collator, args, run)


def write_adapter(
    folder: Path, model: Any, collator: Any, data: TaskData | None, args: TrainingArguments, run: Run
) -> Mapping[str, Any]:
    """The LoRA adapter alone, as peft loads it onto the base model.

    Raises:
        UserError: the model has no adapter.
        SwiftError: loaded again, it gives other log-probabilities.
    """
    if not isinstance(model, PeftModel):
        raise UserError("export format 'adapter': the run trained all weights; set use_lora, or take 'hf'")
    probes = Probes(model, collator, data)
    with known_warnings_of_peft():
        model.save_pretrained(str(folder))
    finish_saved_folder(folder, args)
    (folder / "README.md").unlink(missing_ok=True)  # peft's, with its blanks
    collator.save_pretrained(folder)
    _check_tokenizer(folder, collator.tokenizer, probes)
    told = PeftConfig.from_pretrained(str(folder))
    parameter = next(model.parameters())
    with known_warnings_of_peft():
        base = AutoModelForCausalLM.from_pretrained(
            told.base_model_name_or_path, dtype=parameter.dtype, revision=told.revision or "main", **_LOCAL
        )
        plain = PeftModel.from_pretrained(base, str(folder)).to(parameter.device)
    return _finished(folder, "adapter", "loaded by peft, it", plain, probes, collator, args, run)


WRITERS: Mapping[str, Writer] = {"hf": write_hf, "adapter": write_adapter}


def format_faults(args: TrainingArguments) -> list[str]:
    """Which of the formats that the options ask for can't be written, known before anything is trained."""
    if "adapter" in args.core.export_formats and not args.core.use_lora:
        return ["export_formats: 'adapter' is for LoRA; set use_lora, or take 'hf'"]
    return []


def _finished(
    folder: Path,
    format: str,
    what: str,
    plain: Any,
    probes: Probes,
    collator: Any,
    args: TrainingArguments,
    run: Run,
) -> Mapping[str, Any]:
    """Compare, write the card, and tell."""
    difference = probes.check(folder, what, plain)
    chat = bool(probes.rows[0].get("chat", collator.tokenizer.chat_template is not None))
    write_card(folder, card_of(format, collator.tokenizer, args, run, chat=chat))
    count = len(probes.expected)
    print(
        f"reloaded  {count:,} answers of {len(probes.rows):,} rows scored again: the largest difference of a "
        f"log-probability is {difference:.2g}",
        flush=True,
    )
    return {"reload_difference": difference, "reload_answers": count, "reload_rows": len(probes.rows)}


def _finish_generation_config(folder: Path, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Name every token that ends an answer: programs that serve the folder stop at these."""
    # The file itself is changed: many published ones hold a temperature and no do_sample, which the library
    # saves as they came, and refuses to save with any change.
    file = folder / "generation_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    ends = end_tokens(model, tokenizer)
    config["eos_token_id"] = ends[0] if len(ends) == 1 else ends
    if config.get("pad_token_id") is None:
        config["pad_token_id"] = tokenizer.pad_token_id
    write_text(file, json.dumps(config, indent=2, sort_keys=True) + "\n")


def _check_tokenizer(folder: Path, tokenizer: PreTrainedTokenizerBase, probes: Probes) -> None:
    """The saved tokenizer gives the ids of the one in memory, and writes messages as that does."""
    saved = AutoTokenizer.from_pretrained(folder, **_LOCAL)
    texts = [tokenizer.decode(features["prompt"]) for features in probes.rows]
    alike = [saved(str(text))["input_ids"] == tokenizer(str(text))["input_ids"] for text in texts]
    if not all(alike) or saved.chat_template != tokenizer.chat_template:
        raise SwiftError(f"{folder}: the saved tokenizer is not that of the run; the folder must not be used")
