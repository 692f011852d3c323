"""What graphs of several task types share."""

from __future__ import annotations

import pytest
import torch

from swift_core.flat import flat_batch, pool_segments
from swift_core.onnx_graphs import pool_padded


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
