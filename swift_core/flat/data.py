"""A run's own batches before it trains: how the model runs on them, and what padding would have cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from swift_core.flat.batch import FlatBatch
from swift_core.flat.check import agree, settle
from swift_core.flat.forward import state_of

if TYPE_CHECKING:
    import datasets

    from swift_core.arguments import TrainingArguments
    from swift_core.data.dataset import TaskData
    from swift_core.hookspecs import Collator

_BATCHES = 16
_ROWS = 2048
_CHECKED_ROWS = 16


def flat_batches_in(batch: Any) -> Iterator[FlatBatch]:
    """Every flat batch that a task put into its batch."""
    if isinstance(batch, FlatBatch):
        yield batch
    elif isinstance(batch, Mapping):
        for part in batch.values():
            yield from flat_batches_in(part)
    elif isinstance(batch, (list, tuple)):
        for part in batch:
            yield from flat_batches_in(part)


def padding_cost(data: TaskData, collator: Collator, args: TrainingArguments) -> float | None:
    """Tokens that padded batches would compute for each useful one; None for a task without flat batches.

    Measured on some batches of rows drawn at random, as many rows as the run's batches have (with
    ``max_tokens_per_batch``: as fit on average), each flat batch padded to its own longest row.
    """
    if data.features is None or data.stats is None:
        return None
    count, budget = args.trainer.per_device_train_batch_size, args.core.max_tokens_per_batch
    if budget is not None:
        count = max(1, budget * data.stats.rows // max(data.stats.tokens, 1))
    useful = padded = 0
    for rows in _drawn(len(data.features), count, args.trainer.seed):
        for batch in _batches_of(data.features, rows, collator):
            for flat in flat_batches_in(batch):
                useful += flat.num_tokens
                padded += flat.padded_tokens
    return padded / useful if useful else None


def _batches_of(
    features: datasets.Dataset, rows: list[int], collator: Collator
) -> Iterator[Mapping[str, Any]]:
    """``rows`` as a batch, or as one for each group: rows of different groups never share one."""
    groups: dict[Any, list[Mapping[str, Any]]] = {}
    for row in rows:
        feature = features[row]
        groups.setdefault(feature.get("group"), []).append(feature)
    yield from (collator(members) for members in groups.values())


def _drawn(count: int, batch_size: int, seed: int) -> Iterator[list[int]]:
    order = np.random.default_rng(seed).permutation(count)
    batches = max(1, min(_BATCHES, _ROWS // batch_size))
    for start in range(0, min(count, batches * batch_size), batch_size):
        yield order[start : start + batch_size].tolist()


def settle_on_data(model: nn.Module, data: TaskData | None, collator: Collator) -> None:
    """Look on a real batch, the same on all processes, how ``model`` runs without padding.

    Rows of all lengths are in it, the shortest and the longest among them.
    """
    if data is None or data.features is None:
        return
    order = np.argsort(np.asarray(data.features["length"]), kind="stable")
    places = np.unique(np.linspace(0, len(order) - 1, _CHECKED_ROWS).astype(int))
    batches = list(_batches_of(data.features, order[places].tolist(), collator))
    device = next(model.parameters()).device
    # The longest texts first: what a model does beyond some length shows there only.
    for flat in sorted(flat_batches_in(batches), key=lambda flat: -max(flat.key_lengths)):
        state = state_of(model)
        if state.rung is None or (flat.has_parents and not state.knows_parents):
            settle(model, flat.to(device))
    agree(model)
