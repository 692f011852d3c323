"""Which measurements the evaluation data of a run gets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from swift_core.data.beir import load_retrieval
from swift_core.errors import UserError
from swift_core.hookspecs import Evaluation
from swift_embedding.clustering import evaluate_clustering
from swift_embedding.requirements import Part, parts_of
from swift_embedding.retrieval import evaluate_retrieval, retrieval_from_rows
from swift_embedding.similarity import evaluate_sts, evaluate_triplets

if TYPE_CHECKING:
    from swift_core.arguments import TrainingArguments
    from swift_core.data.dataset import TaskData
    from swift_embedding.encoding import TextEncoder

_ALWAYS = (10, 100)


def evaluate_model(encoder: TextEncoder, data: TaskData | None, args: TrainingArguments) -> Evaluation:
    """Measure on rows of all kinds, or on the folder that ``eval_retrieval`` names.

    Queries and answers are searched, and where they have negatives compared by triplets; scored pairs and
    labelled texts are measured for each data set, and averaged.

    Raises:
        UserError: there is no evaluation data.
    """
    k_values, progress = {*args.task.eval_k, *_ALWAYS}, args.shows_progress
    if data is None:
        if args.task.eval_retrieval is None:
            raise UserError(
                "eval_retrieval: expected a BEIR folder (or eval_dataset with rows), found neither"
            )
        retrieval = load_retrieval(Path(args.task.eval_retrieval), args.task.eval_retrieval_split)
        metrics, rows = evaluate_retrieval(retrieval, encoder, k_values, progress=progress)
        return Evaluation(metrics, {"per_query": rows})
    parts = parts_of(data)
    metrics, tables = {}, {}
    answers = [row for part in parts if part.kind == "answers" for row in part.rows]
    if answers:
        once = EncodedOnce(encoder)
        metrics, tables["per_query"] = evaluate_retrieval(
            retrieval_from_rows(answers), once, k_values, progress=progress
        )
        if any(row["negatives"] for row in answers):
            found, tables["per_triplet"] = evaluate_triplets(answers, once)
            metrics.update(found)
    metrics.update(_pairs([part for part in parts if part.kind == "scored"], encoder, tables, progress))
    labelled = [part for part in parts if part.kind == "labelled"]
    metrics.update(_mean({p.name: evaluate_clustering(p.rows, encoder, progress=progress) for p in labelled}))
    return Evaluation(metrics, tables)


def _pairs(
    parts: Sequence[Part], encoder: TextEncoder, tables: dict[str, Any], progress: bool
) -> dict[str, float]:
    by_name: dict[str, dict[str, float]] = {}
    for part in parts:
        by_name[part.name], rows = evaluate_sts(part.rows, encoder, progress=progress)
        tables.setdefault("per_pair", []).extend({"source": part.name, **row} for row in rows)
    return _mean(by_name)


def _mean(by_name: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Means over the data sets; where there are several, the figures of each as well."""
    names = list(by_name)
    if not names:
        return {}
    means = {
        metric: float(np.mean([by_name[name][metric] for name in names])) for metric in by_name[names[0]]
    }
    if len(names) > 1:
        short = [Path(name).name for name in names]
        shown = short if len(set(short)) == len(names) else names
        for name, called in zip(names, shown, strict=True):
            means.update({f"{metric} {called}": value for metric, value in by_name[name].items()})
    return means


@dataclass(frozen=True)
class EncodedOnce:
    """An encoder for several evaluations of the same texts: each text is encoded once."""

    encoder: TextEncoder
    _vectors: dict[str, dict[str, np.ndarray]] = field(default_factory=dict, repr=False)

    def encode_queries(self, texts: Sequence[str], progress: bool = False) -> np.ndarray:
        """See :meth:`swift_embedding.encoding.TextEncoder.encode_queries`."""
        return self._once("queries", texts, progress)

    def encode_documents(self, texts: Sequence[str], progress: bool = False) -> np.ndarray:
        """See :meth:`swift_embedding.encoding.TextEncoder.encode_documents`."""
        return self._once("documents", texts, progress)

    def _once(self, side: str, texts: Sequence[str], progress: bool) -> np.ndarray:
        known = self._vectors.setdefault(side, {})
        encode = self.encoder.encode_queries if side == "queries" else self.encoder.encode_documents
        new = [text for text in dict.fromkeys(texts) if text not in known]
        known.update(zip(new, encode(new, progress), strict=True))
        return np.stack([known[text] for text in texts])

    def document_chunks(self, texts: Sequence[str], progress: bool = False) -> Iterator[np.ndarray]:
        """All vectors in one piece: they are kept."""
        yield self.encode_documents(texts, progress)
