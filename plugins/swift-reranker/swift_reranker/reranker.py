"""A trained reranker that is loaded to be used: scores of documents, as the run was trained."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from swift_core.arguments import TrainingArguments
from swift_core.errors import SwiftError, UserError
from swift_core.model_folders import resolve_model, saved_dtype
from swift_reranker.collator import RerankerCollator, feature_of, make_collator
from swift_reranker.model import build_model
from swift_reranker.scoring import score_lists
from swift_reranker.settings import SETTINGS, read_settings


class Scored(NamedTuple):
    """What a reranker says of K documents.

    Attributes:
        scores: [K] from 0 to 1, the sigmoid of the raw scores.
        tokens: [K] tokens of each pair, the query's and the template's included.
        cut: [K] whether the document was cut to fit.
        raw: [K] raw scores, which tell documents apart where the sigmoid of both is 1.
    """

    scores: np.ndarray
    tokens: list[int]
    cut: list[bool]
    raw: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Reranker:
    """Scores documents, with the template, lengths and model of the run.

    Attributes:
        model: of :mod:`swift_reranker.model`.
        collator: how pairs become token ids.
    """

    model: Any
    collator: RerankerCollator

    @property
    def max_length(self) -> int:
        """Longest pair in tokens."""
        return self.collator.pairs.max_length

    def score(self, query: str, documents: Sequence[str], *, max_length: int | None = None) -> Scored:
        """How well each document answers the query.

        Args:
            query: what is searched for.
            documents: K texts; long ones are cut.
            max_length: longest pair in tokens; default: as the model was trained.

        Raises:
            ValueError: the query leaves no room for a document.
            SwiftError: the model's scores are not finite.
        """
        if not documents:
            return Scored(np.zeros(0), [], [], np.zeros(0))
        pairs = replace(self.collator.pairs, max_length=max_length or self.max_length)
        tokens = pairs.of_list(query, documents)
        raw = score_lists(self.model, self.collator, [feature_of(tokens)], share=False)[0]
        if not np.isfinite(raw).all():
            raise SwiftError("the model gives scores that are not finite (NaN or infinite); use another one")
        return Scored(sigmoid(raw), tokens.lengths, tokens.cut, raw)


def sigmoid(values: np.ndarray) -> np.ndarray:
    """1 / (1 + e^-x) in float64."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * values.astype(np.float64))))


def load_reranker(
    folder: str | Path, *, device: torch.device | str = "cpu", template: str | None = None
) -> Reranker:
    """Load an export of the format ``hf``, the ``model/`` folder of a run, or a cross-encoder of others.

    The network is asked for nothing, but for the base model of an adapter that names it by a hub id.

    Args:
        folder: what is loaded.
        device: where it is to compute.
        template: the text that a decoder reads, see the option of that name; decoders of others need it.

    Raises:
        UserError: the folder holds no reranker, or a decoder of which nothing says what text it reads.
    """
    folder = Path(folder)
    if not _holds_reranker(folder):
        raise UserError(
            f"{folder}: expected a reranker (an export of the format hf, the model/ folder of a run, or a "
            "classifier with one output), found none"
        )
    args = TrainingArguments(
        "reranker",
        model_name_or_path=str(folder),
        model_dtype=saved_dtype(folder),
        use_cpu=True,  # nothing of the training loop runs here
        report_to="none",
        template=template,
    )
    collator = make_collator(args)
    if needs_template(args, collator):
        raise UserError(
            f"{folder}: expected a decoder with {SETTINGS}, which says what text it reads, found one without "
            "it; to score what it was trained to read give load_reranker that text as template, or serve "
            "what a run with this model and the option template exported"
        )
    model = build_model(args, collator)
    return Reranker(model=model.to(device).eval().requires_grad_(False), collator=collator)


def needs_template(args: TrainingArguments, collator: RerankerCollator) -> bool:
    """Whether the run's model is a decoder that others trained, and nobody says on which text.

    Its scores of another text would be noise. A training that starts from it may choose any.
    """
    settings = collator.settings
    chosen = args.task.template is not None or read_settings(resolve_model(args)) is not None
    return settings.scoring == "head" and settings.template is not None and not chosen


def is_reranker(args: TrainingArguments) -> bool:
    """Whether the run's model is a trained reranker, ours or of others: not one whose head is new."""
    return _holds_reranker(resolve_model(args))


def _holds_reranker(folder: Path) -> bool:
    if read_settings(folder) is not None:
        return True
    config = _config(folder)
    names = config.get("architectures") or ()
    one = config.get("num_labels") == 1 or len(config.get("id2label") or ()) == 1
    return one and any(str(name).endswith("ForSequenceClassification") for name in names)


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    return json.loads(path.read_bytes()) if path.exists() else {}
