"""From texts to vectors: one forward pass for training, and whole lists of texts for everything else."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn import functional
from tqdm import tqdm

from swift_core.batching import pack
from swift_core.flat import FlatBatch, PoolingMethod, flat_batch, pool_segments, segment_vectors
from swift_core.matmul import fastest_float32_matmul
from swift_core.modes import evaluating

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Shape legend: N texts, B texts of a batch, D dimensions.

_CPU_TOKENS = 4_096
"""Activations of so many tokens stay near the processor: 16,384 at a time were 15 % slower."""

_GPU_TOKENS = 65_536

_TEXTS_AT_ONCE = 16_384
"""Texts that are tokenised together: the ids of a large corpus would fill the memory."""


def embed(
    model: nn.Module,
    batch: FlatBatch,
    *,
    method: PoolingMethod,
    normalize: bool,
    cache_tokens: int | None = None,
) -> Tensor:
    """One vector a text, with gradients where the caller has them on.

    Args:
        model: gives ``last_hidden_state``; may be wrapped by DDP or peft.
        batch: B texts.
        method: see :func:`swift_core.flat.pool_segments`.
        normalize: scale the vectors to length 1.
        cache_tokens: see :func:`swift_core.flat.segment_vectors`.

    Returns:
        [B, D]
    """
    vectors = segment_vectors(
        model, batch, lambda hidden, part: pool_segments(hidden, part, method), cache_tokens=cache_tokens
    )
    return functional.normalize(vectors, p=2.0, dim=-1) if normalize else vectors


@dataclass(frozen=True, kw_only=True)
class TextEncoder:
    """A model with all that is needed to turn texts into vectors.

    Texts are sorted by length and go through the model without padding. Under torch.distributed the batches
    are shared out among the processes, which must all make the same calls and all get every vector.

    Attributes:
        max_length: longest text in tokens; a longer one is cut and keeps its special tokens.
        query_prompt: put before every query.
        document_prompt: put before every document.
        batch_tokens: largest number of tokens in a batch; None for what suits the device.
        share_batches: False where one process works alone while the others wait, as in an export.
    """

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    pooling_method: PoolingMethod
    normalize_embeddings: bool
    query_prompt: str = ""
    document_prompt: str = ""
    batch_tokens: int | None = None
    share_batches: bool = True

    def encode_queries(self, texts: Sequence[str], progress: bool = False) -> np.ndarray:
        """Vectors of ``texts`` as queries: float32 [N, D], in their order ([0, 0] for no texts)."""
        return self._encode_texts(self.query_prompt, texts, "queries", progress)

    def encode_documents(self, texts: Sequence[str], progress: bool = False) -> np.ndarray:
        """Vectors of ``texts`` as documents: float32 [N, D], in their order ([0, 0] for no texts)."""
        return self._encode_texts(self.document_prompt, texts, "documents", progress)

    def encode_token_ids(self, rows: Sequence[Sequence[int]]) -> np.ndarray:
        """Vectors of ``rows`` of token ids: float32 [N, D], in their order.

        A row without tokens (an empty text, where a tokenizer adds none) gets the zero vector.
        """
        return self._encode(rows, tqdm(disable=True))

    def _encode_texts(self, prompt: str, texts: Sequence[str], what: str, progress: bool) -> np.ndarray:
        shown = progress and sys.stderr.isatty() and _rank_and_world()[0] == 0
        parts = []
        with tqdm(
            total=len(texts), desc=f"encoding {what}", unit="text", leave=False, disable=not shown
        ) as bar:
            for start in range(0, len(texts), _TEXTS_AT_ONCE):
                prompted = [prompt + text for text in texts[start : start + _TEXTS_AT_ONCE]]
                parts.append(self._encode(self._token_ids(prompted), bar))
        return np.concatenate(parts) if parts else np.zeros((0, 0), dtype=np.float32)

    def _token_ids(self, texts: list[str]) -> list[list[int]]:
        encoded: Any = self.tokenizer(
            texts,
            truncation=True,
            max_length=self.max_length,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        ids: list[list[int]] = encoded["input_ids"]
        return ids

    def _encode(self, rows: Sequence[Sequence[int]], bar: tqdm[Any]) -> np.ndarray:
        batches = self._batches(rows)
        rank, world = _rank_and_world() if self.share_batches else (0, 1)
        result: np.ndarray | None = None
        with evaluating(self.model), fastest_float32_matmul(self._device):
            for start in range(0, len(batches), world):
                # In the last round a process may be left without a batch. It repeats one, so that all
                # processes run the model equally often (FSDP gathers weights in the forward pass).
                mine = batches[min(start + rank, len(batches) - 1)]
                vectors = self._forward([rows[index] for index in mine])  # [B, D]
                current = batches[start : start + world]
                found = [vectors] if world == 1 else _gather(vectors, current, world)
                for batch, values in zip(current, found, strict=True):
                    if result is None:
                        result = np.zeros((len(rows), values.shape[1]), dtype=np.float32)  # [N, D]
                    result[batch] = values.cpu().numpy()
                    bar.update(len(batch))
        if result is not None:
            return result
        # Nothing had a token; the width is the model's all the same.
        width = getattr(getattr(self.model, "config", None), "hidden_size", 0) if rows else 0
        return np.zeros((len(rows), width), dtype=np.float32)

    def _batches(self, rows: Sequence[Sequence[int]]) -> list[list[int]]:
        """Indices of the rows that have tokens, longest first, in batches of at most ``batch_tokens``."""
        lengths = [len(row) for row in rows]
        order = sorted((n for n, length in enumerate(lengths) if length), key=lambda n: -lengths[n])
        suited = _CPU_TOKENS if self._device.type == "cpu" else _GPU_TOKENS
        return pack(order, lengths, self.batch_tokens or suited)

    def _forward(self, rows: list[Sequence[int]]) -> Tensor:
        batch = flat_batch(rows).to(self._device)
        vectors = embed(self.model, batch, method=self.pooling_method, normalize=self.normalize_embeddings)
        return vectors.float()

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device


def _rank_and_world() -> tuple[int, int]:
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def _gather(vectors: Tensor, batches: list[list[int]], world: int) -> list[Tensor]:
    """Vectors of ``batches``, one batch from each process; ``vectors`` [B, D] are this process' own."""
    # Collectives want equal shapes; a repeated batch (see above) is among these, so none is longer.
    longest = max(len(batch) for batch in batches)
    padded = nn.functional.pad(vectors, (0, 0, 0, longest - len(vectors)))  # [longest, D]
    found = [torch.empty_like(padded) for _ in range(world)]
    distributed.all_gather(found, padded.contiguous())
    return [values[: len(batch)] for values, batch in zip(found, batches, strict=False)]
