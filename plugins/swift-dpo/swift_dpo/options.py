"""The options of the task types ``dpo``, ``cpo``, ``simpo``, ``orpo`` and ``kto``: their losses.

The properties of each class say what the loss needs of the batch and of the forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen

from swift_core.spec import option
from swift_dpo.arena_options import ArenaOptions
from swift_dpo.data_options import DataOptions
from swift_dpo.reference_options import PolicyOptions, ReferenceOptions

DpoLoss = Literal[
    "sigmoid",
    "sigmoid_norm",
    "ipo",
    "hinge",
    "robust",
    "exo_pair",
    "nca_pair",
    "bco_pair",
    "sppo_hard",
    "aot",
    "aot_unpaired",
    "apo_zero",
    "apo_down",
    "discopop",
    "sft",
]
CpoLoss = Literal["sigmoid", "hinge", "ipo"]
KtoLoss = Literal["kto", "apo_zero_unpaired"]
FDivergence = Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"]

Smoothing = Annotated[float, Ge(0), Lt(0.5)]


@dataclass(frozen=True, kw_only=True)
class DpoOptions(DataOptions, ReferenceOptions, ArenaOptions):
    """Loss and its weights for ``dpo``, which holds on to a reference."""

    loss: DpoLoss | Annotated[list[DpoLoss], MinLen(1)] = option(
        "sigmoid",
        help="One loss, or a list to add up (see loss_weights); docs/preference-losses.md has the formulas.",
    )
    loss_weights: list[Annotated[float, Gt(0)]] | None = option(
        None,
        help="What each loss of the list weighs; default: 1. MPO is [sigmoid, bco_pair, sft] with "
        "[0.8, 0.2, 1], RPO is [sigmoid, sft].",
    )
    beta: Annotated[float, Gt(0)] = option(
        0.1, help="How strongly the policy is held to the reference; in ipo the paper's tau."
    )
    label_smoothing: Smoothing | None = option(
        None,
        help="Share of pairs whose order is thought to be wrong; default: 0, robust 0.1, exo_pair 0.001.",
    )
    f_divergence: FDivergence = option(
        "reverse_kl", help="The divergence from the reference that is kept small; reverse_kl is DPO."
    )
    f_alpha: float | None = option(None, help="Alpha of f_divergence: alpha_divergence; default: 0.5.")
    ld_alpha: Annotated[float, Ge(0), Le(1)] | None = option(
        None,
        help="LD-DPO: what the tokens of the longer answer weigh beyond the length of the shorter one; "
        "default: 1, as all others.",
    )
    wpo: bool = option(
        False,
        help="WPO: weigh each pair by how likely the policy itself is to write its two answers.",
    )
    discopop_tau: Annotated[float, Gt(0), Le(1)] | None = option(
        None, help="Temperature of discopop; default: 0.05."
    )
    target_margin: float | None = option(
        None,
        help="How much larger the better answer's reward should be, beside what a row's margin says; "
        "default: 0.",
    )
    dynamic_beta: Annotated[float, Gt(0)] | None = option(
        None,
        help="beta-DPO: how much beta grows with the batch's mean reward margin over its running mean, 0.6 "
        "in the paper; default: beta stays.",
    )

    @property
    def losses(self) -> tuple[DpoLoss, ...]:
        """The losses to add up."""
        return (self.loss,) if isinstance(self.loss, str) else tuple(self.loss)

    @property
    def needs_token_counts(self) -> bool:
        """The loss is two means, over pairs and over tokens of better answers: num_items is a tuple."""
        return "sft" in self.losses

    @property
    def needs_confidence(self) -> bool:
        """The forward pass is to give :attr:`swift_dpo.answers.Answers.confidence`."""
        return self.wpo


@dataclass(frozen=True, kw_only=True)
class CpoOptions(DataOptions, PolicyOptions, ArenaOptions):
    """Loss and its weights for ``cpo``, which has no reference but likes good answers."""

    loss: CpoLoss = option("sigmoid", help="How pairs are compared; docs/preference-losses.md has formulas.")
    beta: Annotated[float, Gt(0)] = option(
        0.1, help="What log-probabilities are multiplied by to be rewards; in ipo the paper's tau."
    )
    label_smoothing: Smoothing | None = option(
        None, help="Share of pairs whose order is thought to be wrong; default: 0."
    )
    bc_weight: Annotated[float, Ge(0)] = option(
        1.0, help="Weight of behaviour cloning: the mean negative log-likelihood of tokens of better answers."
    )
    target_margin: float | None = option(
        None,
        help="How much larger the better answer's reward should be, beside what a row's margin says; "
        "default: 0.",
    )
    constraint_weight: Annotated[float, Gt(0)] | None = option(
        None,
        help="How much quality one unit of violation costs (rows with violations): answers are ordered by "
        "score less this times violation, and the safer one is to win by that much more; default: quality "
        "alone.",
    )
    violation_function: str | None = option(
        None,
        help="module:function or file.py:function that tells how much an answer violates the constraint, "
        "given (prompt, answer), for rows without violations.",
    )

    @property
    def needs_token_counts(self) -> bool:
        """See :attr:`DpoOptions.needs_token_counts`."""
        return self.bc_weight > 0


@dataclass(frozen=True, kw_only=True)
class SimpoOptions(DataOptions, PolicyOptions, ArenaOptions):
    """Loss and its weights for ``simpo``: rewards are mean log-probabilities of tokens."""

    beta: Annotated[float, Gt(0)] = option(
        2.0, help="What mean log-probabilities are multiplied by to be rewards."
    )
    gamma: Annotated[float, Ge(0)] = option(
        0.5, help="How much larger the better answer's reward should be, beside what a row's margin says."
    )
    label_smoothing: Smoothing = option(0.0, help="Share of pairs whose order is thought to be wrong.")
    bc_weight: Annotated[float, Ge(0)] = option(
        0.0,
        help="Weight of behaviour cloning (CPO-SimPO): the mean negative log-likelihood of tokens of better "
        "answers.",
    )

    @property
    def needs_token_counts(self) -> bool:
        """See :attr:`DpoOptions.needs_token_counts`."""
        return self.bc_weight > 0


@dataclass(frozen=True, kw_only=True)
class OrpoOptions(DataOptions, PolicyOptions, ArenaOptions):
    """The weight of the odds ratio in ``orpo``, beside the likelihood of better answers."""

    beta: Annotated[float, Gt(0)] = option(0.1, help="Weight of the odds ratio; the paper's lambda.")

    @property
    def needs_token_counts(self) -> bool:
        """See :attr:`DpoOptions.needs_token_counts`."""
        return True


@dataclass(frozen=True, kw_only=True)
class KtoOptions(DataOptions, ReferenceOptions, ArenaOptions):
    """Loss and its weights for ``kto``, which judges answers one at a time."""

    loss: KtoLoss = option(
        "kto", help="kto compares with answers to other prompts, apo_zero_unpaired with the reference alone."
    )
    beta: Annotated[float, Gt(0)] = option(0.1, help="How strongly the policy is held to the reference.")
    desirable_weight: Annotated[float, Gt(0)] = option(
        1.0, help="Weight of desirable answers; its product with their number should be near the other's."
    )
    undesirable_weight: Annotated[float, Gt(0)] = option(1.0, help="Weight of undesirable answers.")

    @property
    def needs_token_counts(self) -> bool:
        """See :attr:`DpoOptions.needs_token_counts`."""
        return False

    @property
    def needs_unrelated(self) -> bool:
        """The batch is to hold answers to other prompts."""
        return self.loss == "kto"
