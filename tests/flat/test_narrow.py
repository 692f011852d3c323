"""The last layer on the tokens that are read: exact, really narrow, and nothing left behind."""

from __future__ import annotations

from threading import Barrier, Thread
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from benchmarks import families
from swift_core.flat import Rung, flat_batch, forward_flat, segment_vectors, settle, state_of

# peft 0.21 asks transformers 5.23 by an old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

LINEARS = {
    "bert": "encoder.layer.1.intermediate.dense",
    "xmod": "encoder.layer.1.intermediate.dense",
    "distilbert": "transformer.layer.1.ffn.lin1",
    "modernbert": "layers.1.mlp.Wi",
    "qwen3": "layers.1.mlp.gate_proj",
    "llama": "layers.1.mlp.gate_proj",
    "gemma3_text": "layers.1.mlp.gate_proj",
    "phi": "layers.1.mlp.fc1",
    "gpt2": "h.1.mlp.c_fc",
}
"""A product inside the last feed-forward."""
ALONE = {"albert", "opt", "mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "deepseek_v3"}
"""Families that run flat and whose last layer is left alone."""
IN_FLOAT32 = {*ALONE, "gpt_oss", "qwen3_next"}
"""Experts multiply in float32 only."""


def seen(model: nn.Module, family: str) -> list[int]:
    """Fills up with how many tokens come to the last feed-forward."""
    found: list[int] = []
    inside = model.get_submodule(LINEARS[family])
    inside.register_forward_hook(lambda _, inputs, __: found.append(inputs[0].shape[:-1].numel()))
    return found


def gradients(model: nn.Module, output: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(2), dtype=output.dtype)
    (output * weights).square().sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    # A part that nobody reads may have a gradient of zero on one side and none on the other.
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    assert largest > 0
    for name in found.keys() | expected.keys():
        one, other = (side.get(name, torch.zeros(())) for side in (found, expected))
        assert float((one - other).abs().max()) < 1e-6 * largest, name


@pytest.mark.parametrize("family", families.FAMILIES)
def test_what_is_read_and_its_gradients_are_those_of_the_whole_row(family: str) -> None:
    model = families.build(family)
    model = model if family in IN_FLOAT32 else model.double()
    rows = families.rows()[:12]
    # Places out of order, one of them twice, as an answer's first token is predicted from its prompt.
    picked = torch.tensor([7, 3, 50, 51, 3, 0])
    batch = flat_batch(rows)
    settle(model, batch)
    if state_of(model).rung is not Rung.FLAT:
        pytest.skip("the family has no flat row")
    assert (state_of(model).tail is None) == (family in ALONE)
    whole = forward_flat(model, batch)[picked]
    expected = gradients(model, whole)
    found = forward_flat(model, batch, picked=picked)
    torch.testing.assert_close(found, whole, rtol=1e-9, atol=1e-9)
    assert_equal(gradients(model, found), expected)


@pytest.mark.parametrize("family", LINEARS)
def test_the_last_feed_forward_meets_the_tokens_that_are_read_and_no_others(
    build: Any, rows: list[list[int]], family: str
) -> None:
    model, batch = build(family), flat_batch(rows)
    settle(model, batch)
    counts = seen(model, family)
    for pool in ("cls", "lasttoken"):
        segment_vectors(model, batch, pool)  # type: ignore[arg-type]
    forward_flat(model, batch, picked=torch.tensor([5, 9, 5]))
    segment_vectors(model, batch, "mean")
    forward_flat(model, batch, picked=torch.arange(batch.num_tokens - 1))
    assert counts == [len(rows), len(rows), 2, batch.num_tokens, batch.num_tokens]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_shared_prefix_costs_one_token_of_the_last_feed_forward(build: Any, family: str) -> None:
    model = build(family)
    batch = flat_batch([[5, 6, 7, 8, 9] * 4, [8, 9], [10, 11, 12], [4]], parents=[None, 0, 0, 0])
    settle(model, batch)
    counts = seen(model, family)
    found = segment_vectors(model, batch, "lasttoken")
    assert counts == [4]
    torch.testing.assert_close(found, forward_flat(model, batch)[batch.last], atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning")
@pytest.mark.parametrize("family", ["bert", "modernbert", "qwen3", "gpt2"])
@pytest.mark.parametrize("with_lora", [False, True])
@pytest.mark.parametrize("cache_tokens", [None, 30])
def test_checkpointing_computes_the_same_tokens_again(
    build: Any, rows: list[list[int]], family: str, with_lora: bool, cache_tokens: int | None
) -> None:
    model, batch = build(family).double(), flat_batch(rows)
    counts = seen(model, family) if not with_lora else []
    called: Any = model
    if with_lora:
        called = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
        called = called.double()
    settle(called, batch)
    assert state_of(called).tail is not None
    expected = gradients(called, forward_flat(called, batch)[batch.last])
    # For training only; none of these models has dropout but gpt2, where it is 0.
    called.train()
    model.enable_input_require_grads()
    model.activation_checkpointing_enable()
    counts.clear()
    assert_equal(
        gradients(called, segment_vectors(called, batch, "lasttoken", cache_tokens=cache_tokens)), expected
    )
    assert with_lora or (counts and max(counts) <= len(rows))
    assert with_lora or sum(counts) >= 2 * len(rows)


def test_what_fails_inside_leaves_nothing_behind(build: Any, rows: list[list[int]]) -> None:
    model, batch = build("bert"), flat_batch(rows)
    settle(model, batch)

    def state() -> list[Any]:
        return [
            (name, type(m), dict(m._modules), sorted(m.__dict__), dict(m._forward_hooks))
            for name, m in model.named_modules()
        ]

    before = state()
    inside = model.get_submodule(LINEARS["bert"])
    handle = inside.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        segment_vectors(model, batch, "cls")
    handle.remove()
    assert state() == before
    expected = forward_flat(model, batch)[batch.first]
    torch.testing.assert_close(segment_vectors(model, batch, "cls"), expected, atol=1e-5, rtol=1e-5)


def test_two_threads_read_other_tokens_of_one_model(build: Any, rows: list[list[int]]) -> None:
    model = build("bert")
    batches = [flat_batch(rows), flat_batch(rows[:4])]
    settle(model, batches[0])
    expected = [
        forward_flat(model, batches[0])[batches[0].first],
        forward_flat(model, batches[1])[batches[1].last],
    ]
    meeting = Barrier(2, timeout=20)
    # Both are inside of the last layer before either of them is through it.

    def wait(*_: Any) -> None:
        meeting.wait()

    model.get_submodule(LINEARS["bert"]).register_forward_pre_hook(wait)
    found: dict[int, Tensor] = {}

    def run(number: int) -> None:
        found[number] = segment_vectors(model, batches[number], "cls" if number == 0 else "lasttoken")

    threads = [Thread(target=run, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(2):
        torch.testing.assert_close(found[number], expected[number], atol=1e-5, rtol=1e-5)


def test_a_layer_that_mixes_tokens_behind_its_attention_is_found_out(rows: list[list[int]]) -> None:
    class Mixing(transformers.BertModel):
        """Each token's vector has something of the next place in its text, from the last layer's output."""

        def forward(self, *args: Any, flat: Any = None, **kwargs: Any) -> Any:
            output = super().forward(*args, flat=flat, **kwargs)
            hidden = output.last_hidden_state
            mixed = hidden[0] if flat is None else hidden[0].clone()
            if flat is None:
                output.last_hidden_state = hidden + hidden[:, :1]
            else:
                starts = flat.query_bounds[:-1].long().repeat_interleave(torch.tensor(flat.lengths))
                output.last_hidden_state = (mixed + mixed[starts])[None]
            return output

    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    model = Mixing(transformers.BertConfig(vocab_size=120, **shape)).eval()
    batch = flat_batch(rows)
    settle(model, batch)
    assert state_of(model).rung is Rung.FLAT
    assert state_of(model).tail is None
    expected = forward_flat(model, batch)[batch.last]
    torch.testing.assert_close(segment_vectors(model, batch, "lasttoken"), expected)


def test_a_model_that_is_asked_for_all_its_layers_is_left_alone(build: Any, rows: list[list[int]]) -> None:
    model, batch = build("bert"), flat_batch(rows)
    settle(model, batch)
    model.config.output_hidden_states = True
    for _ in range(3):
        segment_vectors(model, batch, "cls")
    hooks = [len(module._forward_hooks) for module in model.modules()]
    assert max(hooks) <= 1, "the library watches each layer once"


def test_dropout_and_autocast_work_on_few_tokens(build: Any, rows: list[list[int]]) -> None:
    model, batch = build("bert"), flat_batch(rows)
    settle(model, batch)
    counts = seen(model, "bert")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        lower = segment_vectors(model, batch, "cls")
    exact = forward_flat(model, batch)[batch.first].detach()
    assert 1e-4 < float((lower - exact).norm() / exact.norm()) < 0.05
    model.encoder.layer[1].output.dropout.p = 0.5
    model.train()
    first, second = (segment_vectors(model, batch, "cls") for _ in range(2))
    assert not torch.allclose(first, second, atol=1e-2)
    assert counts == [len(rows), batch.num_tokens, len(rows), len(rows)]


def test_what_is_compiled_meets_no_copies(
    build: Any, rows: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = build("bert"), flat_batch(rows)
    settle(model, batch)
    counts = seen(model, "bert")
    # Compiling a model takes minutes; a copy for each batch would be compiled until the compiler gives up.
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    segment_vectors(model, batch, "cls")
    assert counts == [batch.num_tokens]
