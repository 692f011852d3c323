"""A trained classifier that is loaded to be used: from texts to labels, as the run was trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from swift_cls.collator import ClassificationCollator, make_collator
from swift_cls.deciding import chosen, probabilities
from swift_cls.model import build_model
from swift_cls.predicting import predict, unlabelled
from swift_core.arguments import TrainingArguments
from swift_core.errors import SwiftError, UserError
from swift_core.model_folders import saved_dtype

if TYPE_CHECKING:
    from swift_cls.texts import Tokens

Text: TypeAlias = str | Sequence[str] | Sequence[Mapping[str, Any]]
"""A text, a pair of texts, or the messages of a conversation."""


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """Gives texts their labels, with the preprocessing, temperature and thresholds of the run.

    Attributes:
        model: a classifier of :mod:`swift_cls.model`.
        collator: how texts become token ids, and logits labels.
    """

    model: Any
    collator: ClassificationCollator

    def classify(self, texts: Sequence[Text]) -> list[dict[str, Any]]:
        """What :meth:`decide` tells of each text; a long one is cut or read in chunks as in training.

        Raises:
            SwiftError: the model's logits are not finite.
        """
        return self.decide([self.tokens(text) for text in texts])

    def tokens(self, text: Text) -> Tokens:
        """Token ids of one text, pair or conversation."""
        encoding = self.collator.texts
        if isinstance(text, str):
            return encoding.of_text(text)
        if len(text) == 2 and all(isinstance(part, str) for part in text):
            return encoding.of_text(*text)
        return encoding.of_messages(text)  # type: ignore[arg-type]

    def decide(self, rows: Sequence[Tokens]) -> list[dict[str, Any]]:
        """What the model says of token ids; all of them go through it together.

        Returns:
            For each row ``label`` (the most probable one; None for scores), ``probs`` (for scores the score
            itself), ``num_classes`` and ``labels`` (the names behind ``probs``). Beside
            these, where a row may have several labels, ``labels_assigned``: those from their threshold on,
            the most probable one first, perhaps none; and for scores ``score``.

        Raises:
            SwiftError: the model's logits are not finite.
        """
        if not rows:
            return []
        logits = predict(self.model, self.collator, [unlabelled(row) for row in rows], share=False)  # [N, C]
        if not np.isfinite(logits).all():
            raise SwiftError("the model gives logits that are not finite (NaN or infinite); use another one")
        labels, decision = self.collator.known_labels, self.collator.decision
        names = list(labels.names)
        values = probabilities(logits, labels.problem, decision)
        entries = [
            {"label": names[row.argmax()] if names else None, "probs": row.tolist(), "num_classes": len(row)}
            for row in values
        ]
        for entry in entries:
            entry["labels"] = list(names)
            if labels.problem == "regression":
                entry["score"] = entry["probs"][0]
        if labels.problem == "multi_label":
            for entry, row, has in zip(
                entries, values, chosen(values, labels.problem, decision), strict=True
            ):
                order = np.argsort(-row, kind="stable")
                entry["labels_assigned"] = [names[number] for number in order if has[number]]
        return entries


def load_classifier(folder: Path, *, device: torch.device | str = "cpu") -> Classifier:
    """Load an export of the format ``hf``, or the ``model/`` folder of a run, without the model's own code.

    The network is asked for nothing, but for the base model of an adapter that names it by a hub id.

    Raises:
        UserError: the folder holds no classifier, or one whose labels nobody named.
    """
    if not (folder / "config.json").exists() and not (folder / "adapter_config.json").exists():
        raise UserError(
            f"{folder}: expected a classifier (an export of the format hf, or the model/ folder of a run), "
            "found neither config.json nor adapter_config.json"
        )
    args = TrainingArguments(
        "sequence-classification",
        model_name_or_path=str(folder),
        model_dtype=saved_dtype(folder),
        use_cpu=True,  # nothing of the training loop runs here
        report_to="none",
    )
    collator = make_collator(args)
    model = build_model(args, collator)
    return Classifier(model=model.to(device).eval().requires_grad_(False), collator=collator)
