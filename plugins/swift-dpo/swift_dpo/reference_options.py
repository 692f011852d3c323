"""Options that say how the policy is run, and what the reference is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from swift_core.spec import option

CacheMode = Literal["lazy", "ahead", "off"]


@dataclass(frozen=True, kw_only=True)
class PolicyOptions:
    """How the model in training is run."""

    disable_dropout: bool = option(
        True, help="Turn the model's own dropout off, as TRL does; lora_dropout stays."
    )


@dataclass(frozen=True, kw_only=True)
class ReferenceOptions(PolicyOptions):
    """Which model the policy is compared with, and whether what it says is kept."""

    reference: str | None = option(
        None,
        help="Folder or hub id of the reference, a model or an adapter; default: the model as it was given. "
        "A new LoRA adapter is simply turned off for it; without one a second copy is loaded.",
    )
    reference_cache: CacheMode = option(
        "lazy",
        help="Keep the reference's log-probabilities on disk for later epochs and runs: lazy: as they come "
        "up; ahead: all before the first step, after which no reference is in memory; off: never, as always "
        "with reference_sync_steps.",
    )
    reference_sync_steps: Annotated[int, Ge(1)] | None = option(
        None,
        help="TR-DPO: move the reference towards the policy after each so many steps; not with use_lora. "
        "Default: it stays as it was.",
    )
    reference_mixup_alpha: Annotated[float, Gt(0), Le(1)] = option(
        0.6,
        help="Share of the policy in the weights of the moved reference (reference_sync_steps); 1: a copy.",
    )
