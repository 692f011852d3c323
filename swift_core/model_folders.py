"""Where a model lies: a local folder, or a copy of a hub repository. A local path never asks the network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers

from swift_core.errors import UserError, first_line

if TYPE_CHECKING:
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
    return base_folder_of(folder, args) if is_adapter(folder) else folder


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
        reason = first_line(error)
        if "trust_remote_code" in str(error):
            reason = "the model brings Python code of its own; read it, then set trust_remote_code=true"
        raise UserError(f"model_name_or_path: {folder / 'config.json'} can't be used: {reason}") from error


def load_single_stack_config(
    args: TrainingArguments, *, choose: str = "an encoder or a decoder"
) -> transformers.PreTrainedConfig:
    """The same for a task that does not train encoder-decoders.

    Args:
        args: of the run.
        choose: what it trains, for the error.

    Raises:
        UserError: the model is an encoder-decoder, or see :func:`load_config`.
    """
    config = load_config(args)
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(
            f"model_name_or_path: {args.core.model_name_or_path} is an encoder-decoder "
            f"({config.model_type}), which this task does not train; choose {choose}"
        )
    return config


def saved_dtype(folder: Path) -> str:
    """The type of the weights in ``folder`` as its ``config.json`` tells it, in the words of model_dtype."""
    path = folder / "config.json"
    config = json.loads(path.read_bytes()) if path.exists() else {}
    dtype = config.get("dtype") or config.get("torch_dtype")
    return dtype if dtype in ("float32", "float16", "bfloat16") else "float32"


def is_adapter(folder: Path) -> bool:
    return (folder / "adapter_config.json").exists()


def base_args_of(folder: Path, args: TrainingArguments) -> TrainingArguments:
    path = folder / "adapter_config.json"
    try:
        config = json.loads(path.read_bytes())
        base_name, revision = config["base_model_name_or_path"], config.get("revision")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"model_name_or_path: {path}: expected JSON with base_model_name_or_path, as peft writes it, "
            f"found something else ({type(error).__name__}: {error})"
        ) from error
    # peft writes a revision for local folders too, where it means nothing.
    local = base_name is not None and Path(base_name).expanduser().exists()
    return args.with_model(base_name, None if local else revision)


def base_folder_of(folder: Path, args: TrainingArguments) -> Path:
    base_args = base_args_of(folder, args)
    try:
        base = resolve_model(base_args)
    except UserError as error:
        raise UserError(
            f"{error}\nThat is the base model in {folder / 'adapter_config.json'}: put it there, or write "
            "where it is into base_model_name_or_path"
        ) from error
    if is_adapter(base):
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


def position_limit(folder_config: Any) -> int | None:
    """Longest sequence that the model's position embeddings allow, or None when nothing limits it."""
    limit = getattr(folder_config, "max_position_embeddings", None)
    # XLNet writes -1 for none.
    if limit is None or limit <= 0:
        return None
    # RoBERTa and its family count positions from pad_token_id + 1.
    offset = folder_config.pad_token_id + 1 if folder_config.model_type in _OFFSET_POSITIONS else 0
    return int(limit) - offset


_OFFSET_POSITIONS = frozenset(
    {
        "camembert",
        "data2vec-text",
        "esm",
        "ibert",
        "lilt",
        "longformer",
        "luke",
        "markuplm",
        "mpnet",
        "roberta",
        "roberta-prelayernorm",
        "xlm-roberta",
        "xlm-roberta-xl",
        "xmod",
    }
)
