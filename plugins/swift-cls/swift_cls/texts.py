"""From the texts of a row to token ids that fit the model, whatever is too long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from jinja2 import TemplateError

from swift_cls.options import LongText
from swift_core.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_HEAD_SHARE = 4
"""One token in so many of a text whose middle is cut comes from its head (Sun et al. 2019: 128 of 510)."""


class Tokens(NamedTuple):
    """Token ids of a row.

    Attributes:
        chunks: one list of ids, or several where a long text is read in chunks.
        types: token types of the one chunk of a pair, where the tokenizer has them.
        cut: whether something was left out.
    """

    chunks: list[list[int]]
    types: list[int] | None
    cut: bool


@dataclass(frozen=True)
class TextEncoding:
    """Turns texts, pairs and conversations into token ids.

    Attributes:
        max_length: longest chunk in tokens, special tokens included.
        vocabulary: number of token ids that the model knows, where its config says so.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    long_text: LongText
    vocabulary: int | None

    def of_row(self, record: Mapping[str, Any]) -> Tokens:
        """Token ids of a checked row."""
        messages = record.get("messages")
        if messages is not None:
            return self.of_messages(messages)
        return self.of_text(record["text"], record.get("text_pair"))

    def of_text(self, text: str, pair: str | None = None) -> Tokens:
        """Token ids of a text, or of two that are judged together."""
        if pair is not None:
            return self._pair(text, pair)
        # Almost all texts fit, and this is the way that the tokenizer means them.
        ids: list[int] = self.tokenizer(text, verbose=False)["input_ids"]
        if len(ids) <= self.max_length:
            return self._checked([self._ended(ids)])
        return self._long(self._body(text))

    def of_messages(self, messages: Sequence[Mapping[str, Any]]) -> Tokens:
        """Token ids of a conversation: by the model's chat template, or its texts one after another.

        Raises:
            ValueError: it is no list of messages, or there is no text in it.
        """
        texts = [text_of(message) for message in messages]
        if not any(text.strip() for text in texts):
            raise ValueError("messages: expected a text in content, found none")
        if self.tokenizer.chat_template is None:
            return self.of_text("\n".join(texts))
        spoken = [{**message, "content": text} for message, text in zip(messages, texts, strict=True)]
        try:
            written: Any = self.tokenizer.apply_chat_template(spoken, tokenize=False)
        except TemplateError as error:
            raise ValueError(f"messages: the model's chat template refuses them: {error}") from None
        ids = self._ended(self._body(written))
        return self._checked([ids]) if len(ids) <= self.max_length else self._long(ids, framed=False)

    def of_ids(self, ids: Sequence[int]) -> Tokens:
        """Token ids as they are; too many of them go the way of a long text, without special tokens."""
        ids = self._ended(list(ids))
        return self._checked([ids]) if len(ids) <= self.max_length else self._long(ids, framed=False)

    def _long(self, body: list[int], *, framed: bool = True) -> Tokens:
        """``framed``: the tokenizer's own tokens go around each part."""
        prefix, suffix = self._frame if framed else ([], [])
        # Also for an end token that is left out: transformers cuts texts to make room for it.
        room = self.max_length - (self._specials if framed else 0)
        if self.long_text == "truncate":
            parts, cut = [body[:room]], True
        elif self.long_text == "head_tail":
            head = room // _HEAD_SHARE
            parts, cut = [body[:head] + body[len(body) - room + head :]], True
        else:
            # As many as needed, all of one length but for a token: a short last one would count as much.
            count = -(-len(body) // room)
            bounds = [len(body) * n // count for n in range(count + 1)]
            parts, cut = [body[a:b] for a, b in pairwise(bounds)], False
        return self._checked([[*prefix, *part, *suffix] for part in parts], cut=cut)

    def _pair(self, text: str, pair: str) -> Tokens:
        first, second = self._body(text), self._body(pair)
        if self._separates:
            encoded: Any = self.tokenizer(
                text, pair, truncation="longest_first", max_length=self.max_length, verbose=False
            )
            whole = len(first) + len(second) + self.tokenizer.num_special_tokens_to_add(pair=True)
            cut = whole > len(encoded["input_ids"])
            ids, types = self._ended(encoded["input_ids"]), encoded.get("token_type_ids")
            return self._checked([ids], types=types and types[: len(ids)], cut=cut)
        # The tokenizer would glue one text to the other.
        prefix, suffix = self._frame
        between = self._body("\n")
        room = self.max_length - len(prefix) - len(suffix) - len(between)
        keep = min(len(first), max(room - len(second), (room + 1) // 2))
        ids = [*prefix, *first[:keep], *between, *second[: room - keep], *suffix]
        return self._checked([ids], cut=len(first) + len(second) > room)

    def _checked(
        self, chunks: list[list[int]], *, types: list[int] | None = None, cut: bool = False
    ) -> Tokens:
        highest = max((max(chunk, default=0) for chunk in chunks), default=0)
        if self.vocabulary is not None and highest >= self.vocabulary:
            raise UserError(
                f"the tokenizer gives the token id {highest} and the model knows {self.vocabulary}: they do "
                "not belong together; copy the model's own tokenizer files into its folder"
            )
        if not all(chunks):
            raise ValueError("text: expected a text with at least one token, found none")
        return Tokens(chunks, types, cut)

    def _body(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def _ended(self, ids: list[int]) -> list[int]:
        """Without padding tokens at the end, which some tokenizers put there as an end token.

        transformers reads the last token that is not the padding token, so this is what a saved model does.
        """
        pad, end = self.tokenizer.pad_token_id, len(ids)
        while end > 1 and ids[end - 1] == pad:
            end -= 1
        return ids[:end]

    @cached_property
    def _frame(self) -> tuple[list[int], list[int]]:
        """What the tokenizer puts before and behind a text."""
        body = self._body("a")
        whole = self.tokenizer("a", verbose=False)["input_ids"]
        at = next((n for n in range(len(whole)) if whole[n : n + len(body)] == body), 0)
        return whole[:at], self._ended([-1, *whole[at + len(body) :]])[1:]

    @cached_property
    def _specials(self) -> int:
        """How many tokens the tokenizer puts around a text."""
        return len(self.tokenizer("a", verbose=False)["input_ids"]) - len(self._body("a"))

    @cached_property
    def _separates(self) -> bool:
        """Whether the tokenizer puts something between two texts."""
        return bool(
            self.tokenizer.num_special_tokens_to_add(pair=True)
            > self.tokenizer.num_special_tokens_to_add(pair=False)
        )


def text_of(message: Any) -> str:
    """What a message says: its content, or the texts among the parts of its content; nothing for null.

    Raises:
        ValueError: it is no message, or has parts that are no texts.
    """
    if isinstance(message, Mapping) and "content" in message:
        content = message["content"]
        if content is None or isinstance(content, str):
            return content or ""
        parts: list[Any] = content if isinstance(content, list) else [None]
        if all(isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in parts):
            return "\n".join(part["text"] for part in parts)
    raise ValueError("messages: expected messages with role and content (a text), found something else")
