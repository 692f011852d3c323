"""Log-probabilities of answer tokens equal those of padded whole texts, with their gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from swift_core.errors import UserError
from swift_core.flat import FlatBatch, flat_batch
from swift_dpo.head import linear_token_scores
from swift_dpo.policy import as_policy
from swift_dpo.scoring import answer_scores

SMALL = {"vocab_size": 90, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
STILL = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3": ("Qwen3", {**SMALL, **HEADS, "head_dim": 8, "tie_word_embeddings": True}),
    "llama": ("Llama", {**SMALL, **HEADS}),
    "gemma2": ("Gemma2", {**SMALL, **HEADS, "head_dim": 8, "final_logit_softcapping": 2.0}),
    "granite": ("Granite", {**SMALL, **HEADS, "logits_scaling": 4.0}),
    "cohere": ("Cohere", {**SMALL, **HEADS, "logit_scale": 0.3}),
    "gpt2": ("GPT2", {"vocab_size": 90, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, **STILL}),
    "phi": ("Phi", {**SMALL, "num_attention_heads": 4, "max_position_embeddings": 64}),  # its head has a bias
}
PLAIN = {"qwen3", "llama", "gpt2", "phi"}

PROMPTS = [[5, 6, 7, 8, 9], [11, 12]]
ANSWERS = [[21, 22, 23], [21, 31, 32, 33, 34], [41], [42, 43, 44, 45]]
PARENTS = [0, 0, 1, 1]


def model_of(family: str) -> Any:
    name, options = FAMILIES[family]
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**options, initializer_range=0.3, pad_token_id=0)
    return transformers.AutoModelForCausalLM.from_config(config).train()


def batch() -> tuple[FlatBatch, Tensor, Tensor]:
    """The flat row, the places that predict, and the tokens that follow them, answer by answer."""
    flat = flat_batch([*PROMPTS, *ANSWERS], parents=[None, None, *PARENTS])
    predictors = []
    for number, (answer, parent) in enumerate(zip(ANSWERS, PARENTS, strict=True)):
        first = int(flat.first[len(PROMPTS) + number])
        predictors += [int(flat.last[parent]), *range(first, first + len(answer) - 1)]
    return flat, torch.tensor(predictors), torch.tensor([token for answer in ANSWERS for token in answer])


def padded_logps(model: nn.Module) -> Tensor:
    """The same, one whole text after another, through the library's own forward pass."""
    found = []
    for answer, parent in zip(ANSWERS, PARENTS, strict=True):
        whole = torch.tensor([[*PROMPTS[parent], *answer]])
        every = model(input_ids=whole).logits[0].double().log_softmax(-1)
        start = len(PROMPTS[parent])
        found += [every[start + n - 1, token] for n, token in enumerate(answer)]
    return torch.stack(found)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("frozen", [False, True], ids=["all weights", "frozen head"])
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_and_gradients_are_those_of_whole_texts(family, frozen):
    model, reference = model_of(family), model_of(family)
    as_policy(model)
    for one in (model, reference):
        one.get_output_embeddings().requires_grad_(not frozen)
        one.get_input_embeddings().requires_grad_(not frozen)
    assert model.plain_head == (family in PLAIN)
    flat, predictors, targets = batch()
    scale = torch.linspace(-1, 2, len(targets))
    expected = padded_logps(reference)
    (expected * scale).sum().backward()
    found = model(flat=flat, predictors=predictors, targets=targets)["logps"]
    (found * scale).sum().backward()
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
    wanted, got = gradients(reference), gradients(model)
    assert wanted.keys() == got.keys() and wanted
    for name, gradient in wanted.items():
        torch.testing.assert_close(got[name], gradient, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kept", [0, 400, 2**26])
@pytest.mark.parametrize("family", ["qwen3", "granite"])
def test_many_chunks_are_as_one(family, kept, monkeypatch):
    model = model_of(family)
    as_policy(model)
    flat, predictors, targets = batch()
    arguments = {"flat": flat, "predictors": predictors, "targets": targets, "confidence": True}
    scale = torch.linspace(-1, 2, len(targets))
    whole = model(**arguments)
    (whole["logps"] * scale).sum().backward()
    wanted = gradients(model)
    model.zero_grad()
    monkeypatch.setattr("swift_dpo.head._CHUNK_NUMBERS", 1)
    monkeypatch.setattr("swift_dpo.head._FEWEST_ROWS", 2)
    monkeypatch.setattr("swift_dpo.head._KEPT_NUMBERS", kept)
    cut = model(**arguments)
    (cut["logps"] * scale).sum().backward()
    for name in ("logps", "confidence", "mean_logits"):
        torch.testing.assert_close(cut[name], whole[name])
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, wanted[name], atol=2e-5, rtol=1e-4)


