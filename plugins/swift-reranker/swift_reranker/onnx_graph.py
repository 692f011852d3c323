"""The ONNX graph: from token ids to raw scores, checked against the model in memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from swift_core.classifiers import FlatClassifier
from swift_core.onnx_graphs import graph_inputs, graph_options, pool_padded, traceable_copy, write_graph
from swift_reranker.judge import FlatJudge, with_two_rows
from swift_reranker.probing import Outputs, Probes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from swift_reranker.collator import RerankerCollator

# Shape legend: B pairs of a batch, T tokens with padding, D dimensions.

GRAPH = "model.onnx"


class _Graph(nn.Module):
    """Raw scores of padded rows.

    Where the last token is read, it is found by the mask: transformers looks for one that is no padding
    token, which a template may well end with.
    """

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__()
        self.model = model
        self.judges = isinstance(model, FlatJudge)
        self.reads_last = self.judges or model.pooling_method == "lasttoken"
        part = model.flat_part
        called = part.forward if self.reads_last else super(FlatClassifier, model).forward  # type: ignore[misc]
        self.inputs = graph_inputs(called, tokenizer)
        self.more = graph_options(called)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor:
        given = {"input_ids": input_ids, "attention_mask": attention_mask, **self.more}
        if token_type_ids is not None:
            given["token_type_ids"] = token_type_ids
        if not self.reads_last:
            scores: Tensor = self.model(**given).logits
        else:
            hidden = self.model.flat_part(**given).last_hidden_state
            vectors = pool_padded(hidden, attention_mask, "lasttoken")  # [B, D]
            scores = self.model.flat_scores(vectors) if self.judges else self.model.flat_logits(vectors)
        return scores[:, 0]


def write_onnx(folder: Path, model: Any, collator: RerankerCollator, probes: Probes) -> float:
    """Write the graph and its configuration into ``folder``, where the tokenizer lies, and compare.

    The graph takes ``input_ids`` and ``attention_mask`` [B, T] (and ``token_type_ids`` where model and
    tokenizer have them), padded on the right, and gives ``scores`` [B], raw. Weights are float32, with LoRA
    merged; of the vocabulary head of a causal model two rows are left.

    Returns:
        The largest difference of a raw score from the model that ``probes`` were made with.

    Raises:
        SwiftError: torch can't write this model as a graph, or the graph gives other scores.
    """
    traced = traceable_copy(model)
    kind = type(traced).__name__
    traced.config.architectures = [kind]
    traced.config.save_pretrained(folder)
    if isinstance(traced, FlatJudge):
        with_two_rows(traced)
    graph = _Graph(traced, collator.tokenizer).eval()
    write_graph(graph, folder / GRAPH, inputs=graph.inputs, outputs=["scores"], of=kind)
    return check_onnx(folder, probes)


def check_onnx(folder: Path, probes: Probes) -> float:
    """Compare the graph in ``folder`` with the model that ``probes`` were made with.

    Raises:
        SwiftError: it gives other scores.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    return probes.check(folder, "the ONNX graph", probes.found(graph_scores(folder), tokenizer))


def graph_scores(folder: Path) -> Outputs:
    """The graph in ``folder`` as a function of a batch: raw scores [B, 1]."""
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / GRAPH, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]

    def scores(batch: Mapping[str, Any]) -> np.ndarray:
        feed = {name: np.asarray(batch[name], dtype=np.int64) for name in names}
        values: np.ndarray = session.run(["scores"], feed)[0]
        return values[:, None]

    return scores
