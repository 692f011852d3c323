"""Batches without padding, for every task type: see ``docs/batches.md``.

A collator makes a :class:`FlatBatch` with :func:`flat_batch`; ``compute_loss`` runs the model on it with
:func:`forward_flat` or :func:`segment_vectors`. Which way is exact for a model is looked up once, by
:func:`settle`.
"""

from swift_core.flat.batch import FlatBatch, Group, flat_batch
from swift_core.flat.check import settle
from swift_core.flat.forward import FlatState, Rung, set_state, state_of
from swift_core.flat.sequence import share_tokens
from swift_core.flat.vectors import PoolingMethod, forward_flat, pool_segments, segment_vectors

__all__ = [
    "FlatBatch",
    "FlatState",
    "Group",
    "PoolingMethod",
    "Rung",
    "flat_batch",
    "forward_flat",
    "pool_segments",
    "segment_vectors",
    "set_state",
    "settle",
    "share_tokens",
    "state_of",
]
