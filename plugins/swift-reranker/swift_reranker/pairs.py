"""From a query and its documents to token ids: only documents are cut, and what they share is kept once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from swift_core.errors import UserError
from swift_reranker.template import Template, closing_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_SHOWN = 60


class TokenLists(NamedTuple):
    """Token ids of a query with each of its K documents.

    Attributes:
        prefix: what all of them begin with; empty where a document is alone, or for pairs of an encoder.
        rows: [K] what follows it, never empty.
        types: [K] token types of each row, where the tokenizer has them.
        cut: [K] whether the document was cut.
    """

    prefix: list[int]
    rows: list[list[int]]
    types: list[list[int]] | None
    cut: list[bool]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each pair, the prefix included."""
        return [len(self.prefix) + len(row) for row in self.rows]

    @property
    def computed(self) -> int:
        """Tokens that a model computes that takes the prefix once."""
        return len(self.prefix) + sum(map(len, self.rows))


@dataclass(frozen=True, kw_only=True)
class PairEncoding:
    """Turns a query and documents into token ids.

    Attributes:
        max_length: longest pair in tokens, with all that stands around it.
        query_max_length: queries are cut to so many tokens; None: never.
        template: the text that a decoder reads; None: pairs as the tokenizer of an encoder makes them.
        instruction: what the template says of it.
        vocabulary: number of token ids that the model knows, where its config says so.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    query_max_length: int | None = None
    template: Template | None = None
    instruction: str = ""
    vocabulary: int | None = None

    def of_list(self, query: str, documents: Sequence[str]) -> TokenLists:
        """Token ids of all pairs of a list.

        Raises:
            ValueError: the query leaves no room for a document.
            UserError: the tokenizer gives ids that the model does not know.
        """
        query = self._shortened(query)
        if self.template is None:
            found = self._pairs(query, documents)
        else:
            found = self._texts(self.template, query, documents)
        highest = max(max(row) for row in [found.prefix or [0], *found.rows])
        if self.vocabulary is not None and highest >= self.vocabulary:
            raise UserError(
                f"the tokenizer gives the token id {highest} and the model knows {self.vocabulary}: they do "
                "not belong together; copy the model's own tokenizer files into its folder"
            )
        return found

    def _shortened(self, query: str) -> str:
        if self.query_max_length is None:
            return query
        offsets = self._encoded([query], add_special_tokens=False)["offset_mapping"][0]
        if len(offsets) <= self.query_max_length:
            return query
        return query[: offsets[self.query_max_length - 1][1]]

    def _pairs(self, query: str, documents: Sequence[str]) -> TokenLists:
        encoded = self._encoded([query] * len(documents), list(documents))
        types = encoded.get("token_type_ids")
        rows, kinds, cut = [], [], []
        for number, ids in enumerate(encoded["input_ids"]):
            # 1 for tokens of the document, as the tokenizer says itself.
            of_document = [n for n, part in enumerate(encoded.sequence_ids(number)) if part == 1]
            over = len(ids) - self.max_length
            if over > 0 and over >= len(of_document):
                raise self._no_room(query, len(ids) - len(of_document))
            dropped = set(of_document[len(of_document) - over :] if over > 0 else ())
            rows.append([token for n, token in enumerate(ids) if n not in dropped])
            if types is not None:
                kinds.append([kind for n, kind in enumerate(types[number]) if n not in dropped])
            cut.append(bool(dropped))
        return TokenLists([], rows, None if types is None else kinds, cut)

    def _texts(self, template: Template, query: str, documents: Sequence[str]) -> TokenLists:
        before, after = template.parts(query, self.instruction)
        # The whole as one text: a tokenizer may join what stands at a seam.
        texts = [f"{before}{document}{after}" for document in documents]
        encoded = self._encoded(texts, add_special_tokens=False)
        rows, cut = [], []
        for ids, offsets in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
            cut.append(len(ids) > self.max_length)
            if cut[-1]:
                first = next((n for n, span in enumerate(offsets) if span[1] > len(before)), len(ids))
                room = self.max_length - len(self._closing)
                if room <= first:
                    raise self._no_room(query, first + len(self._closing))
                ids = [*ids[:room], *self._closing]
            rows.append(ids)
        shared = _shared(rows)
        return TokenLists(rows[0][:shared], [row[shared:] for row in rows], None, cut)

    @cached_property
    def _closing(self) -> list[int]:
        """What follows a document that is cut."""
        return [] if self.template is None else closing_ids(self.tokenizer, self.template, self.instruction)

    def _no_room(self, query: str, around: int) -> ValueError:
        remedy = "set" if self.query_max_length is None else "lower"
        return ValueError(
            f"query: {query[:_SHOWN]!r} and what stands around it take {around} tokens of max_length "
            f"{self.max_length}, which leaves no room for a document; raise max_length, or {remedy} "
            "query_max_length, to which queries are cut"
        )

    def _encoded(self, *texts: Sequence[str], add_special_tokens: bool = True) -> Any:
        return self.tokenizer(
            *texts, add_special_tokens=add_special_tokens, return_offsets_mapping=True, verbose=False
        )


def _shared(rows: Sequence[Sequence[int]]) -> int:
    """How many tokens all rows begin with; every row keeps one of its own, and a single row all."""
    if len(rows) < 2:
        return 0
    shortest = min(map(len, rows)) - 1
    first = rows[0]
    return next((n for n in range(shortest) if any(row[n] != first[n] for row in rows)), shortest)
