"""What an evaluation measures: lists of candidates, or a first stage that is reranked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from swift_core.data.beir import Retrieval, load_retrieval
from swift_core.data.faults import Faults
from swift_core.errors import SwiftError, UserError
from swift_core.hookspecs import Evaluation
from swift_core.runs.comparing import paired_interval
from swift_reranker.collator import feature_of
from swift_reranker.first_stage import Candidates, bm25_candidates, bundle_candidates, read_run_file
from swift_reranker.metrics import evaluate_lists
from swift_reranker.scoring import score_lists

if TYPE_CHECKING:
    from torch import nn

    from swift_core.arguments import TrainingArguments
    from swift_core.data.dataset import TaskData
    from swift_reranker.collator import RerankerCollator

# Shape legend: K candidates of a query.

_ALWAYS = 10
_COLLAPSED = 0.01
"""Raw scores of a list that lie closer together than this tell its documents hardly apart."""
_TEXT_SHOWN = 300


@dataclass(frozen=True, kw_only=True)
class _Lists:
    """What was scored.

    Attributes:
        ids: of the queries.
        documents: ids of the candidates of each.
        gains: their grades.
        missing: grades of relevant documents that are not among the candidates.
        scores: what the model gives them.
    """

    ids: Sequence[str]
    documents: Sequence[Sequence[str]]
    gains: Sequence[Sequence[float]]
    missing: Sequence[Sequence[float]]
    scores: Sequence[np.ndarray]


def evaluate_model(
    model: nn.Module, collator: RerankerCollator, data: TaskData | None, args: TrainingArguments
) -> Evaluation:
    """Measure on lists with labels, or on the folder that ``eval_retrieval`` names.

    Raises:
        UserError: there is no evaluation data, it can't be used, or nothing in it is relevant.
        SwiftError: scores are no numbers.
    """
    if data is not None:
        lists = _of_rows(model, collator, data, args)
        figures, rows = _measured(lists, lists.scores, args)
    elif args.task.eval_retrieval is not None:
        lists, first = _of_retrieval(model, collator, args)
        figures, rows = _measured(lists, lists.scores, args)
        before, rows_before = _measured(lists, first, args)
        figures |= _gain(figures, before, rows, rows_before)
        for row, row_before in zip(rows, rows_before, strict=True):
            row |= {f"first_stage_{name}": value for name, value in row_before.items()}
    else:
        raise UserError("eval_dataset: expected rows with labels (or eval_retrieval), found neither")
    figures |= _spread(lists.scores, args)
    per_query = [{"query_id": name, **row} for name, row in zip(lists.ids, rows, strict=True)]
    return Evaluation(figures, {"per_query": per_query, "run": _run(lists)})


def _of_rows(model: nn.Module, collator: RerankerCollator, data: TaskData, args: TrainingArguments) -> _Lists:
    if data.features is None:
        raise UserError("eval_dataset: expected encoded rows, found none")
    labels = data.features["labels"]
    judged = [n for n, row in enumerate(labels) if row is not None and max(row) > 0]
    if len(judged) < len(labels) and args.trainer.process_index == 0:
        print(f"left out  {len(labels) - len(judged):,} lists without a relevant document", flush=True)
    if not judged:
        raise UserError(
            f"eval_dataset: expected lists with a relevant document (a label above 0), found none in "
            f"{len(labels):,} lists"
        )
    scores = score_lists(model, collator, [data.features[n] for n in judged], progress=args.shows_progress)
    records = [data.records[n] for n in judged]
    return _Lists(
        ids=[record["query_id"] or record["query"][:_TEXT_SHOWN] for record in records],
        documents=[
            record["document_ids"] or [str(place) for place in range(len(record["documents"]))]
            for record in records
        ],
        gains=[labels[n] for n in judged],
        missing=[()] * len(judged),
        scores=scores,
    )


def _of_retrieval(
    model: nn.Module, collator: RerankerCollator, args: TrainingArguments
) -> tuple[_Lists, list[np.ndarray]]:
    """The candidates of the first stage, reranked, and the scores of the first stage."""
    retrieval, candidates = collator.searched.of(lambda: _checked(collator, args))
    documents = [[name for name, _ in candidates[query]] for query in retrieval.queries]
    features = [
        feature_of(collator.pairs.of_list(text, [retrieval.corpus[name] for name in names]))
        for text, names in zip(retrieval.queries.values(), documents, strict=True)
        if names
    ]
    found = iter(score_lists(model, collator, features, progress=args.shows_progress))
    judged = [retrieval.qrels[query] for query in retrieval.queries]
    lists = _Lists(
        ids=list(retrieval.queries),
        documents=documents,
        gains=[
            [grades.get(name, 0) for name in names] for grades, names in zip(judged, documents, strict=True)
        ],
        missing=[
            [grade for name, grade in grades.items() if name not in set(names)]
            for grades, names in zip(judged, documents, strict=True)
        ],
        scores=[next(found) if names else np.zeros(0, dtype=np.float32) for names in documents],
    )
    first = [np.array([score for _, score in candidates[query]]) for query in retrieval.queries]
    return lists, first


def load_candidates(args: TrainingArguments) -> tuple[Retrieval, Candidates]:
    """The evaluation data that the options name, and what its first stage finds for each query.

    Raises:
        UserError: files are missing or can't be used, or they do not belong together.
    """
    task = args.task
    retrieval = load_retrieval(Path(task.eval_retrieval), task.eval_retrieval_split)
    # One more: the query itself may be among them.
    stage, depth = Path(task.first_stage), task.first_stage_depth + 1
    if task.first_stage == "bm25":
        found = bm25_candidates(retrieval.corpus, retrieval.queries, depth)
    elif stage.is_dir():
        found = bundle_candidates(stage, retrieval.queries, depth, device=args.trainer.device.type)
    else:
        found = read_run_file(stage)
    found = {
        query: [entry for entry in found.get(query, []) if not _is_query(entry[0], query, retrieval)]
        for query in retrieval.queries
    }
    found = {query: rows[: task.first_stage_depth] for query, rows in found.items()}
    unknown = sorted({name for rows in found.values() for name, _ in rows if name not in retrieval.corpus})
    faults = []
    if unknown:
        faults.append(
            f"first_stage: {task.first_stage} names {len(unknown):,} documents that are not in the corpus of "
            f"{task.eval_retrieval}, the first is {unknown[0]!r}; it belongs to another corpus"
        )
    if not any(found.values()):
        faults.append(
            f"first_stage: {task.first_stage} has candidates for none of the {len(found):,} queries of "
            f"{task.eval_retrieval} ({task.eval_retrieval_split})"
        )
    if faults:
        raise UserError(*faults)
    return retrieval, found


def _is_query(document: str, query: str, retrieval: Retrieval) -> bool:
    """Whether a document is the query, which BEIR takes for no answer: ArguAna's queries are of its corpus.

    An id alone says little: documents and queries are often both numbered from 1.
    """
    if document != query:
        return False
    text, asked = retrieval.corpus.get(document), retrieval.queries[query]
    return text is not None and (text == asked or text.endswith(f" {asked}"))  # behind its title


def check_retrieval(collator: RerankerCollator, args: TrainingArguments) -> None:
    """Search with the first stage, and refuse evaluation data that can't be used, before a model is built.

    Raises:
        UserError: see :func:`load_candidates`; or queries leave no room for a document.
    """
    if args.task.eval_retrieval is not None:
        collator.searched.of(lambda: _checked(collator, args))


def _checked(collator: RerankerCollator, args: TrainingArguments) -> tuple[Retrieval, Candidates]:
    """What is searched and found, looked at once: a trained model is measured without a check before."""
    retrieval, candidates = load_candidates(args)
    faults = Faults()
    for name, query in retrieval.queries.items():
        try:
            collator.pairs.of_list(query, ["a"])
        except ValueError as error:
            faults.add(f"eval_retrieval: query {name!r}: {error}")
    faults.raise_if_any()
    found = sum(map(bool, candidates.values()))
    if found < len(candidates) and args.trainer.process_index == 0:
        print(
            f"warning: first_stage {args.task.first_stage} has candidates for {found:,} of "
            f"{len(candidates):,} queries; the others count as 0",
            flush=True,
        )
    return retrieval, candidates


def _measured(
    lists: _Lists, scores: Sequence[np.ndarray], args: TrainingArguments
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Means over the queries, and one row a query."""
    figures: dict[str, float] = {}
    rows: list[dict[str, Any]] = [{} for _ in lists.ids]
    for k in sorted({_ALWAYS, *args.task.eval_k}):
        means, of_query = evaluate_lists(
            list(zip(scores, lists.gains, strict=True)), k=k, missing_gains=lists.missing
        )
        figures |= means
        rows = [row | more for row, more in zip(rows, of_query, strict=True)]
    return figures, rows


