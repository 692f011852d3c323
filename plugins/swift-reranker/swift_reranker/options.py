"""The options of the task type ``reranker``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, MinLen

from swift_core.spec import option

LossName = Literal[
    "binary_cross_entropy",
    "mean_squared_error",
    "softmax_cross_entropy",
    "ranknet",
    "lambda_loss",
    "listnet",
    "list_mle",
    "p_list_mle",
    "margin_mse",
    "kl_divergence",
]
Scoring = Literal["head", "generative"]
Weighting = Literal["ndcg_loss2++", "ndcg_loss2", "lambda_rank"]


@dataclass(frozen=True, kw_only=True)
class RerankerOptions:
    """How pairs are read and scored, loss, lists, and evaluation of rerankers."""

    scoring: Scoring | None = option(
        None,
        help="head: a new output with one score; generative: the log-odds of a causal model's yes against "
        "its no. Default: as a run saved it, else head, also for causal rerankers of others: name it.",
    )
    template: str | None = option(
        None,
        help="Text with {query} and {document}, perhaps {instruction}, that a decoder reads; default: that "
        "of the model, else Qwen3-Reranker's (generative) or one of three lines (head). Encoders read pairs.",
    )
    instruction: str | None = option(
        None, help="What {instruction} of the template says; default: that of the model, else web search."
    )
    true_token: str | None = option(
        None, help="The token that says that a document is relevant (generative); default: yes."
    )
    false_token: str | None = option(
        None, help="The token that says that it is not (generative); default: no."
    )
    query_max_length: Annotated[int, Gt(0)] | None = option(
        None, help="Cut queries to so many tokens; default: never, one that leaves no room is an error."
    )
    loss: LossName | None = option(
        None,
        help="Default: binary_cross_entropy for labels, margin_mse where rows have a teacher's scores only.",
    )
    temperature: Annotated[float, Gt(0)] | None = option(
        None, help="Scores are divided by it (softmax_cross_entropy, kl_divergence); default: 1."
    )
    teacher_temperature: Annotated[float, Gt(0)] | None = option(
        None, help="The teacher's scores are divided by it (kl_divergence); default: 1."
    )
    weighting: Weighting | None = option(
        None, help="What a pair of documents weighs (lambda_loss); default: ndcg_loss2++."
    )
    loss_depth: Annotated[int, Gt(0)] | None = option(
        None,
        help="Only pairs with a document among the first so many count (lambda_loss, ranknet); default: all.",
    )
    train_list_size: Annotated[int, Gt(1)] | None = option(
        None,
        help="Documents of a list in training: of longer ones half the best-labelled, and the first of those "
        "with the lowest label; default: all. Evaluation always takes all.",
    )
    inbatch_negatives: Annotated[int, Ge(0)] = option(
        0,
        help="Positives of other lists of the batch that join each list as negatives, labelled 0; for losses "
        "of labels. Off by default: a document of another query may well answer this one.",
    )
    eval_retrieval: str | None = option(
        None,
        help="Folder in the layout of BEIR to evaluate on: what first_stage finds there is reranked.",
        evaluates=True,
    )
    eval_retrieval_split: str = option("test", help="Which file of qrels/ to use.", evaluation_input="value")
    first_stage: str = option(
        "bm25",
        help="Where candidates come from in eval_retrieval: bm25, a run file (TREC, or JSON lines), or a "
        "FAISS bundle that swift-embedding exported.",
        evaluation_input="path",
    )
    first_stage_depth: Annotated[int, Gt(0)] = option(
        100,
        help="How many candidates of the first stage are reranked for each query.",
        evaluation_input="value",
    )
    eval_k: Annotated[list[Annotated[int, Gt(0)]], MinLen(1)] = option(
        lambda: [10], help="Depths k at which nDCG@k and MRR@k are reported; 10 always is."
    )
