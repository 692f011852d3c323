"""The ONNX graphs: from token ids to logits, checked against the model in memory."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from swift_cls.deciding import chosen, probabilities
from swift_cls.probing import Logits, Probes
from swift_core.classifiers import FlatClassifier
from swift_core.errors import SwiftError
from swift_core.onnx_graphs import graph_inputs, graph_options, pool_padded, traceable_copy, write_graph

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from swift_cls.collator import ClassificationCollator

# Shape legend: B texts of a batch, T tokens with padding, D dimensions, C outputs, N probes.

GRAPH = "model.onnx"
_LEAST_AGREEMENT = 0.5


class _Graph(nn.Module):
    """Logits of padded rows.

    Where the head reads other token vectors than its family does, body and head are called one by one.
    """

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__()
        self.model = model
        self.method = model.pooling_method if model.pooling_method != model.family_pooling else None
        whole: Any = super(FlatClassifier, model)
        called = whole.forward if self.method is None else model.flat_part.forward
        self.inputs = graph_inputs(called, tokenizer)
        self.more = graph_options(called)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor:
        more = {**self.more, **({} if token_type_ids is None else {"token_type_ids": token_type_ids})}
        if self.method is None:
            own: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask, **more).logits
            return own
        mask = self._without_end(input_ids, attention_mask)
        hidden = self.model.flat_part(input_ids=input_ids, attention_mask=mask, **more).last_hidden_state
        vectors = pool_padded(hidden, mask, self.method)  # [B, D]
        logits: Tensor = self.model.flat_logits(vectors)
        return logits

    def _without_end(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """[B, T] without padding tokens that a tokenizer puts at the end of texts: see ``TextEncoding``."""
        pad = self.model.config.get_text_config().pad_token_id
        places = torch.arange(input_ids.shape[1], device=input_ids.device)  # [T]
        last = (places * (input_ids != pad) * attention_mask).amax(1, keepdim=True)  # [B, 1]
        kept: Tensor = attention_mask * (places <= last)
        return kept


def write_onnx(folder: Path, model: Any, collator: ClassificationCollator) -> float:
    """Write the graph and its configuration into ``folder``, where the tokenizer lies, and compare.

    The graph takes ``input_ids`` and ``attention_mask`` [B, T] (and ``token_type_ids`` where model and
    tokenizer have them), padded on the right, and gives ``logits`` [B, C]. Weights are float32, with LoRA
    merged.

    Returns:
        The largest difference of a logit from the model in memory.

    Raises:
        SwiftError: torch can't write this model as a graph, or the graph gives other logits.
    """
    traced = traceable_copy(model)
    graph = _Graph(traced, collator.tokenizer).eval()
    kind = type(traced).__name__
    write_graph(graph, folder / GRAPH, inputs=graph.inputs, outputs=["logits"], of=kind)
    traced.config.architectures = [kind]
    traced.config.save_pretrained(folder)
    return check_onnx(folder, Probes(model, collator))


def check_onnx(folder: Path, probes: Probes) -> float:
    """Compare the graph in ``folder`` with the model that ``probes`` were made with.

    Raises:
        SwiftError: it gives other logits.
    """
    return probes.check(folder, "the ONNX graph", _found(folder, probes))


def write_int8(folder: Path, model: Any, collator: ClassificationCollator) -> Mapping[str, Any]:
    """As :func:`write_onnx`, with weights of 8 bits.

    Activations are quantised as they come (dynamic quantization), so there is nothing to calibrate.

    Returns:
        ``probability_difference``, the largest one from the model in memory on a few texts (of a score for
        regression), and ``label_agreement``, the share of decisions that are the same (labels only).

    Raises:
        SwiftError: what :func:`write_onnx` raises; outputs are not finite, or most decisions are others.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    write_onnx(folder, model, collator)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".onnx-") as place, _quiet():
        exact = [path.replace(Path(place) / path.name) for path in folder.glob(f"{GRAPH}*")]
        quantize_dynamic(
            Path(place) / GRAPH,
            folder / GRAPH,
            weight_type=QuantType.QInt8,
            per_channel=True,
            use_external_data_format=len(exact) > 1,
        )
    return compare_int8(folder, Probes(model, collator), collator)


def compare_int8(folder: Path, probes: Probes, collator: ClassificationCollator) -> Mapping[str, Any]:
    """What :func:`write_int8` returns, for the graph in ``folder``.

    Raises:
        SwiftError: outputs are not finite, or most decisions are others.
    """
    found = _found(folder, probes)
    if not all(np.isfinite(values).all() for values in found):
        raise SwiftError(f"{folder}: with weights of 8 bits the model gives no finite logits; export as onnx")
    labels, decision = collator.known_labels, collator.decision
    before = probabilities(probes.expected, labels.problem, decision)  # [N, C]
    after = [probabilities(values, labels.problem, decision) for values in found]
    told: dict[str, Any] = {
        "probability_difference": max(float(np.abs(values - before).max()) for values in after)
    }
    if labels.problem == "regression":
        return told
    wanted = chosen(before, labels.problem, decision)
    agreement = min(float((chosen(v, labels.problem, decision) == wanted).mean()) for v in after)
    if agreement < _LEAST_AGREEMENT:
        raise SwiftError(
            f"{folder}: with weights of 8 bits the model decides as before in {agreement:.0%} of cases only, "
            f"expected at least {_LEAST_AGREEMENT:.0%}; export as onnx"
        )
    return {**told, "label_agreement": agreement}


def _found(folder: Path, probes: Probes) -> list[np.ndarray]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    return probes.found(graph_logits(folder), tokenizer)


def graph_logits(folder: Path) -> Logits:
    """The graph in ``folder`` as a function of a batch."""
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / GRAPH, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]

    def logits(batch: Mapping[str, Any]) -> np.ndarray:
        feed = {name: np.asarray(batch[name], dtype=np.int64) for name in names}
        values: np.ndarray = session.run(["logits"], feed)[0]
        return values

    return logits


@contextmanager
def _quiet() -> Iterator[None]:
    """onnxruntime advises on the root logger to preprocess, which the exporter has done already."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
