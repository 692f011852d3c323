"""The policy of a run, with its reference beside it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import transformers
from torch import nn

from swift_core.errors import UserError
from swift_core.flat import FlatState, set_state
from swift_core.flat.forward import transformers_model
from swift_core.model_folders import load_config
from swift_core.models import load_backbone
from swift_dpo.alarm import TrainingAlarm
from swift_dpo.policy import as_policy
from swift_dpo.reference import Reference
from swift_dpo.running import Running

if TYPE_CHECKING:
    from swift_core.arguments import TrainingArguments
    from swift_dpo.arena import Arena


_SHARE = re.compile(r"dropout|_p?drop$|^layerdrop$")


@dataclass
class Memory:
    """What a run keeps beside its policy.

    Attributes:
        reference: see :mod:`swift_dpo.reference`.
        running: what losses remember of earlier batches.
        alarm: tells when the better answers are forgotten.
        arenas: prompts, judge, and what the reference answered, by the fingerprint of the evaluation rows.
    """

    reference: Reference
    running: Running = field(default_factory=Running)
    alarm: TrainingAlarm = field(default_factory=TrainingAlarm)
    arenas: dict[str | None, Arena] = field(default_factory=dict)

    def __deepcopy__(self, memo: dict[int, Any]) -> Memory:
        # A copy of the policy (one with its adapter merged, say) belongs to the same run.
        return self


def build_model(args: TrainingArguments) -> Any:
    """transformers' own causal class, which gives token scores when called with ``flat``.

    Raises:
        UserError: it is no causal language model, or can't be loaded.
    """
    model = _policy(args)
    transformers_model(model).memory = Memory(Reference(args, _policy))
    return model


def memory_of(model: nn.Module) -> Memory:
    """What the run of a policy keeps, however the policy is wrapped."""
    found: Memory = transformers_model(model).memory
    return found


def _policy(args: TrainingArguments) -> Any:
    config = load_config(args)
    if type(config) not in transformers.AutoModelForCausalLM._model_mapping:
        raise UserError(
            f"model_name_or_path: expected a causal language model, found {config.model_type} in "
            f"{args.core.model_name_or_path}"
        )
    model: Any = load_backbone(args, transformers.AutoModelForCausalLM)
    if hasattr(model, "peft_config"):
        # What peft and its users call the task of such an adapter.
        model.peft_config["default"].task_type = "CAUSAL_LM"
    inner = transformers_model(model)
    if args.task.disable_dropout:
        _drop_nothing(model)
    as_policy(inner)
    # The part that runs on flat rows is another one now.
    set_state(model, FlatState(asked=args.core.attn_implementation))
    return model


def _drop_nothing(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if "lora_" in name:
            continue
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        # Some layers are told the share as a number, under names of their own.
        for own, value in vars(module).items():
            if isinstance(value, float) and _SHARE.search(own):
                setattr(module, own, 0.0)
