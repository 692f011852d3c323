"""Pooling against a loop over the rows."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch

from swift_core.flat import PoolingMethod, flat_batch, pool_segments

PICKED: dict[str, Any] = {"cls": lambda x: x[0], "lasttoken": lambda x: x[-1], "mean": lambda x: x.mean(0)}
BATCH = flat_batch([[1] * n for n in (3, 7, 1, 7, 5)], parents=[None, None, 1, None, 0])


def hidden() -> torch.Tensor:
    return torch.randn(BATCH.num_tokens, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("method", get_args(PoolingMethod))
def test_each_row_is_pooled_over_its_own_tokens(method: PoolingMethod) -> None:
    vectors = hidden()
    spans = zip(BATCH.first.tolist(), BATCH.last.tolist(), strict=True)
    expected = torch.stack([PICKED[method](vectors[first : last + 1]) for first, last in spans])
    torch.testing.assert_close(pool_segments(vectors, BATCH, method), expected)


def test_mean_is_computed_in_float32() -> None:
    batch = flat_batch([[1] * 301, [1] * 301])
    vectors = (torch.rand(602, 64, generator=torch.Generator().manual_seed(0)) + 0.5).bfloat16()
    found = pool_segments(vectors, batch, "mean")
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, vectors.float().view(2, 301, 64).mean(dim=1).bfloat16())


def test_the_gradient_of_a_mean_is_shared_by_its_tokens() -> None:
    vectors = hidden().requires_grad_()
    pool_segments(vectors, BATCH, "mean").sum().backward()
    lengths = torch.tensor(BATCH.lengths)
    torch.testing.assert_close(
        vectors.grad, (1 / lengths).repeat_interleave(lengths).unsqueeze(1).expand(-1, 6)
    )


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(ValueError, match="'max' is none of cls, mean, lasttoken"):
        pool_segments(hidden(), BATCH, "max")  # type: ignore[arg-type]
