"""The ONNX graph gives the model's vectors, whatever the batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from swift_core.errors import SwiftError, UserError
from swift_embedding.encoding import TextEncoder
from swift_embedding.onnx_graph import load_onnx, write_onnx

# The libraries of the extra "onnx"; `make test` installs them.
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


def test_the_real_encoder_with_lora_and_cut(
    minilm: TextEncoder,
    texts: list[str],
    tmp_path: Path,
    add_lora: Callable[[torch.nn.Module], torch.nn.Module],
) -> None:
    untouched = minilm.encode_documents(texts)
    encoder = replace(minilm, model=add_lora(minilm.model), dimensions=64, query_prompt="query: ")
    expected = encoder.encode_documents(texts)
    assert np.abs(expected - untouched[:, :64]).max() > 1e-2
    assert write_onnx(tmp_path, encoder) < 1e-4
    graph = load_onnx(tmp_path)
    assert {one.name for one in graph.session.get_inputs()} == {
        "input_ids",
        "attention_mask",
        "token_type_ids",
    }
    for size in (1, 3, 32):
        found = replace(graph, batch_size=size).encode_documents(texts)
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
    np.testing.assert_allclose(graph.encode_queries(texts), encoder.encode_queries(texts), atol=1e-5, rtol=0)
    assert graph.encode_queries([]).shape == (0, 0)
    # The model in memory was not touched.
    np.testing.assert_array_equal(encoder.encode_documents(texts), expected)


def test_a_model_that_can_not_be_traced_is_told(decoder: TextEncoder, tmp_path: Path) -> None:
    class Wayward(type(decoder.model)):  # type: ignore[misc]
        def forward(self, input_ids, attention_mask, use_cache=False):
            if input_ids.sum().item() > 3:  # depends on data, which no graph can
                input_ids = input_ids + 1
            return super().forward(input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache)

    decoder.model.__class__ = Wayward
    with pytest.raises(SwiftError, match="Wayward can't be written as an ONNX graph by torch"):
        write_onnx(tmp_path, decoder)


def test_a_folder_without_a_graph(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"found no model\.onnx"):
        load_onnx(tmp_path)
