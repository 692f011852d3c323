"""From encoded rows to logits, without padding."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from accelerate.utils import gather_object, send_to_device
from torch import Tensor, nn
from tqdm import tqdm

from swift_core.batching import pack
from swift_core.classifiers import pool_chunks
from swift_core.flat.processes import rank_and_world
from swift_core.matmul import fastest_float32_matmul
from swift_core.modes import evaluating

if TYPE_CHECKING:
    from swift_cls.collator import ClassificationCollator
    from swift_cls.texts import Tokens

Rows: TypeAlias = Sequence[Mapping[str, Any]]

_CPU_TOKENS = 4096
_GPU_TOKENS = 32_768


def predict(
    model: nn.Module,
    collator: ClassificationCollator,
    features: Rows,
    *,
    lengths: Sequence[int] | None = None,
    share: bool = True,
    progress: bool = False,
) -> np.ndarray:
    """Logits of encoded rows.

    Rows are sorted by length and go through the model in batches of some thousand tokens. Under
    torch.distributed the batches are shared out, and every process gets all logits.

    Args:
        model: a classifier of :mod:`swift_cls.model`, perhaps with an adapter.
        features: N rows, each with ``chunks``, ``types``, ``targets`` and ``length``.
        lengths: tokens of each row, where they are known.
        share: False where one process works alone while the others wait, as in an export.
        progress: whether to show a bar on a terminal.

    Returns:
        float32 [N, C]; [N, 1] for scores.
    """

    def logits(batch: Mapping[str, Any], owner: Tensor | None) -> Tensor:
        found: Tensor = model(flat=batch["texts"], owner=owner)
        return found

    return _in_batches(logits, model, collator, features, lengths=lengths, share=share, progress=progress)


def row_vectors(
    model: Any, collator: ClassificationCollator, features: Rows, *, progress: bool = False
) -> np.ndarray:
    """What the head would read of encoded rows: float32 [N, D]."""

    def vectors(batch: Mapping[str, Any], owner: Tensor | None) -> Tensor:
        found: Tensor = model.flat_vectors(batch["texts"])
        return found if owner is None else pool_chunks(found, owner, model.chunk_pooling)

    return _in_batches(vectors, model, collator, features, lengths=None, share=True, progress=progress)


def _in_batches(
    forward: Callable[[Mapping[str, Any], Tensor | None], Tensor],
    model: nn.Module,
    collator: ClassificationCollator,
    features: Rows,
    *,
    lengths: Sequence[int] | None,
    share: bool,
    progress: bool,
) -> np.ndarray:
    device = next(model.parameters()).device
    lengths = [row["length"] for row in features] if lengths is None else lengths
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    batches = pack(order, lengths, _CPU_TOKENS if device.type == "cpu" else _GPU_TOKENS)
    rank, world = rank_and_world() if share else (0, 1)
    shown = progress and rank == 0 and sys.stderr.isatty()
    bar = tqdm(total=len(lengths), desc="classifying", unit="row", leave=False, disable=not shown)
    found: list[tuple[list[int], np.ndarray]] = []
    with evaluating(model), fastest_float32_matmul(device), bar:
        for start in range(0, len(batches), world):
            # A process without a batch of its own repeats one: FSDP gathers weights in each forward pass.
            mine = batches[min(start + rank, len(batches) - 1)]
            batch = send_to_device(collator([features[row] for row in mine]), device)
            found.append((mine, forward(batch, batch["owner"]).float().cpu().numpy()))
            bar.update(sum(map(len, batches[start : start + world])))
    parts = gather_object(found) if world > 1 else found
    result = np.zeros((len(lengths), parts[0][1].shape[1]), dtype=np.float32)
    for rows, values in parts:
        result[rows] = values
    return result


def unlabelled(tokens: Tokens) -> dict[str, Any]:
    """A row for :func:`predict` that has no label."""
    return {
        "chunks": tokens.chunks,
        "types": tokens.types,
        "targets": [0.0],
        "length": sum(map(len, tokens.chunks)),
    }
