"""LoRA through peft: making, loading and merging adapters."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from swift_core.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from swift_core.arguments import TrainingArguments


def add_lora(
    model: PreTrainedModel,
    args: TrainingArguments,
    task_type: str | None = None,
    fresh: Collection[str] = (),
) -> Any:
    """Wrap ``model`` with the LoRA adapter that the run's options describe (Hu et al. 2021).

    The adapter is keyed to the class that users load (no wrapper in between), so that plain peft applies it.
    What lies outside the base model gets no LoRA matrices: it is trained in full and saved with the adapter.

    Args:
        task_type: what peft calls the task; None for a model without a head.
        fresh: weights below the head that no file had (a pooler's, say) and that the head reads: who loads
            the adapter would get others.
    """
    from peft import LoraConfig, get_peft_model

    core = args.core
    heads = [] if task_type is None else [*head_modules(model), *_modules_of(fresh, model)]
    config = LoraConfig(
        r=core.lora_rank,
        lora_alpha=core.resolved_lora_alpha,
        lora_dropout=core.lora_dropout,
        target_modules=core.lora_target_modules,
        task_type=task_type,
        modules_to_save=heads or None,
        exclude_modules=rf"({'|'.join(map(re.escape, heads))})(\..*)?" if heads else None,
    )
    # peft is content when one of several names fits.
    names = [f".{name}" for name, _ in model.named_modules()]
    targets = core.lora_target_modules if isinstance(core.lora_target_modules, list) else []
    unfit = [target for target in targets if not any(name.endswith(f".{target}") for name in names)]
    if unfit:
        raise UserError(_unfit_targets(model, unfit))
    try:
        with known_warnings_of_peft():
            return get_peft_model(model, config)
    except (ValueError, re.error) as error:
        raise UserError(_unfit_targets(model, core.lora_target_modules)) from error


def _modules_of(weights: Collection[str], model: PreTrainedModel) -> list[str]:
    below = f"{model.base_model_prefix}."
    return sorted({name.rpartition(".")[0] for name in weights if name.startswith(below)})


def head_modules(model: PreTrainedModel) -> list[str]:
    """Names of the modules with weights that lie beside the base model."""
    return [
        name
        for name, module in model.named_children()
        if name != model.base_model_prefix and any(True for _ in module.parameters())
    ]


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
def known_warnings_of_peft() -> Iterator[None]:
    # peft 0.21 asks models for a name that transformers 5.23 has renamed; not the user's to mend.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        yield
