"""The options of the core itself; those of the training loop are ``transformers.TrainingArguments``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Lt, MinLen

from swift_core.spec import option


@dataclass(frozen=True, kw_only=True)
class CoreOptions:
    """Model, data, LoRA and saving, the same for every task type."""

    labels: str | None = option(
        None,
        help="Path or https address of the labels file; default: SWIFT_LABELS, else labels.toml beside the "
        "run file or above it.",
    )
    despite_gates: bool = option(
        False, help="Export a model also when its run failed the gates of its label."
    )

    model_name_or_path: str | None = option(None, help="Local folder or hub id of the model to start from.")
    model_revision: str | None = option(None, help="Branch, tag or commit of a hub model.")
    model_dtype: Literal["float32", "bfloat16", "float16"] = option(
        "float32", help="Type that the weights are held and trained in; for mixed precision use bf16/fp16."
    )
    attn_implementation: str | None = option(
        None, help="Attention of transformers to use, such as sdpa, eager or flash_attention_2."
    )
    trust_remote_code: bool = option(
        False, help="Run Python code that comes with the model. Only for a model whose authors you trust."
    )
    allow_pickle: bool = option(
        False, help="Load pickled weights (.bin) when a model has no safetensors file."
    )
    max_length: Annotated[int, Gt(0)] | None = option(
        None, help="Longest text in tokens, special tokens included; default: what the model can take."
    )

    max_tokens_per_batch: Annotated[int, Gt(0)] | None = option(
        None,
        help="Fill the training batches of a device up to so many tokens, with as many rows as fit; "
        "per_device_train_batch_size, where it is given too, is the largest number of rows.",
    )
    sequence_parallel_size: Annotated[int, Gt(0)] = option(
        1,
        help="So many processes share the tokens of each training batch, for texts too long for one of them; "
        "must divide the number of processes and that of the model's attention heads.",
    )

    dataset: str | list[str] | None = option(
        None, help="Training data: jsonl, csv or parquet files (local or URL), a folder, or a hub id."
    )
    eval_dataset: str | list[str] | None = option(None, help="Evaluation data, in the same forms as dataset.")
    eval_split: Annotated[float, Gt(0), Lt(1)] | None = option(
        None, help="Share of the training rows to hold out for evaluation (drawn with seed)."
    )
    early_stopping_patience: Annotated[int, Gt(0)] | None = option(
        None,
        help="Stop after so many evaluations in a row without a better figure of metric_for_best_model.",
    )
    dataset_config: str | None = option(None, help="Configuration name of a hub data set.")
    dataset_split: str = option("train", help="Split of a hub data set or folder to train on.")
    eval_dataset_split: str = option("test", help="Split of a hub data set or folder to evaluate on.")
    columns: dict[str, str] = option(
        dict, help="Names in the data for the task's columns, such as {query: question}."
    )
    cache_dir: str | None = option(
        None, help="Folder for tokenised data; default: swift/ in the Hugging Face cache."
    )

    extensions: dict[str, dict[str, Any]] = option(
        dict,
        help="Extensions of this run and their options, such as {slow-steps: {seconds: 2}}; the first stands "
        "around the others.",
    )

    use_lora: bool = option(False, help="Train a LoRA adapter instead of all weights.")
    lora_rank: Annotated[int, Gt(0)] = option(16, help="Rank r of the LoRA matrices.")
    lora_alpha: Annotated[float, Gt(0)] | None = option(
        None, help="Scale of the LoRA update (alpha / rank); default: twice the rank."
    )
    lora_dropout: Annotated[float, Ge(0), Lt(1)] = option(
        0.0, help="Dropout on the input of the LoRA matrices."
    )
    lora_target_modules: str | list[str] = option(
        "all-linear", help="Modules that get LoRA matrices: names, a regular expression, or all-linear."
    )

    export_formats: list[str] = option(list, help="Formats to export when training has finished.")
    verify_saves: bool = option(
        True, help="Reload what is saved once and compare it with the model in memory."
    )

    def __post_init__(self) -> None:
        if self.eval_dataset is not None and self.eval_split is not None:
            raise ValueError("eval_split and eval_dataset both name evaluation data: give one of them")

    @property
    def resolved_lora_alpha(self) -> float:
        """``lora_alpha``, or twice the rank."""
        return 2.0 * self.lora_rank if self.lora_alpha is None else self.lora_alpha


CORE_DEFAULTS: dict[str, Any] = {
    # The trainer's own default would print nothing in a short run.
    "logging_steps": 10,
    # Features are the task's own; the library would look for them in the signature of model.forward.
    "remove_unused_columns": False,
    "output_dir": "output",
}
"""Defaults that differ from those of ``transformers.TrainingArguments``."""

_Count = Annotated[int, Gt(0)]
_Seed = Annotated[int, Ge(0), Lt(2**32)]

TRAINER_LIMITS: dict[str, Any] = {
    "per_device_train_batch_size": _Count,
    "per_device_eval_batch_size": _Count,
    "gradient_accumulation_steps": _Count,
    "learning_rate": Annotated[float, Ge(0)],
    "weight_decay": Annotated[float, Ge(0)],
    "max_grad_norm": Annotated[float, Ge(0)],
    "num_train_epochs": Annotated[float, Gt(0)],
    "max_steps": Literal[-1] | _Count,
    "seed": _Seed,
    "data_seed": _Seed | None,
    "dataloader_num_workers": Annotated[int, Ge(0)],
    "output_dir": Annotated[str, MinLen(1)],
    "log_level": Literal["detail", "debug", "info", "warning", "error", "critical", "passive"],
}
"""Narrower types for options of the library, which fails on the rest later, or ignores it."""
