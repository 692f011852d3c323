"""Answers are those of a plain loop over single prompts, and the model is as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from swift_core.errors import UserError
from swift_core.flat.attention import FLAT
from swift_dpo.adapters import without_adapter
from swift_dpo.ends import end_tokens
from swift_dpo.generation import Sampling, answers_of, rendered
from swift_dpo.tokens import Tokens

TEXTS = ["what is a cat", "x", "who won the match of the red team and the other one", "how far is the moon"]


def chat(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def load(folder: Path, attention: str = "sdpa") -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention)


def by_hand(model: Any, ids: list[int], ends: list[int], count: int) -> list[int]:
    """The likeliest token, again and again, without a cache and without padding."""
    new: list[int] = []
    while len(new) < count and not (new and new[-1] in ends):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids + new]), use_cache=False).logits[0, -1]
        new.append(int(logits.argmax()))
    return new


@pytest.fixture
def tokenizer(causal: Path) -> Any:
    return AutoTokenizer.from_pretrained(causal)


@pytest.mark.parametrize("attention", [FLAT, "sdpa", "eager"])
def test_a_padded_batch_with_a_cache_answers_like_a_plain_loop(
    causal: Path, tokenizer: Any, attention: str
) -> None:
    model = load(causal, attention)
    prompts = [rendered(tokenizer, chat(text)) for text in TEXTS]
    assert len({len(ids) for ids in prompts}) > 2
    ends = end_tokens(model, tokenizer)
    plain = load(causal)
    expected = [by_hand(plain, ids, ends, 12) for ids in prompts]
    found = answers_of(model, tokenizer, prompts, Sampling(max_new_tokens=12, batch_size=3))
    assert [answer.text for answer in found] == [
        tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in expected
    ]
    assert [answer.tokens for answer in found] == [len(ids) for ids in expected]
    assert [answer.complete for answer in found] == [ids[-1] in ends for ids in expected]
    assert len({answer.text for answer in found}) > 1
    assert model.config._attn_implementation == attention


def test_an_answer_ends_at_its_end_token(causal: Path, tokenizer: Any) -> None:
    model = load(causal)
    ids = rendered(tokenizer, chat(TEXTS[0]))
    new = by_hand(model, ids, [], 8)
    # What the model says third is its end token now: nothing of the rest may be left.
    model.generation_config.eos_token_id = new[2]
    (answer,) = answers_of(model, tokenizer, [ids], Sampling(max_new_tokens=8))
    assert answer.complete and answer.tokens == new.index(new[2]) + 1
    assert len(by_hand(model, ids, [new[2]], 8)) == answer.tokens


def test_the_end_of_a_turn_is_an_end_where_the_tokenizer_names_another(causal: Path, tokenizer: Any) -> None:
    model = load(causal)
    turn = tokenizer.convert_tokens_to_ids("<|im_end|>")
    tokenizer.eos_token = "<|endoftext|>"
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    assert end_tokens(model, tokenizer) == [tokenizer.eos_token_id, turn]
    tokenizer.chat_template = None
    assert end_tokens(model, tokenizer) == [tokenizer.eos_token_id]


def test_a_turn_may_end_with_a_token_that_was_added_as_a_plain_one(causal: Path, tokenizer: Any) -> None:
    tokenizer.add_tokens(["<turn>"])
    end = tokenizer.convert_tokens_to_ids("<turn>")
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_end|>", "<turn>")
    assert end in end_tokens(load(causal), tokenizer)
    # What is told of data and where generation stops are the same.
    assert Tokens(tokenizer=tokenizer).of_row(
        chat("x"), [[{"role": "assistant", "content": "y"}]]
    ).complete == [True]


def test_sampling_follows_its_seed_and_leaves_all_random_numbers_alone(causal: Path, tokenizer: Any) -> None:
    model = load(causal)
    prompts = [rendered(tokenizer, chat(text)) for text in TEXTS]

    def answers(seed: int, temperature: float = 1.5) -> list[str]:
        how = Sampling(max_new_tokens=8, temperature=temperature, seed=seed)
        return [answer.text for answer in answers_of(model, tokenizer, prompts, how)]

    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = answers(1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert answers(1) == first
    assert answers(2) != first
    assert answers(1, temperature=1e-3) == answers(1, temperature=0)


def test_what_the_model_would_do_by_itself_is_not_done(causal: Path, tokenizer: Any) -> None:
    model = load(causal)
    prompts = [rendered(tokenizer, chat(TEXTS[0]))]
    expected = answers_of(model, tokenizer, prompts, Sampling(max_new_tokens=12))
    own = model.generation_config
    own.repetition_penalty, own.do_sample, own.temperature, own.top_k = 5.0, True, 3.0, 7
    told = own.to_dict()
    assert answers_of(model, tokenizer, prompts, Sampling(max_new_tokens=12)) == expected
    assert model.generation_config.to_dict() == told


def test_a_model_that_trains_goes_on_as_it_was(causal: Path, tokenizer: Any) -> None:
    model = get_peft_model(load(causal, FLAT), LoraConfig(r=2, target_modules="all-linear", lora_dropout=0.5))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.5)
    model.train()
    model.get_base_model().model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    trained = [parameter.requires_grad for parameter in model.parameters()]
    config = model.config.to_dict()
    prompts = [rendered(tokenizer, chat(text)) for text in TEXTS]
    how = Sampling(max_new_tokens=8)
    policy = answers_of(model, tokenizer, prompts, how)
    with without_adapter(model) as reference:
        assert answers_of(reference, tokenizer, prompts, how) == answers_of(
            load(causal), tokenizer, prompts, how
        )
    assert answers_of(model, tokenizer, prompts, how) == policy
    assert policy != answers_of(load(causal), tokenizer, prompts, how)
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == trained
    assert model.config.to_dict() == config
    # An adapter that is not trained is not afterwards.
    model.requires_grad_(False)
    with without_adapter(model):
        pass
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_an_answer_fits_into_what_the_model_reads(causal: Path, tokenizer: Any) -> None:
    model = load(causal)
    (answer,) = answers_of(model, tokenizer, [[5] * 250], Sampling(max_new_tokens=100))
    assert answer.tokens <= 6
    with pytest.raises(UserError, match="a prompt has 256 tokens, and the model reads at most 256"):
        answers_of(model, tokenizer, [[5] * 256], Sampling())
    assert answers_of(model, tokenizer, [], Sampling()) == []


def test_prompts_are_written_with_the_chat_template(tokenizer: Any) -> None:
    asked = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(rendered(tokenizer, chat("hello"))) == asked
    assert tokenizer.decode(rendered(tokenizer, "hello")) == "hello"
    ending = [*tokenizer("hello").input_ids, tokenizer.eos_token_id]
    assert rendered(tokenizer, "hello<|im_end|>") == ending[:-1]
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]
    assert tokenizer.decode(rendered(tokenizer, messages)).startswith("<|im_start|>system\nbe brief")
    with pytest.raises(ValueError, match=r"^prompt: the chat template can't write it"):
        rendered(tokenizer, [{"role": "user"}])
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match=r"^prompt: expected a text, because the tokenizer has no chat"):
        rendered(tokenizer, messages)