def test_a_second_backward_pass_gives_the_same_gradients(monkeypatch):
    monkeypatch.setattr("swift_dpo.head._CHUNK_NUMBERS", 1)
    monkeypatch.setattr("swift_dpo.head._FEWEST_ROWS", 2)
    model = model_of("qwen3")
    as_policy(model)
    flat, predictors, targets = batch()
    loss = model(flat=flat, predictors=predictors, targets=targets)["logps"].square().sum()
    loss.backward(retain_graph=True)
    first = gradients(model)
    model.zero_grad()
    loss.backward()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, first[name], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_second_derivative_is_an_error_rather_than_wrong(frozen):
    hidden, weight = torch.randn(3, 4, requires_grad=True), torch.randn(5, 4, requires_grad=not frozen)
    logps = linear_token_scores(hidden, weight, None, torch.tensor([0, 1, 4])).logps
    (first,) = torch.autograd.grad(logps.square().sum(), hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.square().sum().backward()


@pytest.mark.parametrize("family", FAMILIES)
def test_confidence_and_mean_logits_are_as_defined(family):
    model = model_of(family)
    as_policy(model)
    flat, predictors, targets = batch()
    found = model(flat=flat, predictors=predictors, targets=targets, confidence=True)
    logits = []
    for answer, parent in zip(ANSWERS, PARENTS, strict=True):
        start = len(PROMPTS[parent])
        whole = torch.tensor([[*PROMPTS[parent], *answer]])
        logits.append(model(input_ids=whole).logits[0, start - 1 : -1].double())
    every = torch.cat(logits)
    shares = every.softmax(-1)
    expected = shares.gather(1, targets[:, None])[:, 0].log() - shares.square().sum(-1).log()
    torch.testing.assert_close(found["confidence"].double(), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found["mean_logits"].double(), every.mean(-1), atol=1e-4, rtol=1e-4)
    assert not found["confidence"].requires_grad and not found["mean_logits"].requires_grad


def test_generation_is_that_of_the_family(causal):
    plain = transformers.AutoModelForCausalLM.from_pretrained(causal)
    model = transformers.AutoModelForCausalLM.from_pretrained(causal)
    as_policy(model)
    texts = {
        "input_ids": torch.tensor([[0, 0, 5, 6, 7], [9, 8, 7, 6, 5]]),
        "attention_mask": torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]),
        "max_new_tokens": 6,
        "do_sample": False,
    }
    flat, predictors, targets = batch()
    model(flat=flat, predictors=predictors, targets=targets)  # the flat row's attention is in place
    assert torch.equal(model.generate(**texts), plain.generate(**texts))
    assert type(model).__name__ == "Qwen3ForCausalLM"


def test_a_model_without_a_plain_body_and_head_is_refused():
    config = transformers.BertConfig(
        vocab_size=90, hidden_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    with pytest.raises(UserError, match="is not a layer of it"):
        as_policy(transformers.BertLMHeadModel(config))


def test_long_answers_are_summed_without_loss():
    values = -10 - torch.rand(6000, generator=torch.Generator().manual_seed(0))
    owners = torch.arange(6000) % 2
    found = answer_scores(
        lambda **_: {"logps": values, "mean_logits": values},  # type: ignore[arg-type]
        {
            "flat": None,
            "predictors": None,
            "targets": None,
            "weights": torch.ones(6000),
            "owners": owners,
            "tokens": torch.full((2,), 3000.0),
        },
    )
    expected = torch.stack([values[owners == n].double().sum() for n in range(2)])
    torch.testing.assert_close(found.logps, expected.float(), atol=0, rtol=0)
