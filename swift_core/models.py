"""Finding, loading and adapting models: what ``make_model`` and ``make_collator`` build on.

A local path never asks the network. Remote code and pickled weights are loaded only when an option asks for
them by name.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

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
    return _local_model(name) or _hub_model(name, args)


def config_folder(args: TrainingArguments) -> Path:
    """The folder with the model's ``config.json``: that of the base model when an adapter is named."""
    folder = resolve_model(args)
    return resolve_model(_base_args(folder, args)) if _is_adapter(folder) else folder


def _is_adapter(folder: Path) -> bool:
    return (folder / "adapter_config.json").exists()


def _base_args(folder: Path, args: TrainingArguments) -> TrainingArguments:
    base_name = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    return args.with_model(base_name)


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
    folder = resolve_model(args)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=args.core.trust_remote_code
        )
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"model_name_or_path: {args.core.model_name_or_path} has no tokenizer that can be loaded "
            f"({_first_line(error)})"
        ) from error
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
    base_args = _base_args(folder, args)
    base = _load_weights(resolve_model(base_args), base_args, auto_class)
    from peft import PeftModel

    with _known_warnings_of_peft():
        adapted: Any = PeftModel.from_pretrained(base, str(folder), is_trainable=args.core.use_lora)
    return adapted if args.core.use_lora else adapted.merge_and_unload()


def _load_weights(folder: Path, args: TrainingArguments, auto_class: Any) -> PreTrainedModel:
    pickled = any(folder.glob("*.bin")) and not any(folder.glob("*.safetensors"))
    if pickled and not args.core.allow_pickle:
        raise UserError(
            f"model_name_or_path: {args.core.model_name_or_path} has only pickled weights (.bin), which may "
            "run code when they are loaded; convert them to safetensors, or set allow_pickle=true if you "
            "trust them"
        )
    try:
        return auto_class.from_pretrained(  # type: ignore[no-any-return]
            folder,
            dtype=getattr(torch, args.core.model_dtype),
            attn_implementation=args.core.attn_implementation,
            trust_remote_code=args.core.trust_remote_code,
            use_safetensors=not pickled,
            local_files_only=True,
        )
    except (OSError, ValueError, ImportError) as error:
        raise UserError(
            f"model_name_or_path: {args.core.model_name_or_path} can't be loaded: {_first_line(error)}"
        ) from error


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
    try:
        with _known_warnings_of_peft():
            return get_peft_model(model, config)
    except ValueError as error:
        linear = sorted(
            {name.rsplit(".", 1)[-1] for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
        )
        raise UserError(
            f"lora_target_modules: {core.lora_target_modules!r} fits no module of the model; its linear "
            f"modules are {', '.join(linear)}"
        ) from error


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
    # peft 0.21 asks models for a name that transformers 5.23 has renamed; harmless, and not the user's to mend.
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
