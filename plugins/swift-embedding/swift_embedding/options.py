"""The options of the task type ``embedding``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Gt, MinLen

from swift_core.spec import option


@dataclass(frozen=True, kw_only=True)
class EmbeddingOptions:
    """Pooling, loss, prompts, evaluation and export of dual encoders."""

    pooling_method: Literal["cls", "mean", "lasttoken"] | None = option(
        None,
        help="How token vectors become one; default: what the model's sentence-transformers config says, "
        "else mean for encoders and lasttoken for decoders.",
    )
    normalize_embeddings: bool = option(True, help="Scale every vector to length 1 (cosine similarity).")
    temperature: Annotated[float, Gt(0)] = option(
        0.05, help="Similarities are divided by it before the softmax of InfoNCE."
    )
    use_inbatch_negatives: bool = option(
        True, help="The other rows' documents of a batch count as negatives too."
    )
    gradient_cache_tokens: Annotated[int, Gt(0)] | None = option(
        None,
        help="Hold the activations of about so many tokens at a time and compute them again for the "
        "gradient: for batches larger than memory. Costs a second forward pass and changes no gradient.",
    )
    query_prompt: str | None = option(
        None, help="Text put before every query; default: what the model's config says, else nothing."
    )
    document_prompt: str | None = option(
        None, help="Text put before every document; default: what the model's config says, else nothing."
    )
    eval_retrieval: str | None = option(
        None,
        help="Folder in the layout of BEIR to evaluate on: corpus.jsonl, queries.jsonl, and in qrels/ a file "
        "<eval_retrieval_split>.tsv or .jsonl.",
        evaluates=True,
    )
    eval_retrieval_split: str = option("test", help="Which file of qrels/ to use.")
    eval_k: Annotated[list[Annotated[int, Gt(0)]], MinLen(1)] = option(
        lambda: [10, 100], help="Depths k at which retrieval metrics are reported; 10 and 100 always are."
    )
    export_corpus: str | None = option(
        None,
        help="Documents of the faiss bundle: jsonl with _id, text and perhaps title; "
        "default: the documents of the training data.",
    )
