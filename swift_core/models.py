"""Finding, loading and adapting models: what ``make_model`` and ``make_collator`` build on.

A local path never asks the network. Remote code and pickled weights are loaded only when an option asks for
them by name.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from safetensors import SafetensorError

from swift_core.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from swift_core.arguments import TrainingArguments

_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.tiktoken"]


def resolve_model(args: TrainingArguments) -> Path:
    """Return the local folder of ``args.core.model_name_or_path``, downloading a hub model when needed.

    Raises:
        UserError: no model is named, the folder holds none, or the hub can't be reached.
    """
    name = args.core.model_name_or_path
    if not name:
        raise UserError(
            "model_name_or_path: expected a local folder or a hub id such as BAAI/bge-small-zh-v1.5, "
            "found nothing"
        )
    local = _local_model(name)
    if local is not None and args.core.model_revision is not None:
        raise UserError(f"model_revision: has no effect on the local folder {name}; remove it")
    return local or _hub_model(name, args)


def config_folder(args: TrainingArguments) -> Path:
    """The folder with the model's ``config.json``: that of the base model when an adapter is named."""
    folder = resolve_model(args)
    return _base_folder(folder, args) if _is_adapter(folder) else folder


def load_config(args: TrainingArguments) -> transformers.PreTrainedConfig:
    """Load the configuration of the run's model, or of the base model when an adapter is named.

    Raises:
        UserError: there is none, or transformers can't read it.
    """
    folder = config_folder(args)
    try:
        return transformers.AutoConfig.from_pretrained(  # type: ignore[no-any-return]
            folder, local_files_only=True, trust_remote_code=args.core.trust_remote_code
        )
    except Exception as error:  # what is wrong with a file shows in many ways
        reason = _first_line(error)
        if "trust_remote_code" in str(error):
            reason = "the model brings Python code of its own; read it, then set trust_remote_code=true"
        raise UserError(f"model_name_or_path: {folder / 'config.json'} can't be used: {reason}") from error


def _is_adapter(folder: Path) -> bool:
    return (folder / "adapter_config.json").exists()


def _base_args(folder: Path, args: TrainingArguments) -> TrainingArguments:
    path = folder / "adapter_config.json"
    try:
        base_name = json.loads(path.read_bytes())["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"model_name_or_path: {path}: expected JSON with base_model_name_or_path, as peft writes it, "
            f"found something else ({type(error).__name__}: {error})"
        ) from error
    return args.with_model(base_name)


def _base_folder(folder: Path, args: TrainingArguments) -> Path:
    base_args = _base_args(folder, args)
    try:
        base = resolve_model(base_args)
    except UserError as error:
        raise UserError(
            f"{error}\nThat is the base model in {folder / 'adapter_config.json'}: put it there, or write "
            "where it is into base_model_name_or_path"
        ) from error
    if _is_adapter(base):
        raise UserError(
            f"model_name_or_path: the base model of the adapter {folder} is {base}, an adapter again; merge "
            "that one into its own base model first"
        )
    return base


def _local_model(name: str) -> Path | None:
    path = Path(name).expanduser()
    if path.is_dir():
        if (path / "config.json").exists() or (path / "adapter_config.json").exists():
            return path
        raise UserError(
            f"model_name_or_path: the folder {name} holds neither config.json nor adapter_config.json; "
            "name the folder that save_pretrained wrote"
        )
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1 or path.exists():
        raise UserError(f"model_name_or_path: there is no folder {name}; check the path")
    return None


def _hub_model(name: str, args: TrainingArguments) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

    patterns = list(_HUB_FILES)
    if args.core.allow_pickle:
        patterns.append("*.bin")
    if args.core.trust_remote_code:
        patterns.append("*.py")
    try:
        return Path(snapshot_download(name, revision=args.core.model_revision, allow_patterns=patterns))
    except HFValidationError as error:
        raise UserError(f"model_name_or_path: {name!r} is neither a folder here nor a hub id") from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"model_name_or_path: there is no folder {name} here and the hub knows no model of that name "
            "(a private one needs `hf auth login`)"
        ) from error
    except (LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"model_name_or_path: there is no folder {name} here, it is not in the local cache, and the hub "
            "can't be reached; give a local path, or download it where there is a network: "
            f"hf download {name}"
        ) from error


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
            f"({_first_line(error)})"
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


