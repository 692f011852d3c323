"""Answers of a causal model to prompts, without a trace in the model or in its random numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from jinja2 import TemplateError
from transformers import GenerationConfig

from swift_core.errors import UserError, first_line
from swift_core.model_folders import position_limit
from swift_core.modes import evaluating
from swift_dpo.ends import end_tokens

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

# Shape legend: B prompts of a batch, P tokens of the longest prompt, N new tokens.

Message: TypeAlias = Mapping[str, Any]
Prompt: TypeAlias = str | Sequence[Message]
"""A text, or messages with ``role`` and ``content``."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How answers are drawn.

    Attributes:
        max_new_tokens: longest answer.
        temperature: of the distribution that tokens are drawn from; 0 takes the likeliest.
        seed: of the draws.
        batch_size: prompts at once.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    seed: int = 0
    batch_size: int = 32


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model answered.

    Attributes:
        text: without special tokens and without space around it.
        tokens: how many, with the end token.
        complete: it ended with an end token, not because it was cut.
    """

    text: str
    tokens: int
    complete: bool


def rendered(
    tokenizer: PreTrainedTokenizerBase, prompt: Prompt, tools: Sequence[Any] | None = None
) -> list[int]:
    """Token ids of a prompt up to where the answer begins.

    Messages are written with the tokenizer's chat template; a text stands for itself.

    Args:
        tools: what the template is told of tools.

    Raises:
        ValueError: the template can't write it; the message starts with ``prompt``.
    """
    if isinstance(prompt, str):
        plain: list[int] = tokenizer(prompt)["input_ids"]
        # Some tokenizers end every text, and this one goes on.
        return plain[:-1] if plain[1:] and plain[-1] == tokenizer.eos_token_id else plain
    if tokenizer.chat_template is None:
        raise ValueError(
            "prompt: expected a text, because the tokenizer has no chat template, found messages; name an "
            "instruction-tuned model, or set chat_template"
        )
    messages: Any = list(prompt)
    given: Any = None if tools is None else list(tools)
    try:
        ids: Any = tokenizer.apply_chat_template(
            messages, tools=given, add_generation_prompt=True, return_dict=False
        )
    except (TemplateError, TypeError, KeyError, ValueError) as error:
        raise ValueError(f"prompt: the chat template can't write it ({first_line(error)})") from error
    return list(ids)


def answers_of(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
) -> list[Answer]:
    """Let ``model`` answer.

    The model's modes, its configuration and all random numbers are afterwards as they were.

    Args:
        model: a ``...ForCausalLM`` of transformers, perhaps with an adapter of peft.
        prompts: token ids of each, as :func:`rendered` gives them.

    Returns:
        The answers, in the order of ``prompts``.

    Raises:
        UserError: a prompt leaves no room for an answer.
    """
    inner: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    room = _room(inner, prompts)
    ends = end_tokens(inner, tokenizer)
    # Prompts of like length pad each other little; the longest first tells at once when memory is short.
    order = sorted(range(len(prompts)), key=lambda n: len(prompts[n]), reverse=True)
    found: list[Answer | None] = [None] * len(prompts)
    with evaluating(model), _own_random_numbers(inner.device, sampling.seed):
        for start in range(0, len(order), sampling.batch_size):
            places = order[start : start + sampling.batch_size]
            rows = [list(prompts[n]) for n in places]
            config = _config(sampling, min(sampling.max_new_tokens, room - len(rows[0])), ends, tokenizer)
            for place, ids in zip(places, _generated(inner, rows, config), strict=True):
                found[place] = _answer(ids, ends, tokenizer)
    return [answer for answer in found if answer is not None]


def _room(model: Any, prompts: Sequence[Sequence[int]]) -> int:
    """Tokens that a prompt and its answer may have together."""
    limit = position_limit(model.config)
    longest = max(map(len, prompts), default=0)
    if limit is not None and longest >= limit:
        raise UserError(f"eval_prompts: {no_room(longest, limit)}")
    return limit if limit is not None else 1 << 31


def no_room(tokens: int, limit: int) -> str:
    """What is said of a prompt of so many tokens to a model that reads at most ``limit``."""
    return (
        f"a prompt has {tokens:,} tokens, and the model reads at most {limit:,} with the answer; shorten the "
        "prompt, set max_prompt_length, or set overlong to truncate_prompt"
    )


def _config(
    sampling: Sampling, new_tokens: int, ends: list[int], tokenizer: PreTrainedTokenizerBase
) -> GenerationConfig:
    """Everything is said: what is left out would come from the model's own generation_config.json."""
    return GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=new_tokens,
        do_sample=sampling.temperature > 0,
        temperature=sampling.temperature or 1.0,
        top_k=0 if sampling.temperature else 50,  # 50 means nothing where the likeliest is taken
        top_p=1.0,
        min_p=None,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        num_beams=1,
        num_return_sequences=1,
        use_cache=True,
        eos_token_id=ends or None,
        pad_token_id=_padding(tokenizer),
    )


def _padding(tokenizer: PreTrainedTokenizerBase) -> int:
    pad = tokenizer.pad_token_id
    return int(pad if pad is not None else tokenizer.eos_token_id or 0)


def _generated(model: Any, rows: list[list[int]], config: GenerationConfig) -> list[list[int]]:
    """New tokens [B, N] of a batch, each with padding behind its end."""
    longest = max(map(len, rows))
    pad = config.pad_token_id
    ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows], device=model.device)  # [B, P]
    mask = torch.tensor(
        [[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=model.device
    )  # [B, P]
    out: torch.Tensor = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
    new: list[list[int]] = out[:, longest:].tolist()
    return new


def _answer(ids: list[int], ends: list[int], tokenizer: PreTrainedTokenizerBase) -> Answer:
    end = next((place for place, token in enumerate(ids) if token in ends), None)
    kept = ids if end is None else ids[: end + 1]
    text: Any = tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return Answer(text=text.strip(), tokens=len(kept), complete=end is not None)


@contextmanager
def _own_random_numbers(device: torch.device, seed: int) -> Iterator[None]:
    others = [] if device.type == "cpu" else [device]
    kind = "cuda" if device.type == "cpu" else device.type
    with torch.random.fork_rng(devices=others, device_type=kind):
        torch.manual_seed(seed)
        yield
