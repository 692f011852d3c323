"""The ONNX graph gives the model's vectors, whatever the batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from swift_core.errors import SwiftError, UserError
from swift_core.flat import flat_batch, pool_segments
from swift_embedding.encoding import TextEncoder
from swift_embedding.onnx_graph import load_onnx, pool_padded, write_onnx

# The libraries of the extra "onnx"; `make test` installs them.
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("method", ["cls", "mean", "lasttoken"])
@pytest.mark.parametrize("left", [True, False], ids=["left", "right"])
def test_pooling_with_padding_is_pooling_without(method: str, left: bool) -> None:
    lengths, width = [3, 7, 1, 5], 7
    rows = [torch.randn(length, 4) for length in lengths]
    batch = flat_batch([[1] * length for length in lengths])
    order = batch.order.tolist()
    segments = torch.cat([rows[order.index(place)] for place in range(len(rows))])
    hidden, mask = torch.full((4, width, 4), 99.0), torch.zeros(4, width, dtype=torch.long)
    for row, values in enumerate(rows):
        place = slice(width - len(values), width) if left else slice(0, len(values))
        hidden[row, place], mask[row, place] = values, 1
    found = pool_padded(hidden, mask, method)  # type: ignore[arg-type]
    torch.testing.assert_close(found, pool_segments(segments, batch, method))  # type: ignore[arg-type]


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