def load_backbone(args: TrainingArguments, auto_class: Any) -> PreTrainedModel | Any:
    """Load the run's model through ``auto_class`` and give it a LoRA adapter when the run asks for one.

    A folder that holds an adapter is loaded onto its base model: it goes on training when ``use_lora`` is
    set, and is merged into the weights when it is not.

    Raises:
        UserError: the weights are pickled and not asked for, or can't be loaded.
    """
    folder = resolve_model(args)
    if not _is_adapter(folder):
        model = _load_weights(folder, args, auto_class)
        return add_lora(model, args) if args.core.use_lora else model
    base = _load_weights(_base_folder(folder, args), _base_args(folder, args), auto_class)
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
        with _known_warnings_of_peft():
            return PeftModel.from_pretrained(base, str(folder), is_trainable=args.core.use_lora)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"model_name_or_path: the adapter {folder} can't be loaded: {_first_line(error)}"
        ) from error


def _load_weights(folder: Path, args: TrainingArguments, auto_class: Any) -> PreTrainedModel:
    pickled = _refuse_pickle(folder, args)
    try:
        model, info = auto_class.from_pretrained(
            folder,
            dtype=getattr(torch, args.core.model_dtype),
            attn_implementation=args.core.attn_implementation,
            trust_remote_code=args.core.trust_remote_code,
            use_safetensors=not pickled,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        reason = _first_line(error)
        if isinstance(error, SafetensorError):
            reason = f"its weights are damaged ({reason}); was the copy or download cut short?"
        elif "ignore_mismatched_sizes" in reason:
            reason = "its weights have other shapes than its config.json says"
        raise UserError(
            f"model_name_or_path: {args.core.model_name_or_path} can't be loaded: {reason}"
        ) from error
    _refuse_random_weights(model, info["missing_keys"], args)
    return model  # type: ignore[no-any-return]


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


def add_lora(model: PreTrainedModel, args: TrainingArguments) -> Any:
    """Wrap ``model`` with the LoRA adapter that the run's options describe (Hu et al. 2021).

    The adapter is keyed to the class that users load (no wrapper in between), so that plain peft applies it.
    """
    from peft import LoraConfig, get_peft_model

    core = args.core
    config = LoraConfig(
        r=core.lora_rank,
        lora_alpha=core.resolved_lora_alpha,
        lora_dropout=core.lora_dropout,
        target_modules=core.lora_target_modules,
    )
    # peft is content when one of several names fits.
    names = [f".{name}" for name, _ in model.named_modules()]
    targets = core.lora_target_modules if isinstance(core.lora_target_modules, list) else []
    unfit = [target for target in targets if not any(name.endswith(f".{target}") for name in names)]
    if unfit:
        raise UserError(_unfit_targets(model, unfit))
    try:
        with _known_warnings_of_peft():
            return get_peft_model(model, config)
    except (ValueError, re.error) as error:
        raise UserError(_unfit_targets(model, core.lora_target_modules)) from error


def _unfit_targets(model: PreTrainedModel, targets: str | list[str]) -> str:
    linear = {name.rsplit(".", 1)[-1] for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    return (
        f"lora_target_modules: {targets!r} fits no module of the model; its linear modules are "
        f"{', '.join(sorted(linear))}"
    )


def merge_adapter(model: Any) -> Any:
    """Return ``model`` itself, or for a LoRA model a copy with the adapter merged into the weights.

    The model given is not changed.
    """
    import copy

    from peft import PeftModel

    if not isinstance(model, PeftModel):
        return model
    return copy.deepcopy(model).merge_and_unload()


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


@contextmanager
def _known_warnings_of_peft() -> Iterator[None]:
    # peft 0.21 asks models for a name that transformers 5.23 has renamed; not the user's to mend.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        yield


def position_limit(folder_config: Any) -> int | None:
    """Longest sequence that the model's position embeddings allow, or None when nothing limits it."""
    limit = getattr(folder_config, "max_position_embeddings", None)
    if limit is None:
        return None
    # RoBERTa and its family count positions from pad_token_id + 1.
    offset = folder_config.pad_token_id + 1 if folder_config.model_type in _OFFSET_POSITIONS else 0
    return int(limit) - offset


_OFFSET_POSITIONS = frozenset(
    {"roberta", "xlm-roberta", "camembert", "xlm-roberta-xl", "roberta-prelayernorm", "mpnet", "longformer"}
)


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:300]
