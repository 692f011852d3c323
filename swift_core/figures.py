"""What tasks log beside their loss, summed up between two logs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor


class LossFigures:
    """Sums of the figures of batches, on their device until they are read."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, metrics: Mapping[str, Tensor | float], items: int) -> None:
        """Take in the figures of a batch.

        Args:
            metrics: a mean over the items of the batch; or [2], a sum over some of them and their number.
            items: how many the batch has.
        """
        for name, value in metrics.items():
            found = torch.as_tensor(value, dtype=torch.float32).detach()
            if found.numel() != 2:
                found = torch.stack([found * items, torch.full_like(found, items)])
            known = self._sums.get(name)
            self._sums[name] = found if known is None else known + found

    def flush(self, accelerator: Accelerator) -> dict[str, float]:
        """The means over all processes since the last call; what no item had is left out.

        One reading of the device a log, not one a step.
        """
        sums, self._sums = self._sums, {}
        # A figure may be missing on some process.
        names = sorted({name for part in gather_object([list(sums)]) for name in part})
        if not names:
            return {}
        zero = torch.zeros(2, device=accelerator.device)
        table = torch.stack([sums.get(name, zero).to(zero.device) for name in names])  # [F, 2]
        found = accelerator.reduce(table, "sum").tolist()
        return {name: total / count for name, (total, count) in zip(names, found, strict=True) if count}
