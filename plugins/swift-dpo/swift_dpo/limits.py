"""How long a row may be, and what is done with one that is longer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from swift_core.hookspecs import LeftOut
from swift_dpo.data_options import Overlong
from swift_dpo.tokens import TokenRow

TOO_LONG = "too long"
_UNCUT = ", or set overlong to drop or truncate_answer"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Lengths in tokens, None for no limit.

    Attributes:
        max_length: of a prompt with one of its answers.
        max_prompt_length: of a prompt; longer ones are cut on the left.
        overlong: see the option of that name.
    """

    max_length: int | None
    max_prompt_length: int | None = None
    overlong: Overlong = "error"

    def fit(self, row: TokenRow, opening: Callable[[], int]) -> tuple[TokenRow, int] | LeftOut:
        """The row within the limits, and how many texts of it were cut.

        Args:
            row: tokens of a prompt with its answers.
            opening: tells how many tokens of the prompt are to stay when it is cut.

        Raises:
            ValueError: the row is too long, and not to be cut or to be left out.
        """
        cut = 0
        if self.max_prompt_length is not None and len(row.prompt) > self.max_prompt_length:
            opens = opening()
            if self.overlong == "drop" and self.max_prompt_length <= opens:
                return LeftOut(TOO_LONG)
            otherwise = ", or set overlong to drop"
            row = _shorter_prompt(row, self.max_prompt_length, opens, "max_prompt_length", otherwise)
            cut = 1
        longest = max(map(len, row.answers))
        if self.max_length is None or len(row.prompt) + longest <= self.max_length:
            return row, cut
        if self.overlong == "drop":
            return LeftOut(TOO_LONG)
        if self.overlong == "error":
            raise ValueError(
                f"prompt: {len(row.prompt):,} tokens and an answer of {longest:,} are more than max_length "
                f"{self.max_length:,}; raise max_length, or set overlong to drop, truncate_prompt or "
                "truncate_answer"
            )
        if self.overlong == "truncate_prompt":
            size = self.max_length - longest
            return _shorter_prompt(row, size, opening(), "max_length", _UNCUT), cut + 1
        return self._shorter_answers(row, self.max_length, cut)

    def fit_prompt(self, prompt: list[int], opening: Callable[[], int], answer: int) -> list[int]:
        """A prompt that is yet to be answered, cut as :meth:`fit` cuts those of rows.

        Args:
            prompt: its tokens.
            opening: see :meth:`fit`.
            answer: how many tokens the answer may have. Where there is no room for so many beside a prompt,
                that keeps half of ``max_length``.

        Raises:
            ValueError: nothing but its beginning would be left.
        """
        row = TokenRow(prompt, [], [], [])
        if self.max_prompt_length is not None and len(row.prompt) > self.max_prompt_length:
            row = _shorter_prompt(row, self.max_prompt_length, opening(), "max_prompt_length", "")
        if self.overlong != "truncate_prompt" or self.max_length is None:
            return row.prompt
        size = max(self.max_length - answer, self.max_length // 2)
        if len(row.prompt) > size:
            row = _shorter_prompt(row, size, opening(), "max_length", _UNCUT)
        return row.prompt

    def _shorter_answers(self, row: TokenRow, max_length: int, cut: int) -> tuple[TokenRow, int]:
        room = max_length - len(row.prompt)
        if room < 1:
            raise ValueError(
                f"prompt: {len(row.prompt):,} tokens leave no room for an answer within max_length "
                f"{max_length:,}; raise max_length, set max_prompt_length, or set overlong to drop or "
                "truncate_prompt"
            )
        over = [len(answer) > room for answer in row.answers]
        made = row._replace(
            answers=[answer[:room] for answer in row.answers],
            counted=[weights[:room] for weights in row.counted],
            complete=[whole and not long for whole, long in zip(row.complete, over, strict=True)],
        )
        return made, cut + sum(over)


def _shorter_prompt(row: TokenRow, size: int, opening: int, limit: str, otherwise: str) -> TokenRow:
    if size <= opening:
        raise ValueError(
            f"prompt: {limit} leaves {max(size, 0):,} tokens for the prompt, whose beginning alone "
            f"(what the chat template and the tokenizer write) has {opening:,}; raise {limit}{otherwise}"
        )
    prompt = row.prompt
    return row._replace(prompt=[*prompt[:opening], *prompt[len(prompt) - size + opening :]])
