"""The sides of the benchmark of preference training: SwiftTrainer, and DPOTrainer of TRL in several forms.

Loop, optimizer, clipping and schedule are the same code with the same options. TRL pads all sequences of a
batch to the longest, and computes a prompt for each of its answers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import datasets
import torch
import trl
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl.trainer import dpo_trainer, utils

from benchmarks.measure import RecordsLoss, now
from benchmarks.preference_rows import pairs_of
from benchmarks.sides import Trained, loop_options, train_swift
from benchmarks.workload import Workload
from swift_core.matmul import fastest_float32_matmul
from swift_dpo.model import memory_of

Library = Literal["own", "fastest", "torch"]
"""Which library multiplies matrices: each side's own choice, the faster one for both, torch's for both."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all sides are told."""

    lora_rank: int | None = None
    checkpointing: bool = False
    library: Library = "own"


class Swift:
    """Swift: SwiftTrainer with the hooks of ``dpo``; it tokenises before the first step."""

    name = "swift"

    def __init__(self, setting: Setting, *, cached: bool) -> None:
        self._setting, self._cached = setting, cached

    def train(self, work: Workload, folder: Path, callbacks: Sequence[TrainerCallback]) -> Trained:
        """See :class:`benchmarks.sides.Side`."""
        options: dict[str, Any] = {"reference_cache": "ahead" if self._cached else "off"}
        if self._setting.lora_rank:
            options |= {"use_lora": True, "lora_rank": self._setting.lora_rank}
        elif not self._cached:
            callbacks = [_LoadedReference(), *callbacks]
        # Given only where it is on: the library warns of its name.
        if self._setting.checkpointing:
            options["gradient_checkpointing"] = True
        with torchs_library() if self._setting.library == "torch" else nullcontext():
            return train_swift(work, folder, [SameAdapter(), *callbacks], "dpo", options)


class Trl:
    """TRL: its trainer and its collator.

    Args:
        setting: see there.
        lean: only tokens of answers meet the vocabulary, and only what the loss needs is computed there; see
            :func:`answers_only`.
        precomputed: the reference's log-probabilities are computed before the first step.
    """

    def __init__(self, setting: Setting, *, lean: bool, precomputed: bool = False) -> None:
        form = "leanest" if lean else "as shipped"
        self.name = f"TRL, {form}{', reference precomputed' if precomputed else ''}"
        self._setting, self._lean, self._precomputed = setting, lean, precomputed

    def train(self, work: Workload, folder: Path, callbacks: Sequence[TrainerCallback]) -> Trained:
        """See :class:`benchmarks.sides.Side`."""
        device = torch.device("cpu")
        routed = {"own": nullcontext, "torch": torchs_library}.get(
            self._setting.library, functools.partial(fastest_float32_matmul, device)
        )
        with routed(), answers_only() if self._lean else nullcontext():
            began = now()
            trainer = self._trainer(work, folder, [SameAdapter(), *callbacks])
            took = now() - began
            trainer.train()
        return Trained([float(loss) for loss in trainer.losses], took)

    def _trainer(self, work: Workload, folder: Path, callbacks: list[TrainerCallback]) -> Any:
        rows = pairs_of(work.rows)
        options = loop_options(work, folder)
        options["per_device_train_batch_size"] = work.batch_size * len(rows) // len(work.rows)
        model = AutoModelForCausalLM.from_pretrained(work.model, local_files_only=True, dtype=torch.float32)
        return PeerTrainer(
            model=model,
            args=trl.DPOConfig(
                **options,
                max_length=work.max_length,
                bf16=False,
                activation_checkpointing=self._setting.checkpointing,
                precompute_ref_log_probs=self._precomputed,
                train_sampling_strategy="sequential",
            ),
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(work.model, local_files_only=True),
            peft_config=peer_lora(self._setting.lora_rank),
            callbacks=callbacks,
        )


class PeerTrainer(RecordsLoss, trl.DPOTrainer):
    """DPOTrainer whose losses are kept."""


def peer_lora(rank: int | None) -> LoraConfig | None:
    """The adapter that Swift makes by default."""
    if rank is None:
        return None
    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")


class SameAdapter(TrainerCallback):
    """LoRA matrices that start at random are the same on all sides; nothing happens without LoRA."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed

    @torch.no_grad()
    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Draw them again, as peft does, in their order."""
        generator = torch.Generator().manual_seed(self._seed)
        for name, parameter in kwargs["model"].named_parameters():
            if "lora_A" in name:
                bound = parameter.shape[1] ** -0.5  # kaiming_uniform_ with a = sqrt(5)
                drawn = torch.rand(parameter.shape, generator=generator) * 2 - 1
                parameter.copy_(drawn * bound)


class _LoadedReference(TrainerCallback):
    """TRL loads its reference before the first step: Swift, which does so in it, is measured alike."""

    _loaded = False

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self._loaded:
            policy = kwargs["model"]
            with memory_of(policy).reference.opened(policy):
                self._loaded = True


@contextmanager
def torchs_library() -> Iterator[None]:
    """Multiply matrices by torch's own library inside: Swift leaves a setting that somebody chose."""
    switch: Any = torch.backends.mkldnn.matmul
    before = switch.fp32_precision
    switch.fp32_precision = "ieee"
    try:
        yield
    finally:
        switch.fp32_precision = before


@contextmanager
def answers_only() -> Iterator[None]:
    """Inside, TRL does on a CPU what it does on CUDA: no logits but those that predict an answer's token.

    Figures that it logs and Swift does not (entropy, top-1 accuracy), each a pass over all logits here,
    are left out as well, and the mean of the logits.
    """
    parts: Any = utils
    compacts, adds_head = parts._use_triton, dpo_trainer.add_fused_lm_head
    parts._use_triton = lambda device: True  # read where positions are chosen; the kernel has its own
    dpo_trainer.add_fused_lm_head = functools.partial(_add_bare_head, adds_head)
    try:
        yield
    finally:
        parts._use_triton, dpo_trainer.add_fused_lm_head = compacts, adds_head


def _add_bare_head(adds_head: Callable[..., None], model: Any, outputs: Sequence[str] = ()) -> None:
    adds_head(model, outputs=("log_probs",))
    forward = model.forward

    @functools.wraps(forward)
    def with_zeros(*args: Any, **kwargs: Any) -> Any:
        found = forward(*args, **kwargs)
        if kwargs.get("fused_lm_head"):
            zeros = torch.zeros_like(found.log_probs.detach())
            found.entropy, found.mean_logits, found.is_top1 = zeros, zeros, zeros.bool()
        return found

    model.forward = with_zeros
