"""LoRA, activation checkpointing, autocast, torch.compile and gradient caching on flat batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from benchmarks import families
from swift_core.flat import (
    FlatBatch,
    Rung,
    flat_batch,
    forward_flat,
    pool_segments,
    segment_vectors,
    state_of,
)
from swift_core.flat.forward import run_rung, unwrapped
from swift_core.flat.vectors import chunks_of

# peft 0.21 asks transformers 5.23 by an old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def mean(hidden: Tensor, batch: FlatBatch) -> Tensor:
    return pool_segments(hidden, batch, "mean")


def gradients(model: nn.Module, run: Callable[[], Tensor]) -> dict[str, Tensor]:
    """Gradients of a function of all vectors that mixes the rows, as a contrastive loss does."""
    model.zero_grad()
    vectors = run()
    (vectors @ vectors.T).softmax(-1).diagonal().log().sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys() and found
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        assert float((found[name] - gradient).abs().max()) < 1e-5 * max(largest, 1.0), name


def padded(model: nn.Module, batch: FlatBatch) -> Tensor:
    return mean(run_rung(Rung.PADDING, model, batch), batch)


def lora(model: Any) -> nn.Module:
    torch.manual_seed(1)
    wrapped = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)
    return wrapped.eval()


@pytest.mark.parametrize("family", ["bert", "qwen3", "stablelm"])
@pytest.mark.parametrize("with_lora", [False, True])
@pytest.mark.parametrize("checkpointed", [False, True])
def test_lora_and_checkpointing_change_no_gradient(
    build: Any, rows: Any, family: str, with_lora: bool, checkpointed: bool
) -> None:
    model, plain = build(family), build(family)
    if with_lora:
        model, plain = lora(model), lora(plain)
    batch = flat_batch(rows)
    expected = gradients(plain, lambda: padded(plain, batch))
    calls = []
    if checkpointed:
        model.train()  # checkpointing is for training only; these models have no dropout
        model.enable_input_require_grads()
        unwrapped(model).activation_checkpointing_enable()
        # Inside of a layer: hooks of the layer itself stay outside of the checkpoint.
        inner = next(m for name, m in model.named_modules() if name.endswith(("query", "q_proj")))
        inner.register_forward_pre_hook(lambda *_: calls.append(1))
    forward_flat(model, batch)
    calls.clear()
    assert_equal(gradients(model, lambda: segment_vectors(model, batch, mean)), expected)
    assert len(calls) == (2 if checkpointed else 0), "computed once more for the gradient"


@pytest.mark.parametrize("family", ["bert", "qwen3"])
def test_autocast_reaches_the_flat_row(build: Any, rows: Any, family: str) -> None:
    model, plain, batch = build(family), build(family), flat_batch(rows)
    with torch.autocast("cpu", torch.bfloat16):
        found = forward_flat(model, batch)
        expected = run_rung(Rung.PADDING, plain, batch)
    assert state_of(model).rung is Rung.FLAT
    exact = run_rung(Rung.PADDING, plain, batch)
    distance, theirs = (((x - exact).norm() / exact.norm()).item() for x in (found, expected))
    assert 1e-4 < distance < 2 * theirs


def test_dropout_inside_attention_is_that_of_the_model(build: Any, rows: Any) -> None:
    model, batch = build("bert"), flat_batch(rows)
    model.encoder.layer[0].attention.self.dropout.p = 0.5
    forward_flat(model, batch)
    model.train()
    first, second = (forward_flat(model, batch) for _ in range(2))
    assert not torch.allclose(first, second, atol=1e-2)
    torch.testing.assert_close(forward_flat(model.eval(), batch), forward_flat(model, batch))


def test_a_model_held_in_bfloat16_runs_flat(build: Any, rows: Any) -> None:
    model = build("qwen3").bfloat16()
    assert forward_flat(model, flat_batch(rows)).dtype == torch.bfloat16
    assert state_of(model).rung is Rung.FLAT


@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_torch_compile_changes_no_gradient(build: Any, rows: Any) -> None:
    model, plain = build("qwen3"), build("qwen3")
    compiled = torch.compile(model, backend="aot_eager", dynamic=True)
    for batch in (flat_batch(rows), flat_batch(rows[:3])):
        expected = gradients(plain, lambda batch=batch: padded(plain, batch))
        found = gradients(model, lambda batch=batch: segment_vectors(compiled, batch, mean))
        assert_equal(found, expected)
    assert state_of(compiled).rung is Rung.FLAT


# -- gradient caching --------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bert", "qwen3", "stablelm"])
def test_cached_gradients_are_those_of_the_whole_batch(build: Any, rows: Any, family: str) -> None:
    model, plain, batch = build(family), build(family), flat_batch(rows)
    expected = gradients(plain, lambda: padded(plain, batch))
    assert_equal(gradients(model, lambda: segment_vectors(model, batch, mean, cache_tokens=30)), expected)
    torch.testing.assert_close(
        segment_vectors(model, batch, mean, cache_tokens=30), padded(plain, batch), atol=1e-5, rtol=1e-5
    )


def test_cached_gradients_see_the_dropout_of_the_vectors(rows: Any, build: Any) -> None:
    model, batch = build("bert"), flat_batch(rows)
    forward_flat(model, batch)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.3
    model.train()
    chunks, order = chunks_of(batch, 30)

    def all_held() -> Tensor:
        torch.manual_seed(5)
        parts = torch.cat([mean(forward_flat(model, chunk), chunk) for chunk in chunks])
        return parts[torch.tensor(order).argsort()]

    def cached() -> Tensor:
        torch.manual_seed(5)
        return segment_vectors(model, batch, mean, cache_tokens=30)

    assert_equal(gradients(model, cached), gradients(model, all_held))


def test_cached_chunks_hold_no_more_than_asked(rows: Any) -> None:
    chunks, order = chunks_of(flat_batch(rows), 30)
    assert [chunk.num_tokens for chunk in chunks] == [1 + 5 + 9, 17, 17, 23, 40]
    assert sorted(order) == list(range(len(rows)))


def test_caching_holds_one_chunk_of_activations_at_a_time(build: Any) -> None:
    model = build("bert")
    batch = flat_batch([[7] * 50 for _ in range(40)])
    forward_flat(model, flat_batch([[7] * 50, [8]]))
    held, most = 0, 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal held, most
        held += tensor.nelement()
        most = max(most, held)
        return tensor

    peaks = []
    for cache_tokens in (None, 100):
        held = most = 0
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            vectors = segment_vectors(model, batch, mean, cache_tokens=cache_tokens)
        peaks.append(most)
        vectors.sum().backward()
    assert peaks[1] < peaks[0] / 50, "in the forward pass nothing is kept but the vectors"


def test_rows_with_a_shared_prefix_can_t_be_cut() -> None:
    with pytest.raises(ValueError, match="share a prefix"):
        chunks_of(flat_batch([[1], [2]], parents=[None, 0]), 1)


def test_families_without_a_flat_row_cache_too(build: Any) -> None:
    model, batch = build("deberta-v2"), flat_batch(families.rows())
    expected = gradients(model, lambda: padded(model, batch))
    assert_equal(gradients(model, lambda: segment_vectors(model, batch, mean, cache_tokens=200)), expected)
