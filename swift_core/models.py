"""Loading models and tokenizers: what ``make_model`` and ``make_collator`` build on.

Remote code and pickled weights are loaded only when an option asks for them by name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from safetensors import SafetensorError, safe_open

from swift_core.adapters import add_lora, known_warnings_of_peft
from swift_core.errors import UserError, first_line
from swift_core.flat import FlatState, set_state
from swift_core.model_folders import (
    base_args_of,
    base_folder_of,
    config_folder,
    is_adapter,
    load_config,
    resolve_model,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from swift_core.arguments import TrainingArguments


def load_tokenizer(args: TrainingArguments) -> PreTrainedTokenizerBase:
    """Load the tokenizer of the run's model; without a padding token of its own it pads with the end one."""
    # A config that can't be read would be told as a fault of the tokenizer.
    load_config(args)
    folder = resolve_model(args)
    if not any((folder / name).exists() for name in ("tokenizer_config.json", "tokenizer.json")):
        folder = config_folder(args)  # peft saves an adapter alone
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=args.core.trust_remote_code
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"model_name_or_path: {args.core.model_name_or_path} has no tokenizer that can be loaded "
            f"({first_line(error)})"
        ) from error
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        # Without its files the library makes an empty one, to which every word is unknown.
        raise UserError(
            f"model_name_or_path: {args.core.model_name_or_path} has no tokenizer; copy its files "
            "(tokenizer.json, tokenizer_config.json) into that folder"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise UserError(
            f"model_name_or_path: the tokenizer of {args.core.model_name_or_path} has neither a padding nor "
            "an end token; set pad_token in its tokenizer_config.json"
        )
    return tokenizer


@dataclass(frozen=True, kw_only=True)
class Head:
    """What a task builds on top of a model.

    Attributes:
        config: the model's configuration with what the head needs (the number of labels, say).
        prepare: called with the loaded model before it gets an adapter, to change it in place.
        task_type: what peft calls the task.
    """

    config: transformers.PreTrainedConfig
    prepare: Callable[[PreTrainedModel], None]
    task_type: str


def load_backbone(
    args: TrainingArguments, auto_class: Any, head: Head | None = None
) -> PreTrainedModel | Any:
    """Load the run's model through ``auto_class`` and give it a LoRA adapter when the run asks for one.

    A folder that holds an adapter is loaded onto its base model: it goes on training when ``use_lora`` is
    set, and is merged into the weights when it is not. What lies outside the base model is the head: it may
    start at random, is trained in full, and is saved beside the adapter.

    Raises:
        UserError: the weights are pickled and not asked for, or can't be loaded.
    """
    folder = resolve_model(args)
    if not is_adapter(folder):
        model, fresh = _load_weights(folder, args, auto_class, head)
        task_type = None if head is None else head.task_type
        return add_lora(model, args, task_type, fresh) if args.core.use_lora else model
    base, _ = _load_weights(base_folder_of(folder, args), base_args_of(folder, args), auto_class, head)
    adapted = _load_adapter(base, folder, args)
    # Loading an adapter freezes the weights below it.
    return adapted if args.core.use_lora else adapted.merge_and_unload().requires_grad_(True)


def _load_adapter(base: PreTrainedModel, folder: Path, args: TrainingArguments) -> Any:
    from peft import PeftModel

    if not any(folder.glob("adapter_model.*")):
        # peft would look for it on the hub.
        raise UserError(
            f"model_name_or_path: the adapter {folder} has no weights (adapter_model.safetensors)"
        )
    _refuse_pickle(folder, args)
    try:
        with known_warnings_of_peft():
            return PeftModel.from_pretrained(base, str(folder), is_trainable=args.core.use_lora)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"model_name_or_path: the adapter {folder} can't be loaded: {' '.join(str(error).split())[:300]}"
        ) from error


def _load_weights(
    folder: Path, args: TrainingArguments, auto_class: Any, head: Head | None
) -> tuple[PreTrainedModel, set[str]]:
    """The model, and the names of its weights that no file had."""
    pickled = _refuse_pickle(folder, args)
    # A head for other labels has other shapes; what is below it is looked at further down.
    more = {} if head is None else {"config": head.config, "ignore_mismatched_sizes": True}
    try:
        with _without_load_report() if head is not None else nullcontext():
            model, info = auto_class.from_pretrained(
                folder,
                **more,
                dtype=getattr(torch, args.core.model_dtype),
                attn_implementation=args.core.attn_implementation,
                trust_remote_code=args.core.trust_remote_code,
                use_safetensors=not pickled,
                local_files_only=True,
                output_loading_info=True,
            )
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        reason = first_line(error)
        if isinstance(error, SafetensorError):
            reason = f"its weights are damaged ({reason}); was the copy or download cut short?"
        elif "ignore_mismatched_sizes" in reason:
            reason = "its weights have other shapes than its config.json says"
        raise UserError(
            f"model_name_or_path: {args.core.model_name_or_path} can't be loaded: {reason}"
        ) from error
    fresh = {*info["missing_keys"], *(entry[0] for entry in info["mismatched_keys"])}
    _refuse_random_weights(model, fresh, args)
    if head is not None:
        head.prepare(model)
        _restore_precision(model, folder, getattr(torch, args.core.model_dtype))
    set_state(model, FlatState(asked=args.core.attn_implementation))
    return model, fresh


@torch.no_grad()
def _restore_precision(model: PreTrainedModel, folder: Path, dtype: torch.dtype) -> None:
    """Give weights that a task holds in float32 back the digits that loading them as ``dtype`` took."""
    finer = {name: p for name, p in model.named_parameters() if p.dtype == torch.float32 != dtype}
    for path in sorted(folder.glob("*.safetensors")) if finer else ():
        with safe_open(path, "pt") as stored:
            for name in finer.keys() & set(stored.keys()):
                weight = stored.get_tensor(name)
                # One that was started afresh is another one.
                if weight.shape == finer[name].shape and torch.equal(weight.to(dtype), finer[name].to(dtype)):
                    finer[name].copy_(weight)


def _refuse_pickle(folder: Path, args: TrainingArguments) -> bool:
    """Whether ``folder`` has only pickled weights."""
    pickled = any(folder.glob("*.bin")) and not any(folder.glob("*.safetensors"))
    if pickled and not args.core.allow_pickle:
        raise UserError(
            f"model_name_or_path: {folder} has only pickled weights (.bin), which may run code when they are "
            "loaded; convert them to safetensors, or set allow_pickle=true if you trust them"
        )
    return pickled


def _refuse_random_weights(model: PreTrainedModel, missing: Collection[str], args: TrainingArguments) -> None:
    """A head may start at random, and a pooler; what is below them must come from a file."""
    body = "" if model.base_model is model else f"{model.base_model_prefix}."
    lost = sorted(name for name in missing if name.startswith(body) and "pooler" not in name)
    if lost:
        raise UserError(
            f"model_name_or_path: the weights of {args.core.model_name_or_path} lack {len(lost)} that its "
            f"config.json asks for ({', '.join(lost[:3])}), which would start at random; are files missing, "
            "or do the weights belong to another config.json?"
        )


@contextmanager
def _without_load_report() -> Iterator[None]:
    """That a head starts at random is what a task is for; what else is missing is refused."""
    level = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        transformers.utils.logging.set_verbosity(level)


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Load and save without the library's progress bars: a check behind the scenes is no news."""
    shown = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            transformers.utils.logging.enable_progress_bar()  # type: ignore[no-untyped-call]
