"""The ``onnx`` export: from token ids to vectors in one graph, checked against the model in memory."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn
from torch.nn import functional

from swift_core.errors import SwiftError, UserError
from swift_core.flat import PoolingMethod
from swift_core.onnx_graphs import graph_inputs, graph_options, pool_padded, traceable_copy, write_graph
from swift_embedding.encoding import TextEncoder
from swift_embedding.st_folder import read_prompts, tolerance, write_settings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Shape legend: B texts of a batch, T tokens with padding, D dimensions.

_GRAPH = "model.onnx"
_TOLERANCE = 1e-4
"""Largest difference of a component: another library sums in another order."""


@dataclass(frozen=True, kw_only=True)
class OnnxEncoder:
    """Turns texts into vectors with onnxruntime, in batches with padding.

    Attributes:
        session: an ``onnxruntime.InferenceSession``.
        tokenizer: cuts at the model's longest text.
        batch_size: texts that go through the graph together.
    """

    session: Any
    tokenizer: PreTrainedTokenizerBase
    query_prompt: str = ""
    document_prompt: str = ""
    batch_size: int = 32

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of ``texts`` as queries: float32 [N, D], in their order ([0, 0] for no texts)."""
        return self._encode(self.query_prompt, texts)

    def encode_documents(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of ``texts`` as documents: float32 [N, D], in their order ([0, 0] for no texts)."""
        return self._encode(self.document_prompt, texts)

    def _encode(self, prompt: str, texts: Sequence[str]) -> np.ndarray:
        if not texts:
            return np.zeros((0, 0), dtype=np.float32)
        names = [entry.name for entry in self.session.get_inputs()]
        order = sorted(range(len(texts)), key=lambda n: len(texts[n]))  # little padding
        parts = []
        for start in range(0, len(order), self.batch_size):
            batch: Any = self.tokenizer(
                [prompt + texts[n] for n in order[start : start + self.batch_size]],
                padding=True,
                truncation=True,
                return_tensors="np",
                return_token_type_ids="token_type_ids" in names,
            )
            feed = {name: batch[name].astype(np.int64) for name in names}
            parts.append(self.session.run(["sentence_embedding"], feed)[0])
        return np.concatenate(parts)[np.argsort(order)]


def write_onnx(folder: Path, encoder: TextEncoder) -> float:
    """Write the graph, tokenizer, configuration and prompts into ``folder``, then load and compare them.

    The graph takes ``input_ids`` and ``attention_mask`` [B, T] (and ``token_type_ids`` where model and
    tokenizer have them), padded on the right, and gives ``token_embeddings`` [B, T, D] and
    ``sentence_embedding`` [B, D]: pooled, cut to ``encoder.dimensions``, and normalised where the encoder
    does so. Weights are float32, with LoRA merged. Those above 2 GB lie in a second file.

    Returns:
        The largest difference of a component from the vectors of ``encoder``.

    Raises:
        UserError: the model leaves prompts out of its mean, which a graph can't.
        SwiftError: torch can't write this model as a graph, or the graph gives other vectors.
    """
    if any(encoder.skip(prompt) for prompt in encoder.prompts.values()):
        raise UserError(
            "pool_prompts: a graph does not know which tokens are a prompt's, and this model leaves them out "
            "of the mean; train with pool_prompts=true, or export as hf"
        )
    model = traceable_copy(encoder.model)
    tokenizer = copy.deepcopy(encoder.tokenizer)
    tokenizer.model_max_length = encoder.max_length
    tokenizer.padding_side = "right"
    tokenizer.save_pretrained(folder)
    model.config.save_pretrained(folder)
    write_settings(folder, encoder)
    inputs = graph_inputs(model.forward, tokenizer)
    graph = _Graph(
        model,
        types="token_type_ids" in inputs,
        method=encoder.pooling_method,
        normalize=encoder.normalize_embeddings,
        dimensions=encoder.dimensions,
    )
    write_graph(
        graph,
        folder / _GRAPH,
        inputs=inputs,
        outputs=["token_embeddings", "sentence_embedding"],
        of=type(model).__name__,
    )
    return check_onnx(folder, encoder)


def load_onnx(folder: str | Path, *, providers: Sequence[str] = ("CPUExecutionProvider",)) -> OnnxEncoder:
    """Load what :func:`write_onnx` wrote; no network.

    Args:
        providers: what onnxruntime computes on, such as ``CUDAExecutionProvider``; the first that is there.

    Raises:
        UserError: the folder holds no graph.
    """
    import onnxruntime
    from transformers import AutoTokenizer

    folder = Path(folder)
    if not (folder / _GRAPH).is_file():
        raise UserError(f"{folder}: expected an export in the format onnx, found no {_GRAPH}")
    query_prompt, document_prompt = read_prompts(folder)
    return OnnxEncoder(
        session=onnxruntime.InferenceSession(folder / _GRAPH, providers=list(providers)),
        tokenizer=AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False),
        query_prompt=query_prompt,
        document_prompt=document_prompt,
    )


class _Graph(nn.Module):
    def __init__(
        self, model: nn.Module, *, types: bool, method: PoolingMethod, normalize: bool, dimensions: int | None
    ) -> None:
        super().__init__()
        self.model, self.types, self.method = model, types, method
        self.normalize, self.dimensions = normalize, dimensions
        self.more = graph_options(model.forward)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        more = {**self.more, **({"token_type_ids": token_type_ids} if self.types else {})}
        output = self.model(input_ids=input_ids, attention_mask=attention_mask, **more)
        hidden: Tensor = output.last_hidden_state  # [B, T, D]
        vectors = pool_padded(hidden, attention_mask, self.method)[:, : self.dimensions]  # [B, D]
        return hidden, functional.normalize(vectors, dim=-1) if self.normalize else vectors


def check_onnx(folder: Path, encoder: TextEncoder) -> float:
    """Load the graph in ``folder`` and compare it with ``encoder``.

    On texts in a batch with padding and on each alone, of other lengths than the graph was traced with.

    Returns:
        The largest difference of a component.

    Raises:
        SwiftError: it is above 1e-4 (5e-3 for a model in float16, 5e-2 in bfloat16), relative to the largest
            component where that is above 1.
    """
    texts = ["What is this about?", "A short text.", "词向量", "word " * 20, "x " * 2000]
    encoder = replace(encoder, share_batches=False)
    graph = load_onnx(folder)
    expected = np.concatenate([encoder.encode_queries(texts), encoder.encode_documents(texts)])  # [2N, D]
    found = np.concatenate([graph.encode_queries(texts), graph.encode_documents(texts)])
    alone = np.concatenate([graph.encode_queries([text]) for text in texts])
    same_shape = expected.shape == found.shape
    pairs = [(expected, found), (expected[: len(texts)], alone)] if same_shape else []
    difference = max((float(np.abs(a - b).max()) for a, b in pairs), default=float("inf"))
    scale = max(1.0, float(np.abs(expected).max()))
    # A model of half precision rounds, the graph does not.
    allowed = max(_TOLERANCE, tolerance(next(encoder.model.parameters()).dtype)) * scale
    if not difference <= allowed:  # also when it is NaN
        raise SwiftError(
            f"{folder}: the ONNX graph gives other vectors than the model in memory: they differ by "
            f"{difference:.2g}, expected at most {allowed:.2g}; it must not be used"
        )
    return difference
