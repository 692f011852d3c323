"""Attention on a flat row against a float64 loop over tokens that knows nothing of groups and kernels."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from swift_core.flat import FlatBatch, flat_batch
from swift_core.flat.cuda import choose_backend, flash_attention, flex_attention, varlen_attention
from swift_core.flat.grouped import Rule, grouped_attention

PLAIN = flat_batch([[1] * n for n in (3, 7, 1, 7, 12, 30)])
FAMILY = flat_batch([[1] * n for n in (9, 3, 3, 5, 14, 2, 3)], parents=[None, 0, 0, 0, None, 4, 4])
RULES = [
    Rule(causal=False),
    Rule(causal=True),
    Rule(causal=True, scale=0.7),
    Rule(causal=True, window=4),
    Rule(causal=False, window=4),
]


def inputs(
    batch: FlatBatch, heads: int = 4, key_heads: int = 4, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(batch.num_tokens, count, 8) for count in (heads, key_heads, key_heads)]
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def slow(query: Tensor, key: Tensor, value: Tensor, batch: FlatBatch, rule: Rule) -> Tensor:
    """Token by token: who is seen follows from segment, parent and position alone."""
    lengths = torch.tensor(batch.lengths)
    segment = torch.arange(len(batch)).repeat_interleave(lengths).tolist()
    position = batch.position_ids.tolist()
    repeat = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
    scale = rule.scale if rule.scale is not None else 1 / math.sqrt(query.shape[2])
    out = []
    for q in range(batch.num_tokens):
        seen = [
            k
            for k in range(batch.num_tokens)
            if segment[k] in (segment[q], batch.parents[segment[q]])
            and (not rule.causal or position[k] <= position[q])
            and (rule.window is None or abs(position[k] - position[q]) < rule.window)
        ]
        scores = (query[q].unsqueeze(0) * key[seen]).sum(-1) * scale  # [keys, H]
        out.append((scores.softmax(0).unsqueeze(-1) * value[seen]).sum(0))
    return torch.stack(out)


def compare(backend: Any, batch: FlatBatch, rule: Rule, heads: tuple[int, int]) -> None:
    given = inputs(batch, *heads)
    exact = [x.detach().double().requires_grad_() for x in given]
    found, expected = backend(*given, batch, rule), slow(*exact, batch, rule)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad((found * weights).sum(), given)
    for gradient, wanted in zip(
        gradients, torch.autograd.grad((expected * weights).sum(), exact), strict=True
    ):
        torch.testing.assert_close(gradient.double(), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("heads", [(4, 4), (4, 2)], ids=["heads", "grouped-query"])
@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("batch", [PLAIN, FAMILY], ids=["plain", "shared-prefix"])
def test_grouped_attention_is_exact(batch: FlatBatch, rule: Rule, heads: tuple[int, int]) -> None:
    compare(grouped_attention, batch, rule, heads)


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("batch", [PLAIN, FAMILY], ids=["plain", "shared-prefix"])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
def test_flex_attention_is_exact_forward(batch: FlatBatch, rule: Rule) -> None:
    given = [x.detach() for x in inputs(batch, 4, 2)]  # torch has its backward on CUDA only
    expected = slow(*(x.double() for x in given), batch, rule)
    torch.testing.assert_close(flex_attention(*given, batch, rule).double(), expected, atol=1e-5, rtol=1e-5)


def test_a_long_segment_in_a_window_is_cut_into_blocks() -> None:
    batch = flat_batch([[1] * 700, [1] * 90, [1] * 500], parents=[None, 0, None])
    for rule in (Rule(causal=True, window=50), Rule(causal=False, window=300)):
        query, key, value = (x.detach() for x in inputs(batch))
        whole = with_one_mask(query, key, value, batch, rule)
        torch.testing.assert_close(
            grouped_attention(query, key, value, batch, rule), whole, atol=1e-5, rtol=1e-5
        )


def with_one_mask(query: Tensor, key: Tensor, value: Tensor, batch: FlatBatch, rule: Rule) -> Tensor:
    """The same rule as one mask over all pairs of tokens."""
    lengths = torch.tensor(batch.lengths)
    own = torch.arange(len(batch)).repeat_interleave(lengths)
    parent = torch.tensor(batch.parents).repeat_interleave(lengths)
    ahead = batch.position_ids - batch.position_ids.unsqueeze(1)
    seen = (own == own.unsqueeze(1)) | (own == parent.unsqueeze(1))
    seen &= ahead.abs() < (rule.window or 10**9)
    if rule.causal:
        seen &= ahead <= 0
    q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (query, key, value))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)[0].transpose(0, 1)


def test_dropout_drops_weights_and_keeps_their_mean() -> None:
    batch = flat_batch([[1] * 64, [1] * 64])
    query, key, _ = inputs(batch)
    value = torch.ones(batch.num_tokens, 4, 8)
    torch.manual_seed(0)
    dropped = grouped_attention(query, key, value, batch, Rule(causal=False, dropout=0.5))
    assert dropped.std() > 0.05, "without dropout every output is 1"
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.05)


def test_on_a_cpu_groups_are_used_in_every_precision() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        query = inputs(PLAIN, dtype=dtype)[0]
        assert choose_backend(query, Rule(causal=True)) is grouped_attention


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("batch", [PLAIN, FAMILY], ids=["plain", "shared-prefix"])
@pytest.mark.parametrize("backend", [varlen_attention, flash_attention, flex_attention, grouped_attention])
def test_cuda_kernels_equal_the_loop(backend: Any, batch: FlatBatch, rule: Rule) -> None:
    if backend is varlen_attention:
        pytest.importorskip("torch.nn.attention.varlen")
    if backend is flash_attention:
        pytest.importorskip("flash_attn")
    given = [x.detach().cuda().bfloat16().requires_grad_() for x in inputs(batch, 4, 2)]
    exact = [x.detach().cpu().double().requires_grad_() for x in given]
    found, expected = backend(*given, batch.to("cuda"), rule), slow(*exact, batch, rule)
    torch.testing.assert_close(found.cpu().double(), expected, atol=2e-2, rtol=2e-2)
    gradients = torch.autograd.grad(found.sum(), given)
    for gradient, wanted in zip(gradients, torch.autograd.grad(expected.sum(), exact), strict=True):
        torch.testing.assert_close(gradient.cpu().double(), wanted, atol=5e-2, rtol=5e-2)
