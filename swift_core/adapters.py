"""LoRA through peft: making, loading and merging adapters."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from swift_core.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from swift_core.arguments import TrainingArguments


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
        with known_warnings_of_peft():
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
def known_warnings_of_peft() -> Iterator[None]:
    # peft 0.21 asks models for a name that transformers 5.23 has renamed; not the user's to mend.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        yield
