"""Running models on flat batches: exact, looked at before it is trusted, nobody else's model touched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import AutoModel, BertConfig, BertModel

from benchmarks import families
from swift_core import TrainingArguments
from swift_core.flat import FlatState, Rung, flat_batch, forward_flat, set_state, settle, state_of
from swift_core.flat.attention import FLAT
from swift_core.flat.check import relative_difference, sample_of
from swift_core.flat.forward import run_rung, unwrapped
from swift_core.models import load_backbone


def padded(model: nn.Module, rows: list[list[int]]) -> Tensor:
    """Outputs of each row alone, joined in the order of the rows; plain transformers, nothing of ours."""
    outputs = [model(input_ids=torch.tensor([row])) for row in rows]
    return torch.cat([getattr(out, "last_hidden_state", getattr(out, "logits", None))[0] for out in outputs])


def in_row_order(output: Tensor, batch: Any) -> Tensor:
    spans = zip(batch.first.tolist(), batch.last.tolist(), strict=True)
    return torch.cat([output[first : last + 1] for first, last in spans])


@pytest.mark.parametrize("family", ["bert", "roberta", "qwen3", "mistral", "deberta-v2", "lfm2"])
def test_outputs_are_those_of_each_row_alone(build: Any, rows: list[list[int]], family: str) -> None:
    model, batch = build(family), flat_batch(rows)
    found = in_row_order(forward_flat(model, batch), batch)
    torch.testing.assert_close(found, padded(build(family), rows), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("rung", list(Rung))
def test_every_rung_of_the_ladder_is_exact(build: Any, rung: Rung) -> None:
    if rung is Rung.FLASH:
        pytest.skip("flash-attention runs on CUDA only")
    rows = families.rows()  # enough tokens for several sub-batches
    model, batch = build("llama"), flat_batch(rows)
    if rung is Rung.FLAT:
        model.set_attn_implementation(FLAT)
    found = in_row_order(run_rung(rung, model, batch), batch)
    torch.testing.assert_close(found, padded(build("llama"), rows), atol=2e-5, rtol=2e-5)


def test_sub_batches_hold_little_padding(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = build("deberta-v2"), flat_batch(families.rows() * 4)
    shapes = []
    forward = model.forward

    def watched(**inputs: Any) -> Any:
        shapes.append(tuple(inputs["input_ids"].shape))
        return forward(**inputs)

    settle(model, batch)
    monkeypatch.setattr(model, "forward", watched)
    forward_flat(model, batch)
    assert len(shapes) > 1
    computed = sum(rows * longest for rows, longest in shapes)
    assert computed < 1.2 * batch.num_tokens < batch.padded_tokens


# -- shared prefixes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["qwen3", "llama", "gpt2", "mistral", "gemma3_text", "stablelm", "gemma2"])
def test_a_child_gets_what_it_gets_behind_its_parent(build: Any, family: str) -> None:
    generator = torch.Generator().manual_seed(3)
    lengths, parents = [6, 13, 4, 6, 9, 5], [1, None, 1, None, 3, None]
    rows = [torch.randint(4, 120, (n,), generator=generator).tolist() for n in lengths]
    model, plain = build(family), build(family)
    batch = flat_batch(rows, parents=parents)
    found = in_row_order(forward_flat(model, batch), batch)
    expected = []
    for row, parent in zip(rows, parents, strict=True):
        before = [] if parent is None else rows[parent]
        expected.append(padded(plain, [before + row])[len(before) :])
    joined = torch.cat(expected)
    torch.testing.assert_close(found, joined, atol=2e-5, rtol=2e-5)
    weights = torch.randn(found.shape, generator=generator)
    (found * weights).sum().backward()
    (joined * weights).sum().backward()
    for mine, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        if theirs.grad is not None:
            torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-4, rtol=1e-4)


def test_the_user_s_own_attention_sees_shared_prefixes_through_a_mask(build: Any) -> None:
    model = build("llama")
    set_state(model, FlatState(asked="sdpa"))
    batch = flat_batch([[5, 6, 7], [8, 9], [10]], parents=[None, 0, 0])
    found = forward_flat(model, batch)
    assert state_of(model).rung is Rung.MASK
    assert unwrapped(model).config._attn_implementation == "sdpa"
    expected = padded(build("llama"), [[5, 6, 7, 8, 9]])[3:]
    torch.testing.assert_close(found[batch.first[1] : batch.last[1] + 1], expected, atol=2e-5, rtol=2e-5)


def test_a_model_is_looked_at_again_when_prefixes_come(build: Any, rows: list[list[int]]) -> None:
    model = build("llama")
    forward_flat(model, flat_batch(rows))
    assert not state_of(model).knows_parents
    forward_flat(model, flat_batch([[5, 6], [7]], parents=[None, 0]))
    assert state_of(model).knows_parents
    assert state_of(model).rung is Rung.FLAT


def test_flash_attention_of_the_user_s_is_told_the_boundaries(build: Any, rows: list[list[int]]) -> None:
    told: dict[str, Any] = {}

    class Watched(nn.Module):
        """Says what it is given, as no flash-attention runs here."""

        def forward(self, input_ids: Tensor, position_ids: Tensor, **inputs: Any) -> Any:
            told.update(inputs)
            hidden = position_ids.unsqueeze(-1).float()
            return transformers.modeling_outputs.BaseModelOutput(last_hidden_state=hidden)

    batch = flat_batch(rows)
    positions = in_row_order(run_rung(Rung.FLASH, Watched(), batch), batch)
    assert positions.squeeze(-1).tolist() == [n for row in rows for n in range(len(row))]
    assert told["cu_seq_lens_q"].tolist() == told["cu_seq_lens_k"].tolist() == [0, 1, 6, 15, 32, 49, 72, 112]
    assert (told["max_length_q"], told["max_length_k"], told["attention_mask"]) == (40, 40, None)


# -- heads -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["qwen3", "stablelm"])
def test_only_picked_tokens_meet_the_vocabulary(family: str, rows: list[list[int]]) -> None:
    config = families.build(family).config
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    batch = flat_batch(rows)
    picked = torch.tensor([3, 0, 50, 51, 20])
    met = []
    forward_flat(model, batch)  # looked at: from here on only what is asked for runs
    model.lm_head.register_forward_hook(lambda _, inputs, __: met.append(inputs[0].shape[:-1].numel()))
    logits = forward_flat(model, batch, picked=picked)
    assert logits.shape == (5, families.VOCABULARY)
    assert sum(met) < batch.num_tokens if state_of(model).rung is Rung.SUB_BATCHES else met == [5]
    torch.testing.assert_close(logits, forward_flat(model, batch)[picked], atol=1e-5, rtol=1e-5)


def test_token_types_reach_the_model(build: Any) -> None:
    model, plain = build("bert"), build("bert")
    rows, types = [[5, 6, 7, 8], [9, 10]], [[0, 0, 1, 1], [0, 1]]
    batch = flat_batch(rows, token_type_ids=types)
    found = in_row_order(forward_flat(model, batch), batch)
    pairs = zip(rows, types, strict=True)
    expected = [
        plain(input_ids=torch.tensor([r]), token_type_ids=torch.tensor([t])).last_hidden_state[0]
        for r, t in pairs
    ]
    torch.testing.assert_close(found, torch.cat(expected), atol=2e-5, rtol=2e-5)
    assert not torch.allclose(found, in_row_order(forward_flat(model, flat_batch(rows)), batch), atol=1e-2)


# -- never a wrong gradient in silence ---------------------------------------------------------------------


class Careless(BertModel):
    """A family that claims the interface and hands on nothing: tokens would see all other rows."""

    def forward(self, *args: Any, flat: Any = None, **kwargs: Any) -> Any:
        return super().forward(*args, **{**kwargs, "attention_mask": None} if flat else kwargs)


def careless() -> Careless:
    config = BertConfig(
        vocab_size=120, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    torch.manual_seed(0)
    return Careless(config).eval()


def test_a_model_that_ignores_the_boundaries_is_found_out(rows: list[list[int]], capsys: Any) -> None:
    model, batch = careless(), flat_batch(rows)
    found = in_row_order(forward_flat(model, batch), batch)
    assert state_of(model).rung is Rung.SUB_BATCHES
    torch.testing.assert_close(found, padded(careless(), rows), atol=2e-5, rtol=2e-5)
    told = capsys.readouterr().out
    assert told.count("\n") == 1
    assert "Careless: sub-batches of similar length (flat row: its outputs differ by" in told
    forward_flat(model, batch)
    assert capsys.readouterr().out == "", "said once"


def test_a_model_without_any_rung_pads(rows: list[list[int]]) -> None:
    class Sized(nn.Module):
        """Its output depends on what else is in the batch, as that of no sane model does."""

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
            hidden = input_ids.unsqueeze(-1).float() * attention_mask.sum()
            return transformers.modeling_outputs.BaseModelOutput(last_hidden_state=hidden)

    model = Sized()
    batch = flat_batch([*rows, *([[7] * 90] * 6)])
    out = forward_flat(model, batch)
    assert state_of(model).rung is Rung.PADDING
    torch.testing.assert_close(out, run_rung(Rung.PADDING, model, batch))


@pytest.mark.parametrize("family", ["bamba", "qwen3_next", "lfm2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_state_that_runs_on_is_found_from_one_text_and_in_half_precision(
    build: Any, family: str, dtype: torch.dtype
) -> None:
    model = build(family).to(dtype)
    forward_flat(model, flat_batch([[5, 6, 7, 8, 9] * 8]))
    assert state_of(model).rung is Rung.SUB_BATCHES


def test_one_text_is_checked_in_company() -> None:
    assert len(sample_of(flat_batch([[5, 6, 7, 8]]))) == 3
    assert len(sample_of(flat_batch([[5]], token_type_ids=[[0]]))) == 3


def test_a_leak_into_few_tokens_counts_in_half_precision_too() -> None:
    exact = torch.randn(400, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = exact.clone()
    found[:2] += 1.0
    assert relative_difference(found, exact) > 0.05
    assert relative_difference(exact * 1.01, exact) < 0.05
    broken = exact.clone()
    broken[7] = float("nan")
    assert relative_difference(broken, exact) == float("inf")
    assert relative_difference(exact, broken) == 0.0


def test_a_window_that_only_a_mask_tells_is_no_flat_row(build: Any, rows: list[list[int]]) -> None:
    model = build("llama")
    model.config.sliding_window = 8  # llama's layers hand on none
    forward_flat(model, flat_batch(rows))
    assert "a window that only its mask tells" in state_of(model).reason


def test_the_check_leaves_dropout_gradients_and_random_numbers_alone(
    build: Any, rows: list[list[int]]
) -> None:
    model = build("bert").train()
    model.encoder.layer[0].eval()
    before = torch.random.get_rng_state()
    settle(model, flat_batch(rows))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert model.training and not model.encoder.layer[0].training
    assert all(p.grad is None for p in model.parameters())


def test_the_check_is_of_a_bounded_size() -> None:
    batch = flat_batch([[1] * n for n in (3000, 5, 600, 700, 800, 900, 1000, 2000, 1)])
    sample = sample_of(batch)
    assert sample.num_tokens <= 4096
    assert {1, 1024} <= set(sample.lengths), "the shortest and the longest are in, cut"


# -- other users of transformers ---------------------------------------------------------------------------


def test_a_model_on_the_flat_row_still_takes_padded_batches(build: Any, rows: list[list[int]]) -> None:
    model, plain = build("gemma3_text"), build("gemma3_text")
    forward_flat(model, flat_batch(rows))
    assert state_of(model).rung is Rung.FLAT
    ids = torch.randint(4, 120, (3, 20))
    mask = torch.ones(3, 20, dtype=torch.long)
    mask[1, 9:] = 0
    both = [m(input_ids=ids, attention_mask=mask).last_hidden_state[mask == 1] for m in (model, plain)]
    torch.testing.assert_close(*both)


def test_other_models_and_saved_configurations_know_nothing_of_it(
    build: Any, rows: Any, tmp_path: Path
) -> None:
    model = build("bert")
    forward_flat(model, flat_batch(rows))
    model.save_pretrained(tmp_path)
    assert "swift" not in (tmp_path / "config.json").read_text()
    assert AutoModel.from_pretrained(tmp_path).config._attn_implementation == "sdpa"
    assert build("bert").config._attn_implementation == "sdpa"


@pytest.mark.parametrize("asked", ["sdpa", "eager"])
def test_the_attention_that_the_user_asks_for_wins(
    tiny_encoder: Path, rows: list[list[int]], asked: str
) -> None:
    args = TrainingArguments("embedding", model_name_or_path=str(tiny_encoder), attn_implementation=asked)
    model = load_backbone(args, AutoModel).eval()
    forward_flat(model, flat_batch(rows))
    assert model.config._attn_implementation == asked
    assert (
        state_of(model).told == f"sub-batches of similar length (attn_implementation={asked} was asked for)"
    )


def test_nobody_has_to_switch_it_on(tiny_encoder: Path, rows: list[list[int]]) -> None:
    args = TrainingArguments("embedding", model_name_or_path=str(tiny_encoder))
    model = load_backbone(args, AutoModel)
    forward_flat(model, flat_batch(rows))
    assert state_of(model).rung is Rung.FLAT
    assert json.loads(model.config.to_json_string()).get("attn_implementation") is None
