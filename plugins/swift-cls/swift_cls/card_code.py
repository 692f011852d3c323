"""The Python code of a model card. Tests run it as it stands on a card."""

from __future__ import annotations

from collections.abc import Sequence

from swift_cls.options import Problem
from swift_core.cards import python_block

_FOLDER = '"path/to/this/folder"'
_TEXTS = '["A first text to classify.", "And another one."]'


def pipeline_code() -> str:
    """Classify with a pipeline of transformers: the most probable label of each text."""
    return python_block(
        f"""\
from transformers import pipeline

classifier = pipeline("text-classification", model={_FOLDER})
results = classifier({_TEXTS}, truncation=True)
print(results)"""
    )


def transformers_code(problem: Problem, threshold: float | Sequence[float], temperature: float) -> str:
    """Classify with plain transformers, with threshold and temperature written out."""
    return python_block(
        f"""\
{_numpy(problem)}import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

folder = {_FOLDER}
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
names = model.config.id2label

texts = {_TEXTS}
batch = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
with torch.no_grad():
    logits = model(**batch).logits.float().numpy()
{_decided(problem, threshold, temperature)}"""
    )


def onnx_code(problem: Problem, threshold: float | Sequence[float], temperature: float) -> str:
    """Classify with onnxruntime."""
    return python_block(
        f"""\
{_numpy(problem)}import onnxruntime
from transformers import AutoConfig, AutoTokenizer

folder = {_FOLDER}
tokenizer = AutoTokenizer.from_pretrained(folder)
names = AutoConfig.from_pretrained(folder).id2label
session = onnxruntime.InferenceSession(folder + "/model.onnx")
inputs = [one.name for one in session.get_inputs()]

texts = {_TEXTS}
batch = tokenizer(texts, padding=True, truncation=True, return_tensors="np")
logits = session.run(["logits"], {{name: batch[name] for name in inputs}})[0]
{_decided(problem, threshold, temperature)}"""
    )


def _numpy(problem: Problem) -> str:
    return "" if problem == "regression" else "import numpy\n"


def _decided(problem: Problem, threshold: float | Sequence[float], temperature: float) -> str:
    """From ``logits``, an array, to ``labels`` and ``probabilities``, or to ``scores``."""
    if problem == "regression":
        return "scores = logits[:, 0].tolist()\nprint(scores)"
    # Numbers are written exactly, and squashed in float64: a threshold may lie between close probabilities.
    cooled = "" if temperature == 1.0 else f"logits = logits / {float(temperature)!r}\n"
    if problem == "single_label":
        return (
            f"{cooled}powers = numpy.exp(logits - logits.max(1, keepdims=True))\n"
            "probabilities = powers / powers.sum(1, keepdims=True)\n"
            "labels = [names[number] for number in probabilities.argmax(1).tolist()]\n"
            "print(labels)"
        )
    if isinstance(threshold, Sequence):
        least = f"numpy.array({[float(value) for value in threshold]})"
    else:
        least = repr(float(threshold))
    return (
        f"{cooled}probabilities = 1 / (1 + numpy.exp(-logits.astype(float)))\n"
        f"chosen = probabilities >= {least}\n"
        "labels = [[names[number] for number, has in enumerate(row) if has] for row in chosen.tolist()]\n"
        "print(labels)"
    )
