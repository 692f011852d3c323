"""Token ids of prompts and answers: those of TRL, and which of them count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from swift_core.errors import UserError
from swift_dpo.tokens import Tokens

CHATML = "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
ASKED = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
WITH_SYSTEM = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}" + CHATML + "{% endfor %}" + ASKED
)
"""As SmolLM2: a system message of its own."""
WITHOUT_END = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}"
    + ("{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}")
)
FORGETFUL = (
    "{% for message in messages %}{% if loop.last %}{{ 'last ' }}{% endif %}"
    + CHATML
    + "{% endfor %}"
    + ASKED
)
"""Writes the last message otherwise than those before it, as templates that drop earlier thoughts."""
THINKING = (
    "{% for message in messages %}" + CHATML + "{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)
"""Its generation prompt ends with what an answer without thoughts does not begin with."""


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def bot(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


@pytest.fixture
def tokenizer(causal: Path) -> PreTrainedTokenizerBase:
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(causal)
    return loaded


TEXTS = [
    {"prompt": "what is a cat", "chosen": " a cat is a small animal", "rejected": " the bank"},
    {"prompt": "the ba", "chosen": "nk raised rates", "rejected": "ll<|im_end|>"},
    {"prompt": "who won", "chosen": "", "rejected": " the red team"},
]
CHATS = [
    {"prompt": [user("what is a cat")], "chosen": [bot("a small animal")], "rejected": [bot("rain")]},
    {
        "prompt": [{"role": "system", "content": "be kind"}, user("a"), bot("b"), user("who won")],
        "chosen": [bot("the red team won\n")],
        "rejected": [bot("")],
    },
    {"prompt": [user("far")], "chosen": [bot("x"), user("and"), bot("y")], "rejected": [bot("x")]},
]


def trl_ids(tokenizer: PreTrainedTokenizerBase, causal: Path, rows: list[dict[str, Any]], to: Path) -> Any:
    trl = pytest.importorskip("trl")
    trainer = trl.DPOTrainer(
        model=str(causal),
        args=trl.DPOConfig(output_dir=str(to), report_to="none", use_cpu=True, max_length=None),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    return [[row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]] for row in trainer.train_dataset]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("rows", "template"),
    [(TEXTS, None), (CHATS, None), (CHATS, WITH_SYSTEM), (CHATS, WITHOUT_END), (CHATS[:2], THINKING)],
    ids=["texts", "chatml", "system", "without end", "thinking"],
)
def test_token_ids_are_those_of_trl(
    tokenizer: PreTrainedTokenizerBase, causal: Path, tmp_path: Path, rows: list[Any], template: str | None
) -> None:
    if template is not None:
        tokenizer.chat_template = template
    found = [
        Tokens(tokenizer=tokenizer).of_row(row["prompt"], [row["chosen"], row["rejected"]]) for row in rows
    ]
    expected = trl_ids(tokenizer, causal, rows, tmp_path)
    assert [[row.prompt, *row.answers] for row in found] == expected


def test_all_answers_share_the_prompt_that_all_texts_begin_with(tokenizer: PreTrainedTokenizerBase) -> None:
    answers = [[bot("aa")], [bot("ab")], [bot("c")]]
    row = Tokens(tokenizer=tokenizer).of_row([user("q")], answers)
    assert tokenizer.decode(row.prompt) == "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"
    assert [tokenizer.decode(answer) for answer in row.answers] == [
        "aa<|im_end|>\n",
        "ab<|im_end|>\n",
        "c<|im_end|>\n",
    ]


def counted_text(tokenizer: PreTrainedTokenizerBase, ids: list[int], weights: list[float]) -> str:
    return str(tokenizer.decode([token for token, weight in zip(ids, weights, strict=True) if weight]))


def test_only_turns_of_the_assistant_count(tokenizer: PreTrainedTokenizerBase) -> None:
    answer = [bot("one"), user("and"), {"role": "tool", "content": "7"}, bot("two"), bot("three")]
    row = Tokens(tokenizer=tokenizer).of_row([user("q")], [answer, [bot("r")]])
    said = counted_text(tokenizer, row.answers[0], row.counted[0])
    assert said == "one<|im_end|>\ntwo<|im_end|>\nthree<|im_end|>\n"
    assert set(row.counted[1]) == {1.0}


@pytest.mark.parametrize(
    "template", [FORGETFUL, FORGETFUL.replace("loop.last", "loop.last and message['role'] == 'user'")]
)
def test_a_template_that_rewrites_earlier_turns_is_refused(
    tokenizer: PreTrainedTokenizerBase, template: str
) -> None:
    tokenizer.chat_template = template
    tokens = Tokens(tokenizer=tokenizer)
    with pytest.raises(ValueError, match="answers: the chat template writes a turn otherwise"):
        tokens.of_row([user("q")], [[bot("one"), user("and"), bot("two")]])
    tokens.of_row([user("q"), bot("one"), user("and")], [[bot("two")], [bot("three")]])


@pytest.mark.parametrize(("template", "complete"), [(None, True), (WITH_SYSTEM, True), (WITHOUT_END, False)])
def test_an_answer_is_complete_where_the_template_ends_it(
    tokenizer: PreTrainedTokenizerBase, template: str | None, complete: bool
) -> None:
    tokenizer.chat_template = template or tokenizer.chat_template
    row = Tokens(tokenizer=tokenizer).of_row([user("q")], [[bot("one")], [bot("two\n")]])
    assert row.complete == [complete, complete]


def test_the_end_token_of_a_template_may_be_another_than_the_tokenizers(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    tokenizer.eos_token = "<|endoftext|>"
    tokens = Tokens(tokenizer=tokenizer)
    assert tokens.of_row([user("q")], [[bot("one")]]).complete == [True]
    text = tokens.of_row("q", [" one", " two<|endoftext|>"])
    assert text.complete == [True, True]
    assert [answer.count(tokenizer.eos_token_id) for answer in text.answers] == [1, 1]


def test_texts_need_no_end_token(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.eos_token = None
    tokenizer.chat_template = None
    row = Tokens(tokenizer=tokenizer).of_row("q", [" one", " two"])
    assert row.complete == [False, False]
    assert tokenizer.decode(row.answers[0]) == " one"


def test_an_answer_without_a_token_counts_nothing(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.eos_token = None
    tokenizer.chat_template = None
    row = Tokens(tokenizer=tokenizer).of_row("what is", [" one", ""])
    assert row.counted[1] == [0.0]
    assert counted_text(tokenizer, row.answers[0], row.counted[0]) == " one"
    whole = tokenizer("what is one")["input_ids"]
    assert row.prompt + row.answers[0] == whole


def test_a_prompt_that_melts_into_its_answers_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(ValueError, match="prompt: expected a prompt of one token at least"):
        Tokens(tokenizer=tokenizer).of_row("a", ["nimal", " b"])


def test_messages_need_a_template(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="prompt: messages need a chat template"):
        Tokens(tokenizer=tokenizer).of_row([user("q")], [[bot("a")]])


def test_what_the_template_refuses_is_told(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = "{{ raise_exception('no tools here') }}"
    with pytest.raises(ValueError, match=r"the chat template refuses the messages \(no tools here\)"):
        Tokens(tokenizer=tokenizer).of_row([user("q")], [[bot("a")]])


def test_a_tokenizer_of_another_model_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(UserError, match="the model knows 100"):
        Tokens(tokenizer=tokenizer, vocabulary=100).of_row("what is", [" the cat", " q"])


@pytest.mark.parametrize(
    ("prompt", "opening"),
    [
        ([user("q")], "<|im_start|>system\nYou help.<|im_end|>\n<|im_start|>user\n"),
        (
            [{"role": "system", "content": "be kind"}, user("q"), bot("r"), user("s")],
            "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\n",
        ),
        ("q", ""),
    ],
)
def test_what_a_prompt_opens_with(tokenizer: PreTrainedTokenizerBase, prompt: Any, opening: str) -> None:
    tokenizer.chat_template = WITH_SYSTEM
    assert tokenizer.decode(Tokens(tokenizer=tokenizer).opening(prompt)) == opening
