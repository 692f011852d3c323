"""The Python code of a model card. Tests run it as it stands on a card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from swift_core.cards import python_block

_FOLDER = '"path/to/this/folder"'
_TEXTS = """\
query = "what is a cat"
documents = ["A cat is a small animal that hunts at night.", "The bank raised its rates."]"""


@dataclass(frozen=True, kw_only=True)
class Reads:
    """How a model reads pairs, in numbers.

    Attributes:
        max_length: longest pair in tokens.
        closing: token ids of what stands behind the document in the text of a template; None for pairs.
        answers: ids of the tokens for and against a document; None for a model with a head.
    """

    max_length: int
    closing: Sequence[int] | None
    answers: Sequence[int] | None


def cross_encoder_code() -> str:
    """Score and rank with sentence-transformers."""
    return python_block(
        f"""\
from sentence_transformers import CrossEncoder

model = CrossEncoder({_FOLDER})
{_TEXTS}
scores = model.predict([(query, document) for document in documents]).tolist()
print(scores)
print(model.rank(query, documents, return_documents=True))"""
    )


def reranker_code() -> str:
    """Score with this package."""
    return python_block(
        f"""\
from swift_reranker.reranker import load_reranker

reranker = load_reranker({_FOLDER})
{_TEXTS}
scores = reranker.score(query, documents).scores.tolist()
print(scores)"""
    )


def transformers_code(reads: Reads) -> str:
    """Score with plain transformers."""
    kind = "AutoModelForSequenceClassification" if reads.answers is None else "AutoModelForCausalLM"
    return python_block(
        f"""\
import torch
from transformers import {kind}, AutoTokenizer

folder = {_FOLDER}
tokenizer = AutoTokenizer.from_pretrained(folder)
model = {kind}.from_pretrained(folder).eval()

{_TEXTS}
{_batch(reads, "pt")}
{_raw(reads)}
scores = torch.sigmoid(raw).tolist()
print(scores)"""
    )


def onnx_code(reads: Reads) -> str:
    """Score with onnxruntime."""
    return python_block(
        f"""\
import numpy
import onnxruntime
from transformers import AutoTokenizer

folder = {_FOLDER}
tokenizer = AutoTokenizer.from_pretrained(folder)
session = onnxruntime.InferenceSession(folder + "/model.onnx")
inputs = [one.name for one in session.get_inputs()]

{_TEXTS}
{_batch(reads, "np")}
raw = session.run(["scores"], {{name: batch[name] for name in inputs}})[0]
scores = (1 / (1 + numpy.exp(-raw))).tolist()
print(scores)"""
    )


def _batch(reads: Reads, tensors: str) -> str:
    """From ``query`` and ``documents`` to ``batch``."""
    if reads.closing is None:
        return f"""\
batch = tokenizer(
    [query] * len(documents), documents, padding=True, truncation="only_second", return_tensors="{tensors}"
)"""
    return f"""\
pairs = [
    [{{"role": "query", "content": query}}, {{"role": "document", "content": document}}]
    for document in documents
]
texts = tokenizer.apply_chat_template(pairs, tokenize=False)
rows = tokenizer(texts, add_special_tokens=False)["input_ids"]
# What is too long is cut where the document ends; the end of the text stays.
end = {list(reads.closing)}
longest = {reads.max_length}
rows = [row if len(row) <= longest else row[: longest - len(end)] + end for row in rows]
batch = tokenizer.pad({{"input_ids": rows}}, return_tensors="{tensors}")"""


def _raw(reads: Reads) -> str:
    """From ``batch`` to ``raw``."""
    if reads.answers is None:
        return """\
with torch.no_grad():
    raw = model(**batch).logits[:, 0].float()"""
    true, false = reads.answers
    return f"""\
# The next token of each text, which is padded on the right.
places, which = (batch["attention_mask"].sum(1) - 1).unique(return_inverse=True)
with torch.no_grad():
    logits = model(**batch, logits_to_keep=places).logits[torch.arange(len(which)), which].float()
raw = logits[:, {true}] - logits[:, {false}]"""
