"""Calibration against loops, grids and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from swift_cls.calibration import (
    binary_calibration_error,
    expected_calibration_error,
    fit_temperature,
    fit_threshold,
    fit_thresholds,
    sigmoid,
    softmax,
)

GRID = np.exp(np.linspace(np.log(0.05), np.log(20), 600))


def random_logits(rows: int, classes: int, seed: int, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, classes)) * scale


def drawn_classes(probabilities: np.ndarray, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return np.array([generator.choice(len(row), p=row) for row in probabilities])


def drawn_labels(probabilities: np.ndarray, seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).random(probabilities.shape) < probabilities).astype(int)


def gap_loop(confidences: list[float], outcomes: list[bool], bins: int) -> float:
    """The definition, word for word."""
    total = 0.0
    for number in range(1, bins + 1):
        low, high = (number - 1) / bins, number / bins
        inside = [i for i, c in enumerate(confidences) if low < c <= high or (number == 1 and c == 0)]
        if inside:
            accuracy = sum(outcomes[i] for i in inside) / len(inside)
            confidence = sum(confidences[i] for i in inside) / len(inside)
            total += len(inside) / len(confidences) * abs(accuracy - confidence)
    return total


def test_softmax_and_sigmoid_are_those_of_torch_in_float64() -> None:
    logits = random_logits(5, 4, seed=0, scale=10).astype(np.float32)
    for mine, theirs in ((softmax, torch.nn.Softmax(-1)), (sigmoid, torch.nn.Sigmoid())):
        found = mine(logits)
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, theirs(torch.tensor(logits).double()).numpy(), rtol=1e-12)


def test_softmax_and_sigmoid_of_extreme_logits() -> None:
    np.testing.assert_array_equal(softmax(np.array([1e4, -1e4, 1e4])), [0.5, 0.0, 0.5])
    np.testing.assert_array_equal(sigmoid(np.array([1e4, -1e4, 0.0])), [1.0, 0.0, 0.5])


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_expected_calibration_error_in_a_loop(bins: int) -> None:
    probabilities = softmax(random_logits(200, 4, seed=1, scale=2))
    targets = np.random.default_rng(2).integers(0, 4, 200)
    expected = gap_loop(probabilities.max(1).tolist(), (probabilities.argmax(1) == targets).tolist(), bins)
    assert expected_calibration_error(probabilities, targets, bins) == pytest.approx(expected)
    assert expected > 0.01


def test_expected_calibration_error_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], np.float32)
    # Bins of 1/2 have all four in one: three right of a mean confidence of 0.8.
    assert expected_calibration_error(probabilities, np.array([0, 1, 1, 0]), 2) == pytest.approx(0.05)
    assert expected_calibration_error(np.array([[0.0, 1.0]]), np.array([1])) == 0.0
    assert expected_calibration_error(np.array([[0.0, 1.0]]), np.array([0])) == 1.0


def test_an_edge_belongs_to_the_bin_below() -> None:
    probabilities = np.array([[0.5, 0.5], [0.25, 0.75]])
    # (0, 0.5] and (0.5, 1]: |1 - 0.5| / 2 + |0 - 0.75| / 2, where one bin for both would give 0.125.
    assert expected_calibration_error(probabilities, np.array([0, 0]), 2) == pytest.approx(0.625)


def test_binary_calibration_error_in_a_loop() -> None:
    probabilities = sigmoid(random_logits(150, 3, seed=3, scale=2))
    probabilities[0] = [0.0, 1.0, 0.4]
    targets = np.random.default_rng(4).integers(0, 2, (150, 3))
    gaps = [gap_loop(probabilities[:, c].tolist(), targets[:, c].tolist(), 15) for c in range(3)]
    assert binary_calibration_error(probabilities, targets) == pytest.approx(sum(gaps) / 3)


@pytest.mark.parametrize("true", [0.3, 1.0, 2.5])
def test_temperature_is_the_best_of_a_fine_grid(true: float) -> None:
    logits = random_logits(400, 5, seed=5, scale=3)
    targets = drawn_classes(softmax(logits / true), seed=6)
    rows, classes = torch.tensor(logits), torch.tensor(targets)
    losses = [torch.nn.functional.cross_entropy(rows / t, classes).item() for t in GRID]
    found = fit_temperature(logits, targets)
    assert found == pytest.approx(GRID[np.argmin(losses)], rel=0.01)
    assert found == pytest.approx(true, rel=0.25)


@pytest.mark.parametrize("true", [0.5, 3.0])
def test_temperature_of_labels_is_the_best_of_a_fine_grid(true: float) -> None:
    logits = random_logits(300, 4, seed=7, scale=3)
    targets = drawn_labels(sigmoid(logits / true), seed=8)
    signed = np.where(targets == 1, logits, -logits)
    losses = [-np.log(sigmoid(signed / t)).mean() for t in GRID]
    assert fit_temperature(logits, targets) == pytest.approx(GRID[np.argmin(losses)], rel=0.01)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_rows_that_are_all_right_leave_the_temperature_alone(scale: float) -> None:
    logits = random_logits(20, 3, seed=9) * scale
    assert fit_temperature(logits, logits.argmax(1)) == 1.0
    assert fit_temperature(logits, (logits > 0).astype(int)) == 1.0
    assert fit_temperature(logits, logits > 0) == 1.0


def test_temperature_of_little_or_broken_data() -> None:
    one = np.array([[2.0, 1.0]])
    assert fit_temperature(one, np.array([0])) == 1.0
    assert fit_temperature(np.zeros((3, 2)), np.array([0, 1, 1])) == 1.0
    too_small_to_matter = 1e-20 * random_logits(9, 3, seed=12)
    assert fit_temperature(too_small_to_matter, too_small_to_matter.argmin(1)) == 1.0
    assert fit_temperature(np.zeros((0, 2)), np.zeros(0, int)) == 1.0
    assert fit_temperature(np.zeros((0, 2)), np.zeros((0, 2), int)) == 1.0
    for broken in (np.nan, np.inf, -np.inf):
        assert fit_temperature(np.array([[broken, 1.0]]), np.array([1])) == 1.0


def test_temperature_stays_in_its_range() -> None:
    logits = random_logits(50, 3, seed=10)
    wrong = logits.argmin(1)
    assert fit_temperature(logits, wrong) == pytest.approx(20.0, rel=1e-3)
    assert fit_temperature(1e4 * logits, wrong) == pytest.approx(20.0, rel=1e-3)
    targets = drawn_classes(softmax(logits), seed=11)
    assert fit_temperature(1e-4 * logits, targets) == pytest.approx(0.05, rel=1e-3)


def micro_f1(probabilities: np.ndarray, targets: np.ndarray, threshold: float) -> float:
    return float(f1_score(targets.ravel(), probabilities.ravel() >= threshold, zero_division=0))


def cases() -> list[tuple[np.ndarray, np.ndarray]]:
    found = []
    for seed in range(6):
        probabilities = sigmoid(random_logits(25, 3, seed=seed, scale=2) - 1)
        targets = drawn_labels(probabilities, seed=seed + 100)
        # Rounded, for many equal probabilities, zeros and ones among them.
        found += [(probabilities, targets), (probabilities.round(1), targets)]
    return found


@pytest.mark.parametrize(("probabilities", "targets"), cases())
def test_threshold_is_the_best_of_all(probabilities: np.ndarray, targets: np.ndarray) -> None:
    values = np.unique(probabilities)
    middles = (values + np.append(0.0, values[:-1])) / 2
    all_f1 = np.array([micro_f1(probabilities, targets, t) for t in np.unique([*middles, *values])])
    found = fit_threshold(probabilities, targets)
    assert micro_f1(probabilities, targets, found) == all_f1.max()
    # It is one of the middles (the lowest may be 0), and of the best ones the closest to 0.5.
    best = [t for t in middles if micro_f1(probabilities, targets, t) == all_f1.max()]
    assert abs(found - 0.5) == pytest.approx(min(abs(t - 0.5) for t in best))


@pytest.mark.parametrize(("probabilities", "targets"), cases())
def test_thresholds_are_the_best_of_each_label(probabilities: np.ndarray, targets: np.ndarray) -> None:
    found = fit_thresholds(probabilities, targets)
    assert found == [fit_threshold(probabilities[:, [c]], targets[:, [c]]) for c in range(3)]
    macro = f1_score(targets, probabilities >= np.array(found), average="macro", zero_division=0)
    assert macro >= f1_score(targets, probabilities >= 0.5, average="macro", zero_division=0)


def test_thresholds_by_hand() -> None:
    probabilities = np.array([[0.9, 0.2], [0.7, 0.3], [0.2, 0.1]])
    targets = np.array([[1, 0], [1, 0], [0, 0]])
    assert fit_thresholds(probabilities, targets) == pytest.approx([0.45, 0.5])
    assert fit_threshold(probabilities, np.zeros((3, 2))) == 0.5
    assert fit_threshold(probabilities, np.ones((3, 2))) == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("probabilities", "closest"), [([0.9, 0.5, 0.2, 0.1], 0.7), ([0.99, 0.95, 0.9, 0.45], 0.225)]
)
def test_ties_go_towards_one_half(probabilities: list[float], closest: float) -> None:
    # F1 is 2/3 for the first alone and for all four, and lower in between.
    targets = np.array([[1], [0], [0], [1]])
    assert fit_threshold(np.array(probabilities)[:, None], targets) == pytest.approx(closest)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a_threshold_between_neighbouring_floats_cuts_them_apart(kind: type[np.floating]) -> None:
    high = kind(0.3)
    low = np.nextafter(high, kind(0))
    for top in (high, np.nextafter(high, kind(1))):
        probabilities = np.array([[top], [low]])
        found = fit_threshold(probabilities, np.array([[1], [0]]))
        assert (probabilities >= found).tolist() == [[True], [False]]
        assert (probabilities >= np.float64(found)).tolist() == [[True], [False]]
