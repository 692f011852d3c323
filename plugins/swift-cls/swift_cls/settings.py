"""What is kept beside the weights of a classifier: its labels, lengths, threshold and temperature."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from swift_cls.labels import Labels
from swift_cls.options import Problem
from swift_core.errors import UserError

SETTINGS = "classification.json"


def read_settings(folder: Path) -> dict[str, Any]:
    """What a collator wrote into ``folder``; empty for other folders.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / SETTINGS
    if not path.exists():
        return {}
    try:
        settings = json.loads(path.read_bytes())
        return {**settings, "labels": [str(name) for name in settings["labels"]]}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: expected the settings of a classifier, found something else ({error})"
        ) from error


def labels_of_folder(folder: Path, config: Any) -> Labels | None:
    """What a classifier in ``folder`` tells apart; None where it does not say so, or is none.

    Args:
        config: the configuration of the model in it, or of its base model.
    """
    settings = read_settings(folder)
    if settings:
        return Labels(problem=settings["problem"], names=tuple(settings["labels"]), of_model=True)
    return labels_of_config(config)


def labels_of_config(config: Any) -> Labels | None:
    """The labels that a classifier of others names in its configuration."""
    architectures = getattr(config, "architectures", None) or ()
    if not any(name.endswith("ForSequenceClassification") for name in architectures):
        return None
    names = tuple(str(config.id2label[number]) for number in sorted(config.id2label))
    kind = getattr(config, "problem_type", None)
    if kind == "regression" or len(names) == 1:
        return Labels(problem="regression", names=(), of_model=True)
    problem: Problem = "multi_label" if kind == "multi_label_classification" else "single_label"
    return Labels(problem=problem, names=names, of_model=True)
