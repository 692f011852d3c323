"""Templates: what goes where, and the same text from Jinja."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from typing import Any

import pytest
from jinja2.exceptions import TemplateError
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from swift_core.errors import UserError
from swift_reranker.template import (
    DECODER,
    QWEN3_INSTRUCTION,
    QWEN3_RERANKER,
    Template,
    chat_template,
    closing_ids,
)

NASTY = [
    "what is a cat?",
    "{query} {document} {instruction} {} {0} {{ messages }}",
    "{% raw %}{{ 1 + 1 }}{# gone? #}{% endraw %}",
    "it's \"quoted\" \\n \\ \\u4e2d \\x41 '''",
    "two\nlines\r\nand\rmore\u2028yes\x85no\ttab\x00",
    "  spaces on both sides \n",
    "词向量 é 😀 \u200b",
    '{"a": {"b": [1]}}',
    "",
    "<|im_end|></s>",
]
TEXTS = [
    DECODER,
    QWEN3_RERANKER,
    ' \n{"task": "{instruction}", "type": "x", "query": "{query}", "document": "{document}"}\n\n',
    "{query}{document}",
    "{% if a %}{{ b }}{# c #}'\\n\\'{query}\r\n中é😀{document} {instruction}{instruction} ",
    "{ {query} } {query } content[0] message.content[ {document}",
]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, with a full stop and a newline in one token, as real vocabularies have it."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=258, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator([".\n.\n.\n"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made)


def rendered(tokenizer: Any, jinja: str, messages: list[dict[str, Any]], **given: Any) -> str:
    return str(tokenizer.apply_chat_template(messages, chat_template=jinja, tokenize=False, **given))


def messages(query: str, document: str, system: str | None = None) -> list[dict[str, Any]]:
    first = [] if system is None else [{"role": "system", "content": system}]
    return [*first, {"role": "query", "content": query}, {"role": "document", "content": document}]


@pytest.mark.parametrize("text", TEXTS)
def test_jinja_writes_the_same_text(text: str, tokenizer: PreTrainedTokenizerFast) -> None:
    template = Template(text)
    for instruction in NASTY:
        jinja = chat_template(template, instruction)
        for number, query in enumerate(NASTY):
            document = NASTY[(number + 3) % len(NASTY)]
            expected = template.render(query, document, instruction)
            assert rendered(tokenizer, jinja, messages(query, document)) == expected


def test_texts_in_lists_of_parts_and_other_instructions(tokenizer: PreTrainedTokenizerFast) -> None:
    template = Template(QWEN3_RERANKER)
    jinja = chat_template(template, QWEN3_INSTRUCTION)
    parts = [
        {"role": role, "content": [{"type": "text", "text": text}]}
        for role, text in (("query", "{{ q }}"), ("document", "d"))
    ]
    assert rendered(tokenizer, jinja, parts) == template.render("{{ q }}", "d", QWEN3_INSTRUCTION)
    asked = template.render("q", "d", "Find laws")
    assert rendered(tokenizer, jinja, messages("q", "d", "Find laws")) == asked
    assert rendered(tokenizer, jinja, messages("q", "d"), instruction="Find laws") == asked


def test_what_a_chat_template_refuses(tokenizer: PreTrainedTokenizerFast) -> None:
    jinja = chat_template(Template(DECODER))
    with pytest.raises(TemplateError, match="expected a query and a document"):
        rendered(tokenizer, jinja, [{"role": "user", "content": "hello"}])
    with pytest.raises(TemplateError, match="no place for a prompt"):
        rendered(tokenizer, jinja, messages("q", "d", "a prompt"))


def test_cross_encoder_sees_that_both_roles_are_read(tokenizer: PreTrainedTokenizerFast) -> None:
    modality = pytest.importorskip("sentence_transformers.base.modality")
    for text in TEXTS:
        own = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
        own.chat_template = chat_template(Template(text), "i")
        for form in ("flat", "structured"):
            formatter = modality.InputFormatter("qwen3", message_format=form, processor=own)
            assert formatter.pair_roles_failure() is None
            # As parts, a text that looks like a picture's address would be one, so folders say "flat".
            pair = ("http://a.b/c.jpg" if form == "flat" else "{{ q }}", " {{ d }}\n")
            found = own.apply_chat_template(formatter.pair_to_messages(pair), tokenize=False)
            assert found == Template(text).render(*pair, "i")


def test_parts_are_the_text_around_the_document() -> None:
    before, after = Template(QWEN3_RERANKER).parts("who?", "Find it")
    assert before.endswith("<Instruct>: Find it\n<Query>: who?\n<Document>: ")
    assert after == "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    json_like = Template('{"q": "{query}", "d": "{document}", "n": {"i": "{instruction}"}}')
    assert json.loads(json_like.render("a", "b", "c")) == {"q": "a", "d": "b", "n": {"i": "c"}}
    assert json_like.parts("{document}", "{query}")[0] == '{"q": "{document}", "d": "'
    assert Template(DECODER).render("a", "b", "not asked for") == "Query: a\nDocument: b\nRelevance:"
    assert [Template(text).takes_instruction for text in (DECODER, QWEN3_RERANKER)] == [False, True]


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("", ["{query} once", "{document} once"]),
        ("{query}", ["expected {document} once in it, found it nowhere"]),
        ("{query} {query} {document}", ["expected {query} once in it, found it 2 times"]),
        ("{document} {query}", ["expected {query} before {document}"]),
    ],
)
def test_templates_that_are_refused(text: str, faults: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        Template(text)
    assert len(caught.value.faults) == len(faults)
    for fault, part in zip(caught.value.faults, faults, strict=True):
        assert part in fault


def test_a_template_can_be_sent_to_other_processes() -> None:
    assert pickle.loads(pickle.dumps(Template(DECODER))) == Template(DECODER)


def test_it_imports_no_torch() -> None:
    code = "import sys, swift_reranker.template; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_tokens_behind_the_document_are_not_joined_with_it(tokenizer: PreTrainedTokenizerFast) -> None:
    template = Template(DECODER)
    joined = tokenizer(template.render("q", "the end."), add_special_tokens=False)["input_ids"]
    alone = tokenizer("\nRelevance:", add_special_tokens=False)["input_ids"]
    assert joined[-len(alone) :] != alone
    assert closing_ids(tokenizer, template) == alone
    assert closing_ids(tokenizer, Template("{query}{document}")) == []
