"""The reference: the model as it was at step 0, or another one, and what it said before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
import transformers
from accelerate.utils import gather_object, send_to_device
from torch import Tensor, distributed, nn

from swift_core.batching import pack
from swift_core.flat.check import run_alike
from swift_core.flat.processes import inside_ddp, is_sharded, rank_and_world
from swift_core.model_folders import base_folder_of, is_adapter, resolve_model
from swift_core.modes import evaluating
from swift_dpo.adapters import adapted, without_adapter
from swift_dpo.reference_cache import ReferenceCache, cache_folder
from swift_dpo.scoring import answer_scores, token_budget

if TYPE_CHECKING:
    import datasets

    from swift_core.arguments import TrainingArguments
    from swift_core.hookspecs import Collator


class Reference:
    """Log-probabilities of answers under the reference of a run.

    The model is loaded when a sequence comes up that is not in the cache, and not before.

    Args:
        args: the run's; its model is what was given at step 0.
        load: builds a model from arguments.

    Attributes:
        adapter_off: the policy without its adapter is the reference; there is no second model.
        sync_steps: after each so many steps it is moved towards the policy; None: never.
        mixup_alpha: how far.
        moved: its weights are no longer those of step 0 (see :mod:`swift_dpo.refreshing`).
    """

    def __init__(self, args: TrainingArguments, load: Any) -> None:
        other = getattr(args.task, "reference", None)
        given: Any = (other, None) if other else args.initial_model
        self._args = args.with_merged_model(*given)
        self.sync_steps: int | None = getattr(args.task, "reference_sync_steps", None)
        self.mixup_alpha: float = getattr(args.task, "reference_mixup_alpha", 1.0)
        self._mode = "off" if self.sync_steps else getattr(args.task, "reference_cache", "off")
        self._load = load
        # What lies below a new adapter is the model as it was given.
        fresh = args.core.use_lora and not is_adapter(resolve_model(self._args))
        self.adapter_off = fresh and other is None
        self.moved = False
        self._model: nn.Module | None = None
        self._cache: ReferenceCache | None = None

    @property
    def cached(self) -> ReferenceCache:
        """What is known of this reference at this precision."""
        if self._cache is None:
            off = self._mode == "off"
            self._cache = ReferenceCache(None if off else self._folder())
        return self._cache

    def _folder(self) -> Any:
        folder = resolve_model(self._args)
        folders = [folder, base_folder_of(folder, self._args)] if is_adapter(folder) else [folder]
        loop, core = self._args.trainer, self._args.core
        precision = (
            f"{core.model_dtype} bf16={loop.bf16} fp16={loop.fp16} tf32={loop.tf32} {loop.device.type} "
            f"{core.attn_implementation} transformers {transformers.__version__}"
        )
        return cache_folder(core.cache_dir, folders, precision)

    @torch.no_grad()
    def logps(self, policy: nn.Module, batch: Mapping[str, Any], *, at_start: bool = False) -> Tensor:
        """[A] float32: the sum of weight x log p(token) over the tokens of each answer.

        Args:
            policy: the model in training, whose weights below the adapter are the reference's.
            batch: as the collator makes it, on the policy's device.
            at_start: under the reference of step 0, wherever it has moved to.
        """
        if at_start and self.moved:
            with self.borrowed(policy) as model:
                return answer_scores(model, batch).logps
        keys = batch["keys"].tolist()
        known = None if self._mode == "off" else self.cached.find(keys)
        if _any_process(known is None, policy, self.adapter_off):
            found = self._computed(policy, batch)
            if known is None and self._mode != "off":
                self.cached.add(dict(zip(keys, found.double().tolist(), strict=True)))
            return found
        return torch.tensor(known, dtype=torch.float32, device=batch["tokens"].device)

    def _computed(self, policy: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        with self.opened(policy) as model:
            return answer_scores(model, batch).logps

    @contextmanager
    def opened(self, policy: nn.Module) -> Iterator[nn.Module]:
        """A model that answers as the reference while the context lasts, on the policy's device."""
        # DDP prepares for a backward pass in its forward pass, and there is none.
        inner = inside_ddp(policy)
        if self.adapter_off:
            with without_adapter(adapted(inner)), evaluating(inner), self.autocast(inner):
                yield inner
            return
        with self.autocast(inner):
            yield self.second_model(policy)

    def second_model(self, policy: nn.Module) -> nn.Module:
        """The model beside the policy, on its device; loaded when it is not there yet."""
        if self._model is None:
            self._model = self._loaded(policy)
        return self._model

    def _loaded(self, policy: nn.Module) -> nn.Module:
        device = next(policy.parameters()).device
        model: nn.Module = self._load(self._args).eval().requires_grad_(False).to(device)
        run_alike(model, policy)
        return model

    @contextmanager
    def borrowed(self, policy: nn.Module) -> Iterator[nn.Module]:
        """The reference of step 0 for once: what was loaded for it is let go of afterwards."""
        if self.moved:
            with self.autocast(policy):
                yield self._loaded(policy)
            return
        loaded = self._model is not None
        with self.opened(policy) as model:
            yield model
        if not loaded:
            self._model = None

    def autocast(self, model: nn.Module) -> Any:
        """The mixed precision of the run, whether a trainer has told ``model`` of it or not."""
        loop = self._args.trainer
        lower = torch.bfloat16 if loop.bf16 else torch.float16 if loop.fp16 else None
        kind = next(model.parameters()).device.type
        return nullcontext() if lower is None else torch.autocast(kind, dtype=lower)

    def fill(self, policy: nn.Module, features: Sequence[datasets.Dataset], collator: Collator) -> None:
        """With ``reference_cache: ahead``: learn all sequences that are not known yet, then free the model.

        Processes share the work; every one gets all values.
        """
        if self._mode != "ahead":
            return
        device = next(policy.parameters()).device
        rank, world = rank_and_world()
        if world > 1:
            # They must see the same work, and may have read different folders.
            for known in gather_object([self.cached.known]):
                self.cached.add(known)
        for part in features:
            batches = list(_batches(part, self.cached, token_budget(policy)))
            found: dict[int, float] = {}
            for start in range(0, len(batches), world):
                # A process without a batch of its own repeats one: FSDP gathers weights in each forward pass.
                rows = batches[min(start + rank, len(batches) - 1)]
                batch = send_to_device(collator([part[row] for row in rows]), device)
                with torch.no_grad():
                    values = self._computed(policy, batch).double().tolist()
                found.update(zip(batch["keys"].tolist(), values, strict=True))
            for known in gather_object([found]) if world > 1 else [found]:
                self.cached.add(known)
        self._model = None


def _batches(features: datasets.Dataset, cache: ReferenceCache, tokens: int) -> Iterator[list[int]]:
    """Rows with an unknown sequence, the longest first, in batches of about so many tokens."""
    keys = zip(features["keys"], features["unrelated_key"], strict=True)
    missing = [
        row
        for row, (own, other) in enumerate(keys)
        if cache.find([*own, *([] if other is None else [other])]) is None
    ]
    lengths = features["length"]
    order = sorted(missing, key=lambda row: -lengths[row])
    yield from pack(order, lengths, tokens)


def _any_process(missing: bool, policy: nn.Module, adapter_off: bool) -> bool:
    """Whether to compute: where a forward pass waits for other processes, all must as soon as one must."""
    if not (adapter_off and is_sharded(policy)):
        return missing
    flag = torch.tensor(int(missing), device=next(policy.parameters()).device)
    distributed.all_reduce(flag, distributed.ReduceOp.MAX)
    return bool(flag)