def _gain(
    after: Mapping[str, float],
    before: Mapping[str, float],
    rows: Sequence[Mapping[str, float]],
    rows_before: Sequence[Mapping[str, float]],
) -> dict[str, float]:
    """Figures of the first stage, and what reranking gains over it with its 95 % interval."""
    name = f"ndcg@{_ALWAYS}"
    gain, low, high = paired_interval([row[name] for row in rows_before], [row[name] for row in rows])
    return {
        **{f"first_stage_{metric}": value for metric, value in before.items()},
        f"gain_{name}": gain,
        f"gain_{name}_low": low,
        f"gain_{name}_high": high,
    }


def _spread(scores: Sequence[np.ndarray], args: TrainingArguments) -> dict[str, float]:
    """How far the scores of a list lie apart; tells on the terminal where they hardly do."""
    compared = [values for values in scores if len(values) > 1]
    if not compared:
        raise UserError(
            "expected candidates that can be put in order, found one for each query; let the first stage "
            "find more (first_stage_depth)"
        )
    if not all(np.isfinite(values).all() for values in compared):
        raise SwiftError(
            "the model gives scores that are not finite (NaN or infinite): training diverged. Lower "
            "learning_rate, or set warmup_steps or max_grad_norm"
        )
    close = float(np.mean([np.ptp(values) < _COLLAPSED for values in compared]))
    if close > 0.5 and args.trainer.process_index == 0:
        print(
            f"warning: all scores lie within {_COLLAPSED} of each other in {close:.0%} of {len(compared):,} "
            "lists: an untrained head, or training collapsed (lower learning_rate, add warmup_steps)",
            flush=True,
        )
    return {"score_spread": float(np.mean([values.std() for values in compared]))}


def _run(lists: _Lists) -> list[dict[str, Any]]:
    """The rankings, as ``first_stage`` reads them."""
    table = []
    for query, documents, scores in zip(lists.ids, lists.documents, lists.scores, strict=True):
        order = np.argsort(-scores, kind="stable")
        results = [{"doc_id": documents[n], "score": round(float(scores[n]), 6)} for n in order]
        table.append({"query_id": query, "results": results})
    return table
