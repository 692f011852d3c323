"""What a decoder reads of a query and a document: one text with places for them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from swift_core.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Any other brace is a brace: a template may hold JSON.
_PLACE = re.compile(r"\{(query|document|instruction)\}")
_DOCUMENT = "{document}"

QWEN3_RERANKER = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the "
    'Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}<|im_end|>\n"
    "<|im_start|>assistant\n<think>\n\n</think>\n\n"
)
"""What Qwen3-Reranker was trained with; the answer is the next token."""
QWEN3_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
DECODER = "Query: {query}\nDocument: {document}\nRelevance:"
"""For decoders with a head of their own."""

Part: TypeAlias = tuple[str, bool]
"""A piece of a template: a text and False, or the name of a place and True."""


@dataclass(frozen=True)
class Template:
    """A text with ``{query}``, ``{document}`` after it, and where wanted ``{instruction}``.

    Nothing else in it is a place, and what is put into a place is never looked through for others.

    Raises:
        UserError: a place is missing, stands twice, or both stand the wrong way round.
    """

    text: str

    def __post_init__(self) -> None:
        counts = {name: self.text.count(f"{{{name}}}") for name in ("query", "document")}
        faults = [
            f"template: expected {{{name}}} once in it, found it {_times(count)}; see the docs for an example"
            for name, count in counts.items()
            if count != 1
        ]
        if not faults and self.text.index("{query}") > self.text.index(_DOCUMENT):
            # The document is what is cut; and queries that come first are computed once for all documents.
            faults = ["template: expected {query} before {document}, found it behind; exchange them"]
        if faults:
            raise UserError(*faults)

    @property
    def takes_instruction(self) -> bool:
        """Whether there is a place for an instruction."""
        return "{instruction}" in self.text

    def render(self, query: str, document: str, instruction: str = "") -> str:
        """The whole text."""
        before, after = self.parts(query, instruction)
        return f"{before}{document}{after}"

    def parts(self, query: str, instruction: str = "") -> tuple[str, str]:
        """What stands before the document, the query in it, and what stands after it."""
        given = {"query": query, "instruction": instruction}
        before, after = self.text.split(_DOCUMENT)
        return _joined(_parts(before), given.__getitem__), _joined(_parts(after), given.__getitem__)


def closing_ids(tokenizer: PreTrainedTokenizerBase, template: Template, instruction: str = "") -> list[int]:
    """Token ids of what follows the document, where nothing of the document is joined with them.

    A tokenizer may make one token of a full stop and the newline behind it. Where that is cut off with the
    document's end, this is what has to be there instead. sentence-transformers finds it the same way.
    """
    first, second = (
        tokenizer(template.render(text, text, instruction), add_special_tokens=False)["input_ids"]
        for text in ("0", "1 2 3 4")  # which end with different tokens
    )
    pairs = zip(reversed(first), reversed(second), strict=False)
    count = next((n for n, (one, other) in enumerate(pairs) if one != other), min(len(first), len(second)))
    return list(first[len(first) - count :])


def chat_template(template: Template, instruction: str = "") -> str:
    """A chat template (Jinja) that writes what ``template`` does of messages of the roles query and document.

    It is what ``CrossEncoder`` of sentence-transformers and the scores of vLLM ask for. A message of the role
    ``system`` (sentence-transformers makes one of a prompt), or a variable ``instruction``, takes the place
    of ``instruction``; a template without a place for it refuses a system message.
    """
    head = [_message(role) for role in ("query", "document", "system")]
    head.append(_unless("query is defined and document is defined", "expected a query and a document"))
    if template.takes_instruction:
        told = f"{_content('system')} if system is defined else instruction or {_literal(instruction)}"
        head.append(f"{{%- set told = {told} -%}}")
    else:
        head.append(_unless("system is undefined", "this template has no place for a prompt"))
    places = {"query": _content("query"), "document": _content("document"), "instruction": "told"}
    body = [places[text] if is_place else _literal(text) for text, is_place in _parts(template.text)]
    return "\n".join([*head, *(f"{{{{- {value} -}}}}" for value in body)])


def _message(role: str) -> str:
    found = f"messages | selectattr('role', 'equalto', '{role}') | map(attribute='content') | first"
    return f"{{%- set {role} = {found} -%}}"


def _unless(condition: str, message: str) -> str:
    return f"{{%- if not ({condition}) -%}}{{{{- raise_exception({_literal(message)}) -}}}}{{%- endif -%}}"


def _content(role: str) -> str:
    """A message's text, which some programs send as a list of one part."""
    return f"({role} if {role} is string else {role}[0]['text'])"


def _literal(text: str) -> str:
    """A string of Jinja. Outside of {{ }} it would lose a newline at its end and carriage returns."""
    for character, escaped in (("\\", "\\\\"), ("'", "\\'"), ("\n", "\\n"), ("\r", "\\r")):
        text = text.replace(character, escaped)
    return f"'{text}'"


def _parts(text: str) -> list[Part]:
    pieces = _PLACE.split(text)  # texts, with names of places between them
    return [(piece, bool(number % 2)) for number, piece in enumerate(pieces) if piece]


def _joined(parts: Iterable[Part], given: Callable[[str], str]) -> str:
    return "".join(given(text) if is_place else text for text, is_place in parts)


def _times(count: int) -> str:
    return "nowhere" if count == 0 else f"{count} times"
