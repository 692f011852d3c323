"""Each figure equals scikit-learn's on the same arrays, classes without rows included."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as theirs

from swift_cls.calibration import (
    binary_calibration_error,
    expected_calibration_error,
    sigmoid,
    softmax,
)
from swift_cls.metrics import (
    class_figures,
    confusion,
    confusion_rows,
    multi_figures,
    per_class,
    score_figures,
    single_figures,
)

CLASS_KEYS = [
    "f1_macro",
    "f1_micro",
    "f1_weighted",
    "precision_macro",
    "recall_macro",
    "roc_auc",
    "average_precision",
]
NAMES = [f"class {c}" for c in range(5)]


def single_case(seed: int, rows: int = 60, kind: type = np.float64) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [rows, 5] and targets [rows]; class 3 has no rows, class 4 is never predicted.

    With an odd seed class 3 is not predicted either.
    """
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(rows, 5)) * 2
    logits[:, [3, 4] if seed % 2 else 4] = -20
    return softmax(logits).astype(kind), generator.choice([0, 1, 2, 4], rows)


def multi_case(seed: int, rows: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Label 3 has no rows, label 4 is never predicted, label 0 has all rows."""
    generator = np.random.default_rng(seed)
    probabilities = sigmoid(generator.normal(size=(rows, 5)) * 2)
    probabilities[:, 4] /= 2
    targets = generator.integers(0, 2, (rows, 5))
    targets[:, 3], targets[:, 0] = 0, 1
    return probabilities, targets, (probabilities >= 0.5).astype(int)


def one_hot(classes: np.ndarray, count: int = 5) -> np.ndarray:
    return np.eye(count, dtype=int)[classes]


def expected_class_figures(
    probabilities: np.ndarray, targets: np.ndarray, predicted: np.ndarray
) -> dict[str, float]:
    f1 = {
        average: theirs.f1_score(targets, predicted, average=average, zero_division=0)
        for average in ("macro", "micro", "weighted")
    }
    both = [c for c in range(5) if len(set(targets[:, c])) == 2]
    some = [c for c in range(5) if targets[:, c].any()]
    return {
        **{f"f1_{average}": value for average, value in f1.items()},
        "precision_macro": theirs.precision_score(targets, predicted, average="macro", zero_division=0),
        "recall_macro": theirs.recall_score(targets, predicted, average="macro", zero_division=0),
        "roc_auc": theirs.roc_auc_score(targets[:, both], probabilities[:, both], average="macro"),
        "average_precision": theirs.average_precision_score(targets[:, some], probabilities[:, some]),
    }


@pytest.mark.parametrize("seed", range(3))
def test_class_figures_of_several_labels(seed: int) -> None:
    case = multi_case(seed)
    found = class_figures(*case, one_label=False)
    assert list(found) == CLASS_KEYS
    assert found == pytest.approx(expected_class_figures(*case))
    as_bool = class_figures(case[0], case[1].astype(bool), case[2].astype(bool), one_label=False)
    assert as_bool == found


@pytest.mark.parametrize("seed", range(3))
def test_class_figures_of_one_class_a_row(seed: int) -> None:
    probabilities, targets = single_case(seed)
    predicted = probabilities.argmax(1)
    found = class_figures(probabilities, one_hot(targets), one_hot(predicted), one_label=True)
    expected = expected_class_figures(probabilities, one_hot(targets), one_hot(predicted))
    # Of labels, and not of columns, scikit-learn leaves those out that no row has or is given.
    for name, figure in (("f1", theirs.f1_score), ("precision", theirs.precision_score)):
        expected[f"{name}_macro"] = figure(targets, predicted, average="macro", zero_division=0)
    expected["recall_macro"] = theirs.recall_score(targets, predicted, average="macro", zero_division=0)
    assert found == pytest.approx(expected)
    assert found["f1_micro"] == pytest.approx(theirs.accuracy_score(targets, predicted))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_single_figures(seed: int, kind: type) -> None:
    probabilities, targets = single_case(seed, kind=kind)
    predicted = probabilities.argmax(1)
    assert single_figures(probabilities, targets) == pytest.approx(
        {
            "accuracy": theirs.accuracy_score(targets, predicted),
            "mcc": theirs.matthews_corrcoef(targets, predicted),
            "log_loss": theirs.log_loss(targets, y_proba=probabilities, labels=range(5)),
            "ece": expected_calibration_error(probabilities, targets),
        },
        rel=1e-5,
    )


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_log_losses_of_probabilities_of_0_and_1(kind: type) -> None:
    probabilities, targets = np.array([[1, 0], [0, 1]], kind), np.array([0, 0])
    expected = theirs.log_loss(targets, y_proba=probabilities, labels=[0, 1])
    assert single_figures(probabilities, targets)["log_loss"] == pytest.approx(expected, rel=1e-5)
    several = multi_figures(probabilities, one_hot(targets, 2), probabilities)
    assert several["binary_log_loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_multi_figures(seed: int) -> None:
    probabilities, targets, predicted = multi_case(seed)
    targets[:5], predicted[3:8] = 0, 0
    losses = [theirs.log_loss(targets[:, c], y_proba=probabilities[:, c], labels=[0, 1]) for c in range(5)]
    assert multi_figures(probabilities, targets, predicted) == pytest.approx(
        {
            "subset_accuracy": theirs.accuracy_score(targets, predicted),
            "hamming_loss": theirs.hamming_loss(targets, predicted),
            "f1_samples": theirs.f1_score(targets, predicted, average="samples", zero_division=0),
            "binary_log_loss": np.mean(losses),
            "binary_ece": binary_calibration_error(probabilities, targets),
        }
    )


@pytest.mark.parametrize("seed", range(3))
def test_score_figures_of_numbers(seed: int) -> None:
    generator = np.random.default_rng(seed)
    targets = generator.normal(size=40).round(1)
    predictions = (targets + generator.normal(size=40)).round(1)
    assert score_figures(predictions, targets) == pytest.approx(
        {
            "mse": theirs.mean_squared_error(targets, predictions),
            "mae": theirs.mean_absolute_error(targets, predictions),
            "r2": theirs.r2_score(targets, predictions),
            "pearson": stats.pearsonr(predictions, targets).statistic,
            "spearman": stats.spearmanr(predictions, targets).statistic,
        }
    )


@pytest.mark.parametrize("seed", range(3))
def test_quadratic_kappa_of_grades(seed: int) -> None:
    generator = np.random.default_rng(seed)
    targets = generator.choice([1, 2, 5], 40)  # without the grades 3 and 4
    predictions = targets + generator.normal(size=40) * 2
    rounded = np.clip(np.rint(predictions), 1, 5)
    expected = theirs.cohen_kappa_score(targets, rounded.astype(int), labels=range(1, 6), weights="quadratic")
    found = score_figures(predictions.astype(np.float32), targets)["qwk"]
    assert found == pytest.approx(expected)
    assert found != pytest.approx(theirs.cohen_kappa_score(targets, rounded, weights="linear"))


def test_quadratic_kappa_of_a_wide_range() -> None:
    assert score_figures(np.array([0.0, 1e9]), np.array([0.0, 1e9]))["qwk"] == 1.0


@pytest.mark.parametrize("prediction", [0.1, 1.0, -3.0])
@pytest.mark.parametrize("targets", [[0.1] * 7, [1.0] * 7, [1, 2, 3, 1, 2, 3, 5], [0.1]])
def test_constant_scores_are_defined(prediction: float, targets: list[float]) -> None:
    found = score_figures(np.full(len(targets), prediction), np.array(targets))
    assert found["pearson"] == found["spearman"] == 0.0
    assert found.get("qwk", 0.0) == pytest.approx(0.0, abs=1e-12)
    assert ("qwk" in found) == all(float(t).is_integer() for t in targets)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    if len(set(targets)) > 1:
        assert found["r2"] == pytest.approx(theirs.r2_score(targets, [prediction] * len(targets)))
    else:
        # Not asked of scikit-learn: seven times 0.1 have a mean that is a rounding away, and it gives -1e33.
        assert found["r2"] == float(len(targets) > 1 and prediction == targets[0])


@pytest.mark.parametrize("rows", [1, 4])
def test_rows_of_one_class_only(rows: int) -> None:
    probabilities, targets = np.tile(softmax(np.arange(5.0)), (rows, 1)), np.full(rows, 4)
    single = single_figures(probabilities, targets)
    assert single["accuracy"] == 1.0
    assert single["mcc"] == 0.0
    found = class_figures(probabilities, one_hot(targets), one_hot(targets), one_label=True)
    assert math.isnan(found["roc_auc"])
    assert found["average_precision"] == 1.0
    assert found["f1_micro"] == found["f1_weighted"] == 1.0
    assert found["f1_macro"] == found["precision_macro"] == found["recall_macro"] == 1.0


@pytest.mark.parametrize("classes", [1, 3])
def test_no_label_anywhere(classes: int) -> None:
    probabilities, nothing = np.full((2, classes), 0.2), np.zeros((2, classes), int)
    found = class_figures(probabilities, nothing, nothing, one_label=False)
    assert [found[key] for key in CLASS_KEYS[:5]] == [0.0] * 5
    assert math.isnan(found["roc_auc"])
    assert math.isnan(found["average_precision"])
    several = multi_figures(probabilities, nothing, nothing)
    assert several["subset_accuracy"] == 1.0
    assert several["f1_samples"] == 0.0
    assert several["binary_log_loss"] == pytest.approx(-math.log(0.8))


def test_one_label_is_not_taken_for_two_classes() -> None:
    targets, predicted = np.array([[1], [0], [0], [1]]), np.array([[1], [1], [0], [0]])
    found = class_figures(np.array([[0.9], [0.8], [0.1], [0.2]]), targets, predicted, one_label=False)
    assert found["f1_macro"] == theirs.f1_score(targets.ravel(), predicted.ravel()) == 0.5
    assert found["roc_auc"] == 0.75


def test_per_class() -> None:
    _, targets, predicted = multi_case(0)
    found = per_class(predicted, targets, NAMES)
    expected = theirs.precision_recall_fscore_support(targets, predicted, zero_division=0)
    for key, values in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        assert [row[key] for row in found] == pytest.approx(values.tolist())
    assert [row["label"] for row in found] == NAMES
    assert json.loads(json.dumps(found)) == found
    assert isinstance(found[0]["support"], int)


def test_confusion() -> None:
    probabilities, targets = single_case(0)
    predicted = probabilities.argmax(1)
    found = confusion(predicted, targets, 5)
    assert np.issubdtype(found.dtype, np.integer)
    np.testing.assert_array_equal(found, theirs.confusion_matrix(targets, predicted, labels=range(5)))
    narrow = confusion(predicted.astype(np.int8), targets.astype(np.int8), 120)
    np.testing.assert_array_equal(narrow[:5, :5], found)


def test_confusion_rows_leave_out_zeros() -> None:
    found = confusion_rows(confusion(np.array([1, 1, 0]), np.array([0, 0, 2]), 3), ["a", "b", "c"])
    assert found == [
        {"true": "a", "predicted": "b", "count": 2},
        {"true": "c", "predicted": "a", "count": 1},
    ]
    assert json.loads(json.dumps(found)) == found


def test_random_small_cases_give_no_warning_and_are_json() -> None:
    """Whatever the rows are: one row, one class, all equal. pytest makes a warning an error."""
    for seed in range(60):
        generator = np.random.default_rng(seed)
        rows, classes = generator.integers(1, 4, 2)
        probabilities = generator.integers(0, 2, (rows, classes)).astype(float)
        targets, predicted = generator.integers(0, 2, (2, rows, classes))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = [
                multi_figures(probabilities, targets, predicted),
                single_figures(probabilities, generator.integers(0, classes, rows)),
                score_figures(probabilities[:, 0], targets[:, 0]),
                class_figures(probabilities, targets, predicted, one_label=False),
            ]
        json.dumps(found[:3], allow_nan=False)
        assert all(isinstance(value, float) for figures in found for value in figures.values())


def test_importing_the_module_does_not_import_scikit_learn_or_scipy() -> None:
    code = "import sys, swift_cls.metrics; print([m for m in ('sklearn', 'scipy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
