"""The options of the task type ``embedding``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Gt, Le, MinLen

from swift_core.spec import option

LossName = Literal[
    "infonce", "cosent", "angle", "cosine", "triplet", "online_contrastive", "margin_mse", "kl"
]


@dataclass(frozen=True, kw_only=True)
class EmbeddingOptions:
    """Pooling, loss, prompts, evaluation and export of dual encoders."""

    pooling_method: Literal["cls", "mean", "lasttoken"] | None = option(
        None,
        help="How token vectors become one; default: what the model's sentence-transformers config says, "
        "else mean for encoders and lasttoken for decoders.",
    )
    normalize_embeddings: bool = option(True, help="Scale every vector to length 1 (cosine similarity).")
    loss: LossName | list[LossName] | None = option(
        None,
        help="The loss, or one for each data set; default: infonce for queries and answers and for labelled "
        "texts, cosent for scored pairs.",
    )
    loss_weights: list[Annotated[float, Gt(0)]] | None = option(
        None, help="Weight of the loss of each data set; default: 1 for all."
    )
    temperature: Annotated[float, Gt(0)] = option(
        0.05, help="Similarities are divided by it (infonce, cosent, angle, kl)."
    )
    teacher_temperature: Annotated[float, Gt(0)] = option(
        1.0, help="The teacher's scores are divided by it (kl)."
    )
    margin: Annotated[float, Gt(0)] | None = option(
        None, help="Margin of the cosine (triplet, default 0.2; online_contrastive, default 0.5)."
    )
    use_inbatch_negatives: bool = option(
        True, help="The other rows' documents of a batch count as negatives too (infonce)."
    )
    gather_negatives: bool = option(
        True, help="So do the documents of the other processes' batches (infonce)."
    )
    query_negatives: bool = option(False, help="Other queries count as negatives of a query too (infonce).")
    document_negatives: bool = option(
        False, help="Other documents count as negatives of a query's answer too (infonce)."
    )
    symmetric: bool = option(
        False, help="Documents are contrasted with queries too; the mean of both losses (infonce)."
    )
    guide_model: str | None = option(
        None,
        help="Folder or hub id of an encoder that says which negatives are too much like the query to be "
        "wrong; these don't count (infonce).",
    )
    false_negative_margin: float | None = option(
        None,
        help="Negatives whose similarity to the query is above the answer's by more than this don't count "
        "(infonce); similarity by guide_model (default 0), else by the model itself (default: all count).",
    )
    matryoshka_dims: list[Annotated[int, Gt(0)]] | None = option(
        None, help="Train the first so many dimensions of a vector to be of use alone; any loss."
    )
    matryoshka_weights: list[Annotated[float, Gt(0)]] | None = option(
        None, help="Weight of each of matryoshka_dims; default: 1 for all."
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
    pool_prompts: bool | None = option(
        None,
        help="Whether the tokens of a prompt, and what the tokenizer puts before it, count in mean pooling; "
        "default: what the model's config says, else true.",
    )
    query_max_length: Annotated[int, Gt(0)] | None = option(
        None, help="Longest query in tokens, its prompt included; default: max_length."
    )
    document_max_length: Annotated[int, Gt(0)] | None = option(
        None, help="Longest document in tokens, its prompt included; default: max_length."
    )
    eval_retrieval: str | None = option(
        None,
        help="Folder in the layout of BEIR to evaluate on: corpus.jsonl, queries.jsonl, and in qrels/ a file "
        "<eval_retrieval_split>.tsv or .jsonl.",
        evaluates=True,
    )
    eval_retrieval_split: str = option("test", help="Which file of qrels/ to use.", evaluation_input="value")
    eval_k: Annotated[list[Annotated[int, Gt(0)]], MinLen(1)] = option(
        lambda: [10, 100], help="Depths k at which retrieval metrics are reported; 10 and 100 always are."
    )
    export_corpus: str | None = option(
        None,
        help="Documents of the faiss bundle: jsonl with _id, text and perhaps title; "
        "default: the documents of the training data.",
    )
    export_dimensions: Annotated[int, Gt(0)] | None = option(
        None,
        help="Length of the vectors of an export: the first so many numbers, scaled to length 1 again where "
        "normalize_embeddings is on. For models trained to be cut (Matryoshka).",
    )
    index: str = option(
        "auto",
        help="Index of the faiss bundle: auto (by the number of documents), int8, binary, or a faiss factory "
        "string such as IVF256,SQ8.",
    )
    target_recall: Annotated[float, Gt(0), Le(1)] = option(
        0.95, help="recall@10 against exact search that the index must reach; measured, 1 makes auto exact."
    )

    def __post_init__(self) -> None:
        dims, weights = self.matryoshka_dims, self.matryoshka_weights
        if weights is not None and (dims is None or len(weights) != len(dims)):
            raise ValueError(
                "matryoshka_weights: expected one number for each of matryoshka_dims "
                f"({0 if dims is None else len(dims)}), found {len(weights)}"
            )
        if dims is not None and (not dims or len(set(dims)) != len(dims)):
            raise ValueError(f"matryoshka_dims: expected different numbers, found {dims}")
