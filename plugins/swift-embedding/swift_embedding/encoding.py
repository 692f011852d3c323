"""From texts to vectors: one forward pass for training, and whole lists of texts for everything else."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn import functional
from tqdm import tqdm

from swift_core.batching import pack
from swift_core.flat import FlatBatch, PoolingMethod, flat_batch, pool_segments, segment_vectors
from swift_core.flat.processes import rank_and_world
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


class Encoder(Protocol):
    """Whatever gives texts their vectors, see :class:`TextEncoder`."""

    def encode_queries(self, texts: Sequence[str], progress: bool = False) -> np.ndarray:
        """Float32 [N, D]."""

    def encode_documents(self, texts: Sequence[str], progress: bool = False) -> np.ndarray:
        """Float32 [N, D]."""

    def document_chunks(self, texts: Sequence[str], progress: bool = False) -> Iterator[np.ndarray]:
        """The vectors of documents in parts, so that not all are in memory at once."""


def embed(
    model: nn.Module,
    batch: FlatBatch,
    *,
    method: PoolingMethod,
    normalize: bool,
    skip: int = 0,
    cache_tokens: int | None = None,
    dimensions: int | None = None,
) -> Tensor:
    """One vector a text, with gradients where the caller has them on.

    Args:
        model: gives ``last_hidden_state``; may be wrapped by DDP or peft.
        batch: B texts.
        method: see :func:`swift_core.flat.pool_segments`.
        normalize: scale the vectors to length 1.
        skip: see :func:`swift_core.flat.pool_segments`.
        cache_tokens: see :func:`swift_core.flat.segment_vectors`.
        dimensions: keep so many, the first (Kusupati et al. 2022, "Matryoshka Representation Learning"),
            and normalise what is left.

    Returns:
        [B, D]
    """
    vectors = segment_vectors(
        model,
        batch,
        # By its name the core knows a method that reads one token, and computes less.
        method if method != "mean" else lambda hidden, part: pool_segments(hidden, part, "mean", skip),
        cache_tokens=cache_tokens,
    )
    vectors = vectors[:, :dimensions]
    return functional.normalize(vectors, p=2.0, dim=-1) if normalize else vectors


def tokens_of_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> int:
    """Tokens at the head of a text that come from ``prompt`` or stand before it; 0 without a prompt."""
    if not prompt:
        return 0
    ids: list[int] = tokenizer(prompt)["input_ids"]
    while ids and ids[-1] in tokenizer.all_special_ids:
        ids = ids[:-1]
    return len(ids)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a text becomes a vector, but for the model.

    Attributes:
        max_length: longest text in tokens; a longer one is cut and keeps its special tokens.
        query_prompt: put before every query.
        document_prompt: put before every document.
        query_max_length: longest query in tokens; None for ``max_length``.
        document_max_length: the same of a document.
        pool_prompts: whether the tokens of a prompt count in mean pooling.
        dimensions: length of the vectors, cut before they are normalised; None for all that the model has.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    pooling_method: PoolingMethod
    normalize_embeddings: bool
    query_prompt: str = ""
    document_prompt: str = ""
    query_max_length: int | None = None
    document_max_length: int | None = None
    pool_prompts: bool = True
    dimensions: int | None = None

    @property
    def prompts(self) -> dict[str, str]:
        """The prompts by the names that sentence-transformers knows."""
        return {"query": self.query_prompt, "document": self.document_prompt}

    def skip(self, prompt: str) -> int:
        """Leading tokens of a text with ``prompt`` that its mean leaves out."""
        leaves_out = self.pooling_method == "mean" and not self.pool_prompts
        return tokens_of_prompt(self.tokenizer, prompt) if leaves_out else 0


@dataclass(frozen=True, kw_only=True)
class TextEncoder(Recipe):
    """A model with all that is needed to turn texts into vectors.

    Texts are sorted by length and go through the model without padding. Under torch.distributed the batches
    are shared out among the processes, which must all make the same calls and all get every vector.

    Attributes:
        batch_tokens: largest number of tokens in a batch; None for what suits the device.
        share_batches: False where one process works alone while the others wait, as in an export.
    """

    model: nn.Module
    batch_tokens: int | None = None
    share_batches: bool = True

    def encode_queries(self, texts: Sequence[str], progress: bool = False) -> np.ndarray:
        """Vectors of ``texts`` as queries: float32 [N, D], in their order ([0, 0] for no texts)."""
        limit = self.query_max_length or self.max_length
        return _joined(self._chunks(texts, self.query_prompt, limit, "queries", progress), len(texts))

    def encode_documents(self, texts: Sequence[str], progress: bool = False) -> np.ndarray:
        """Vectors of ``texts`` as documents: float32 [N, D], in their order ([0, 0] for no texts)."""
        return _joined(self.document_chunks(texts, progress), len(texts))

    def document_chunks(self, texts: Sequence[str], progress: bool = False) -> Iterator[np.ndarray]:
        """The vectors of :meth:`encode_documents`, 16,384 texts at a time."""
        limit = self.document_max_length or self.max_length
        return self._chunks(texts, self.document_prompt, limit, "documents", progress)

    def encode_token_ids(self, rows: Sequence[Sequence[int]], skip: int = 0) -> np.ndarray:
        """Vectors of ``rows`` of token ids: float32 [N, D], in their order; ``skip`` as :meth:`skip` tells.

        A row without tokens (an empty text, where a tokenizer adds none) gets the zero vector.
        """
        return self._encode(rows, skip, tqdm(disable=True))

    def _chunks(
        self, texts: Sequence[str], prompt: str, limit: int, what: str, progress: bool
    ) -> Iterator[np.ndarray]:
        shown = progress and sys.stderr.isatty() and rank_and_world()[0] == 0
        skip = self.skip(prompt)
        with tqdm(
            total=len(texts), desc=f"encoding {what}", unit="text", leave=False, disable=not shown
        ) as bar:
            for start in range(0, len(texts), _TEXTS_AT_ONCE):
                prompted = [prompt + text for text in texts[start : start + _TEXTS_AT_ONCE]]
                yield self._encode(self._token_ids(prompted, limit), skip, bar)

    def _token_ids(self, texts: list[str], limit: int) -> list[list[int]]:
        encoded: Any = self.tokenizer(
            texts,
            truncation=True,
            max_length=limit,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        ids: list[list[int]] = encoded["input_ids"]
        return ids

    def _encode(self, rows: Sequence[Sequence[int]], skip: int, bar: tqdm[Any]) -> np.ndarray:
        batches = self._batches(rows)
        rank, world = rank_and_world() if self.share_batches else (0, 1)
        result: np.ndarray | None = None
        with evaluating(self.model), fastest_float32_matmul(self._device):
            for start in range(0, len(batches), world):
                # In the last round a process may be left without a batch. It repeats one, so that all
                # processes run the model equally often (FSDP gathers weights in the forward pass).
                mine = batches[min(start + rank, len(batches) - 1)]
                vectors = self._forward([rows[index] for index in mine], skip)  # [B, D]
                current = batches[start : start + world]
                found = [vectors] if world == 1 else _gather(vectors, current, world)
                for batch, values in zip(current, found, strict=True):
                    if result is None:
                        result = np.zeros((len(rows), values.shape[1]), dtype=np.float32)  # [N, D]
                    result[batch] = values.cpu().numpy()
                    bar.update(len(batch))
        if result is not None:
            return result
        # Nothing had a token; the vectors are as long as ever.
        return np.zeros((len(rows), self.size if rows else 0), dtype=np.float32)

    @property
    def size(self) -> int:
        """D, the length of a vector."""
        config: Any = getattr(self.model, "config", None)
        return self.dimensions or (int(config.get_text_config().hidden_size) if config is not None else 0)

    def _batches(self, rows: Sequence[Sequence[int]]) -> list[list[int]]:
        """Indices of the rows that have tokens, longest first, in batches of at most ``batch_tokens``."""
        lengths = [len(row) for row in rows]
        order = sorted((n for n, length in enumerate(lengths) if length), key=lambda n: -lengths[n])
        suited = _CPU_TOKENS if self._device.type == "cpu" else _GPU_TOKENS
        return pack(order, lengths, self.batch_tokens or suited)

    def _forward(self, rows: list[Sequence[int]], skip: int) -> Tensor:
        batch = flat_batch(rows).to(self._device)
        vectors = embed(
            self.model,
            batch,
            method=self.pooling_method,
            normalize=self.normalize_embeddings,
            skip=skip,
            dimensions=self.dimensions,
        )
        return vectors.float()

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device


def _joined(chunks: Iterator[np.ndarray], count: int) -> np.ndarray:
    """[N, D] of its pieces; filled one by one, since to join them at the end would need the memory twice."""
    result, start = np.zeros((0, 0), dtype=np.float32), 0
    for vectors in chunks:
        if start == 0:
            result = np.empty((count, vectors.shape[1]), dtype=np.float32)
        result[start : start + len(vectors)] = vectors
        start += len(vectors)
    return result


def _gather(vectors: Tensor, batches: list[list[int]], world: int) -> list[Tensor]:
    """Vectors of ``batches``, one batch from each process; ``vectors`` [B, D] are this process' own."""
    # Collectives want equal shapes; a repeated batch (see above) is among these, so none is longer.
    longest = max(len(batch) for batch in batches)
    padded = nn.functional.pad(vectors, (0, 0, 0, longest - len(vectors)))  # [longest, D]
    found = [torch.empty_like(padded) for _ in range(world)]
    distributed.all_gather(found, padded.contiguous())
    return [values[: len(batch)] for values, batch in zip(found, batches, strict=False)]
