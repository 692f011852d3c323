"""What an evaluation measures: figures, tables and the picture of the confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from swift_cls import calibration, metrics
from swift_cls.predicting import predict
from swift_cls.texts import text_of
from swift_core.errors import UserError, listed
from swift_core.flat.processes import is_first_process
from swift_core.hookspecs import Evaluation

if TYPE_CHECKING:
    from torch import nn

    from swift_cls.collator import ClassificationCollator, Decision
    from swift_cls.labels import Labels
    from swift_core.arguments import TrainingArguments
    from swift_core.data.dataset import TaskData

# Shape legend: N rows, C labels.

_MISTAKES = 100
_TEXT_SHOWN = 300
_MOST_LABELS = 100
_NUMBERS_TOLD = 10
"""Beyond so many a picture of them can't be read."""


def evaluate_model(
    model: nn.Module, collator: ClassificationCollator, data: TaskData | None, args: TrainingArguments
) -> Evaluation:
    """Measure ``model`` on ``data``.

    Where the collator learns and these are the run's own evaluation rows, threshold and temperature are
    fitted on them first.

    Raises:
        UserError: there is no evaluation data.
    """
    if data is None or data.features is None:
        raise UserError("eval_dataset: expected evaluation data, found none")
    logits = predict(
        model,
        collator,
        data.features,
        lengths=data.features["length"],
        progress=args.shows_progress,
    )  # [N, C]
    if not np.isfinite(logits).all():
        raise UserError(
            "the model gives logits that are not finite (NaN or infinite): training diverged. Lower "
            "learning_rate, or set warmup_steps or max_grad_norm"
        )
    labels, targets = collator.known_labels, list(data.features["targets"])
    fits = collator.decision.learns and data.name == "eval"
    rows = _Rows(data)
    if labels.problem == "regression":
        return _scores(logits[:, 0], np.array([row[0] for row in targets]), rows)
    if labels.problem == "multi_label":
        many = np.zeros(logits.shape, dtype=int)
        for number, row in enumerate(targets):
            many[number, [int(entry) for entry in row]] = 1
        if fits:
            _fit_several(collator.decision, logits, many, args)
        return _several_labels(logits, many, labels, collator.decision, rows, learned=fits)
    ids = np.array([int(row[0]) for row in targets])
    if fits and args.task.calibrate:
        collator.decision.temperature = calibration.fit_temperature(logits, ids)
    return _one_label(logits, ids, labels, collator.decision, rows, learned=fits)


class _Rows:
    """What tables say of a row beside figures."""

    def __init__(self, data: TaskData) -> None:
        self.records = data.records

    def shown(self, number: int) -> dict[str, Any]:
        record = self.records[number]
        text = record["text"] if record["messages"] is None else _spoken(record["messages"])
        pair = {"text_pair": record["text_pair"][:_TEXT_SHOWN]} if record["text_pair"] else {}
        return {"row_id": number, "text": text[:_TEXT_SHOWN], **pair}


def _spoken(messages: Sequence[Mapping[str, Any]]) -> str:
    return "\n".join(map(text_of, messages))


def _fit_several(decision: Decision, logits: np.ndarray, many: np.ndarray, args: TrainingArguments) -> None:
    if args.task.calibrate:
        decision.temperature = calibration.fit_temperature(logits, many)
    probabilities = calibration.sigmoid(logits / decision.temperature)
    if args.task.threshold == "auto":
        decision.threshold = calibration.fit_threshold(probabilities, many)
    elif args.task.threshold == "per_label":
        decision.threshold = calibration.fit_thresholds(probabilities, many)
    else:
        decision.threshold = args.task.threshold


