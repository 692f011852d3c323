"""From a prompt and its answers to token ids, the same that TRL makes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from swift_core.errors import UserError
from swift_dpo.ends import written_ends
from swift_dpo.messages import Message, is_messages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Shape legend: K answers to one prompt.

_SPACES_AFTER_END = 3
Render = Callable[..., list[int]]


class TokenRow(NamedTuple):
    """Token ids of a prompt with each of its K answers.

    Attributes:
        prompt: what all of them begin with, computed once; never empty.
        answers: [K] what follows it, never empty.
        counted: [K] 1 for each token of the assistant, 0 for others.
        complete: [K] whether the answer ends with an end token.
    """

    prompt: list[int]
    answers: list[list[int]]
    counted: list[list[float]]
    complete: list[bool]

    def only(self, places: Sequence[int]) -> TokenRow:
        """The same prompt with the answers at ``places``."""
        return self._replace(
            answers=[self.answers[place] for place in places],
            counted=[self.counted[place] for place in places],
            complete=[self.complete[place] for place in places],
        )


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Turns a prompt and its answers into token ids.

    Messages are written by the chat template. Texts are continued as they are, the end token behind them.

    Attributes:
        vocabulary: number of token ids that the model knows, where its config says so.
    """

    tokenizer: PreTrainedTokenizerBase
    vocabulary: int | None = None

    def of_row(
        self, prompt: str | list[Message], answers: Sequence[Any], tools: list[Any] | None = None
    ) -> TokenRow:
        """Token ids of a prompt with all of its answers.

        Raises:
            ValueError: the prompt has no token that all texts begin with, or the chat template refuses it.
            UserError: the model has no chat template, or does not know the tokenizer's ids.
        """
        if is_messages(prompt):
            return self._conversation(prompt, answers, tools)  # type: ignore[arg-type]
        return self._text(str(prompt), answers)

    def _text(self, prompt: str, answers: Sequence[str]) -> TokenRow:
        end = self.tokenizer.eos_token or ""
        wholes = [
            self._ids(prompt + answer if answer.endswith(end) else prompt + answer + end)
            for answer in answers
        ]
        shared = shared_tokens([self._ids(prompt), *wholes])
        ones = [[1.0] * len(whole) for whole in wholes]
        return self._row(wholes, ones, shared)

    def _conversation(
        self, prompt: list[Message], answers: Sequence[list[Message]], tools: list[Any] | None
    ) -> TokenRow:
        def render(messages: Sequence[Message], *, asked: bool = False) -> list[int]:
            return self._rendered(messages, tools, asked)

        wholes = [render([*prompt, *answer]) for answer in answers]
        before = render(prompt, asked=True)
        shared = shared_tokens([before, *wholes])
        counted = [
            [1.0] * len(whole) if len(answer) == 1 else _assistants(prompt, answer, whole, render)
            for answer, whole in zip(answers, wholes, strict=True)
        ]
        return self._row(wholes, counted, shared)

    def _row(self, wholes: list[list[int]], counted: list[list[float]], shared: int) -> TokenRow:
        if min(map(len, wholes)) == shared:
            # An answer without a token: the prompt's last token stands in for it, and does not count.
            shared -= 1
            counted = [[0.0 if n == shared else weight for n, weight in enumerate(row)] for row in counted]
        if shared < 1:
            raise ValueError(
                "prompt: expected a prompt of one token at least that its answers follow, found none; make "
                "it longer, or end it where a word ends"
            )
        highest = max(map(max, wholes))
        if self.vocabulary is not None and highest >= self.vocabulary:
            raise UserError(
                f"the tokenizer gives the token id {highest} and the model knows {self.vocabulary}: they do "
                "not belong together; copy the model's own tokenizer files into its folder"
            )
        return TokenRow(
            prompt=wholes[0][:shared],
            answers=[whole[shared:] for whole in wholes],
            counted=[row[shared:] for row in counted],
            complete=[self._ends(whole[shared:]) for whole in wholes],
        )

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text=text, verbose=False)["input_ids"]
        return ids

    def _rendered(self, messages: Sequence[Message], tools: list[Any] | None, asked: bool) -> list[int]:
        from jinja2 import TemplateError

        if self.tokenizer.chat_template is None:
            raise UserError(
                "prompt: messages need a chat template, and the model has none; choose a chat model, set "
                "chat_template, or give prompts and answers as texts"
            )
        try:
            made: Any = self.tokenizer.apply_chat_template(
                list(messages), tools=tools, add_generation_prompt=asked, tokenize=True, return_dict=True
            )
        except TemplateError as error:
            raise ValueError(f"prompt: the chat template refuses the messages ({error})") from None
        ids: list[int] = made["input_ids"]
        return ids

    @cached_property
    def end_tokens(self) -> frozenset[int]:
        """Tokens that end an answer: the tokenizer's own, and the one that the chat template writes."""
        return written_ends(self.tokenizer)

    def _ends(self, answer: Sequence[int]) -> bool:
        """Whether the last token ends an answer, but for white space that the template writes behind it."""
        for token in reversed(answer[-1 - _SPACES_AFTER_END :]):
            if token in self.end_tokens:
                return True
            if str(self.tokenizer.decode([token])).strip():
                return False
        return False

    def opening(self, prompt: str | list[Message], tools: list[Any] | None = None) -> list[int]:
        """Tokens that texts like this one begin with, whatever they say.

        For messages: what the chat template writes before the first of them, the system message included.
        """
        if not is_messages(prompt):
            first, second = self._ids("a"), self._ids("b")
            return first[: shared_tokens([first, second])]
        system: list[Any] = [message for message in prompt[:1] if message["role"] == "system"]  # type: ignore[index]
        rest: Any = prompt[len(system) :]
        role = rest[0]["role"] if rest else "user"
        try:
            first, second = (
                self._rendered([*system, {"role": role, "content": text}], tools, False) for text in "ab"
            )
        except ValueError:  # a template may refuse a conversation of one message
            return []
        return first[: shared_tokens([first, second])]


def _assistants(
    prompt: Sequence[Message], answer: Sequence[Message], whole: Sequence[int], render: Render
) -> list[float]:
    """1 for each token of ``whole`` that a turn of the assistant in ``answer`` adds, 0 for others.

    Raises:
        ValueError: the template writes earlier turns otherwise once others follow them.
    """
    counted = [0.0] * len(whole)
    for number, message in enumerate(answer):
        if message["role"] != "assistant":
            continue
        before = [*prompt, *answer[:number]]
        end = [*before, message]
        asked, plain, done = render(before, asked=True), render(before), render(end)
        last = number == len(answer) - 1
        start, stop = shared_tokens([asked, whole]), len(whole) if last else len(done)
        # What stands before the first answer may be written in any way: it is the prompt.
        changed = number and shared_tokens([plain, whole]) < len(plain)
        if changed or (not last and shared_tokens([done, whole]) < len(done)):
            raise ValueError(
                "answers: the chat template writes a turn otherwise once others follow it, so that its "
                "tokens can't be told; give one turn of the assistant for each answer"
            )
        counted[start:stop] = [1.0] * (stop - start)
    return counted


def shared_tokens(rows: Sequence[Sequence[int]]) -> int:
    """How many tokens all rows begin with."""
    first, *others = rows
    shortest = min(map(len, rows))
    return next((n for n in range(shortest) if any(row[n] != first[n] for row in others)), shortest)
