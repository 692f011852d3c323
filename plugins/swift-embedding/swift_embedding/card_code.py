"""The Python code of a model card. Tests run it as it stands on a card."""

from __future__ import annotations

from collections.abc import Mapping

from swift_core.cards import python_block
from swift_core.flat import PoolingMethod

_FOLDER = '"path/to/this/folder"'

_QUERY, _DOCUMENTS = '["What swims?"]', '["A fish swims in the sea.", "A stone lies still."]'

_POOLING: Mapping[PoolingMethod, str] = {
    "cls": "    vectors = hidden[:, 0]",
    "mean": """\
    mask = batch["attention_mask"].unsqueeze(-1)
    vectors = (hidden * mask).sum(1) / mask.sum(1)""",
    "lasttoken": """\
    last = batch["attention_mask"].sum(1) - 1
    vectors = hidden[torch.arange(len(texts)), last]""",
}


def sentence_transformers_code() -> str:
    """Encode with sentence-transformers, which finds prompts and pooling in the folder."""
    return python_block(
        f"""\
from sentence_transformers import SentenceTransformer

model = SentenceTransformer({_FOLDER})
queries = model.encode({_QUERY}, prompt_name="query")
documents = model.encode({_DOCUMENTS}, prompt_name="document")
print(model.similarity(queries, documents))"""
    )


def transformers_code(
    *,
    method: PoolingMethod,
    normalize: bool,
    dimensions: int | None,
    max_length: int,
    prompts: Mapping[str, str],
    adapter: bool,
) -> str:
    """Encode with plain transformers, and with peft for an adapter; pooling is written out."""
    lines = ["import torch"]
    if adapter:
        lines += ["from peft import PeftConfig, PeftModel"]
    lines += ["from transformers import AutoModel, AutoTokenizer", "", f"folder = {_FOLDER}"]
    lines += ["tokenizer = AutoTokenizer.from_pretrained(folder)", 'tokenizer.padding_side = "right"']
    if adapter:
        lines += [
            "base_model = PeftConfig.from_pretrained(folder).base_model_name_or_path",
            "model = AutoModel.from_pretrained(base_model, dtype=torch.float32)",
            "model = PeftModel.from_pretrained(model, folder).eval()",
        ]
    else:
        lines += ["model = AutoModel.from_pretrained(folder).eval()"]
    lines += ["", "", "def encode(texts, prompt):"]
    lines += [
        "    batch = tokenizer(",
        "        [prompt + text for text in texts],",
        f'        padding=True, truncation=True, max_length={max_length}, return_tensors="pt",',
        "    )",
        "    with torch.no_grad():",
        '        output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])',
        "    hidden = output.last_hidden_state  # [texts, tokens, numbers]",
        _POOLING[method],
    ]
    if dimensions is not None:
        lines += [f"    vectors = vectors[:, :{dimensions}]"]
    lines += [
        "    return torch.nn.functional.normalize(vectors, dim=1)" if normalize else "    return vectors"
    ]
    lines += ["", "", f"queries = encode({_QUERY}, prompt={prompts['query']!r})"]
    lines += [
        f"documents = encode({_DOCUMENTS}, prompt={prompts['document']!r})",
        "print(queries @ documents.T)",
    ]
    return python_block("\n".join(lines))


def onnx_code(prompts: Mapping[str, str]) -> str:
    """Encode with onnxruntime."""
    return python_block(
        f"""\
import onnxruntime
from transformers import AutoTokenizer

folder = {_FOLDER}
tokenizer = AutoTokenizer.from_pretrained(folder)
session = onnxruntime.InferenceSession(folder + "/model.onnx")
names = [one.name for one in session.get_inputs()]


def encode(texts, prompt):
    batch = tokenizer([prompt + text for text in texts], padding=True, truncation=True, return_tensors="np")
    return session.run(["sentence_embedding"], {{name: batch[name] for name in names}})[0]


queries = encode({_QUERY}, prompt={prompts["query"]!r})
documents = encode({_DOCUMENTS}, prompt={prompts["document"]!r})
print(queries @ documents.T)"""
    )