def _one_label(
    logits: np.ndarray, ids: np.ndarray, labels: Labels, decision: Decision, rows: _Rows, *, learned: bool
) -> Evaluation:
    count, names = len(labels), labels.names
    predicted = logits.argmax(1)
    probabilities = calibration.softmax(logits)
    calibrated = calibration.softmax(logits / decision.temperature)
    one_hot, chosen = np.eye(count, dtype=int)[ids], np.eye(count, dtype=int)[predicted]
    figures = {
        **metrics.class_figures(probabilities, one_hot, chosen, one_label=True),
        **metrics.single_figures(probabilities, ids),
    }
    if decision.temperature != 1.0:
        after = metrics.single_figures(calibrated, ids)
        figures |= {f"{name}_calibrated": after[name] for name in ("log_loss", "ece")}
        figures["temperature"] = decision.temperature
    matrix = metrics.confusion(predicted, ids, count)
    confidence = calibrated[np.arange(len(ids)), predicted]
    losses = {
        name: -np.log(np.maximum(p[np.arange(len(ids)), ids], 1e-15))
        for name, p in (("log_loss", probabilities), ("log_loss_calibrated", calibrated))
    }
    wrong = [int(row) for row in np.argsort(-confidence, kind="stable") if predicted[row] != ids[row]]
    table = [
        {
            "row_id": row,
            "label": names[ids[row]],
            "predicted": names[predicted[row]],
            "correct": int(predicted[row] == ids[row]),
            "confidence": _rounded(confidence[row]),
            **{name: _rounded(values[row]) for name, values in losses.items()},
            "probabilities": {name: _rounded(p) for name, p in zip(names, calibrated[row], strict=True)},
        }
        for row in range(len(ids))
    ]
    mistakes = [
        {**rows.shown(row), **{name: table[row][name] for name in ("label", "predicted", "confidence")}}
        for row in wrong[:_MISTAKES]
    ]
    tables = {
        "predictions": table,
        "mistakes": mistakes,
        "per_class": metrics.per_class(chosen, one_hot, names),
        "confusion": metrics.confusion_rows(matrix, names),
    }
    # matplotlib takes a while to load, and a run is evaluated long after its start.
    from swift_cls.picture import confusion_picture, unwritten

    title = f"accuracy {figures['accuracy']:.3f}, macro F1 {figures['f1_macro']:.3f}, {len(ids):,} rows"
    pictures = {"confusion": confusion_picture(matrix, names, title=title)} if count <= _MOST_LABELS else {}
    if pictures and (numbers := unwritten(names)) and is_first_process():
        shown = listed([f"{number} for {names[number]}" for number in numbers[:_NUMBERS_TOLD]])
        print(f"picture   no font here has all letters, so it says {shown}; pip install mplfonts", flush=True)
    return Evaluation(figures, tables, pictures, learned)


def _several_labels(
    logits: np.ndarray, many: np.ndarray, labels: Labels, decision: Decision, rows: _Rows, *, learned: bool
) -> Evaluation:
    names = labels.names
    probabilities = calibration.sigmoid(logits / decision.temperature)
    predicted = (probabilities >= np.asarray(decision.threshold)).astype(int)
    figures = {
        **metrics.class_figures(probabilities, many, predicted, one_label=False),
        **metrics.multi_figures(probabilities, many, predicted),
    }
    if isinstance(decision.threshold, float):
        figures["threshold"] = decision.threshold
    table = [
        {
            "row_id": row,
            "label": _named(many[row], names),
            "predicted": _named(predicted[row], names),
            "correct": int((many[row] == predicted[row]).all()),
            "errors": int((many[row] != predicted[row]).sum()),
            "probabilities": {name: _rounded(p) for name, p in zip(names, probabilities[row], strict=True)},
        }
        for row in range(len(many))
    ]
    # The decision that is furthest on the wrong side, of each row that has one.
    distance = np.where(many == predicted, 0.0, np.abs(probabilities - many)).max(1)
    worst = [int(row) for row in np.argsort(-distance, kind="stable") if distance[row] > 0]
    mistakes = [
        {**rows.shown(row), "label": table[row]["label"], "predicted": table[row]["predicted"]}
        for row in worst[:_MISTAKES]
    ]
    per_class = metrics.per_class(predicted, many, names)
    if isinstance(decision.threshold, list):
        per_class = [
            {**row, "threshold": value} for row, value in zip(per_class, decision.threshold, strict=True)
        ]
    tables = {"predictions": table, "mistakes": mistakes, "per_class": per_class}
    return Evaluation(figures, tables, learned=learned)


def _scores(predictions: np.ndarray, targets: np.ndarray, rows: _Rows) -> Evaluation:
    errors = np.abs(predictions - targets)
    table = [
        {
            "row_id": row,
            "label": float(targets[row]),
            "predicted": _rounded(predictions[row]),
            "squared_error": _rounded(errors[row] ** 2),
        }
        for row in range(len(targets))
    ]
    worst = [int(row) for row in np.argsort(-errors, kind="stable")[:_MISTAKES]]
    mistakes = [{**rows.shown(row), **table[row]} for row in worst]
    return Evaluation(
        metrics.score_figures(predictions, targets), {"predictions": table, "mistakes": mistakes}
    )


def _named(chosen: np.ndarray, names: Sequence[str]) -> list[str]:
    return [name for name, value in zip(names, chosen, strict=True) if value]


def _rounded(value: float) -> float:
    return round(float(value), 6)
