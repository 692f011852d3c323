"""Each loss equals torch's, gradients too, or a float64 loop where torch has none."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor
from torch.nn import functional

from swift_cls import losses

ROWS, CLASSES = 6, 4
TARGETS = torch.tensor([0, 1, 2, 3, 3, 0])
LABELS = torch.tensor([[1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 1, 0]])
WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 3.0])
PRIORS = torch.tensor([0.7, 0.2, 0.09, 0.01])

SINGLE: dict[str, Callable[..., Tensor]] = {
    "cross_entropy": losses.cross_entropy,
    "cross_entropy, options": partial(losses.cross_entropy, class_weights=WEIGHTS, label_smoothing=0.1),
    "focal 2": partial(losses.focal, gamma=2.0, class_weights=WEIGHTS),
    "focal 0": partial(losses.focal, gamma=0.0),
    "focal 0.5": partial(losses.focal, gamma=0.5),
    "logit_adjusted": partial(losses.logit_adjusted, priors=PRIORS, class_weights=WEIGHTS),
}
MULTI: dict[str, Callable[..., Tensor]] = {
    "binary_cross_entropy": losses.binary_cross_entropy,
    "binary_cross_entropy, options": partial(
        losses.binary_cross_entropy, positive_weights=WEIGHTS, label_smoothing=0.1
    ),
    "binary_focal 2": partial(losses.binary_focal, gamma=2.0, positive_weights=WEIGHTS),
    "binary_focal 0": partial(losses.binary_focal, gamma=0.0),
    "binary_focal 0.5": partial(losses.binary_focal, gamma=0.5),
}
ALL = [(loss, TARGETS) for loss in SINGLE.values()] + [(loss, LABELS) for loss in MULTI.values()]
NAMES = [*SINGLE, *MULTI]


def random_logits(seed: int = 0) -> Tensor:
    return 3 * torch.randn(ROWS, CLASSES, generator=torch.Generator().manual_seed(seed))


def gradient(loss: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    leaf = logits.clone().requires_grad_()
    loss(leaf).mean().backward()
    assert leaf.grad is not None
    return leaf.grad


def same(mine: Callable[[Tensor], Tensor], theirs: Callable[[Tensor], Tensor]) -> None:
    """Values and gradients of both agree."""
    logits = random_logits()
    assert mine(logits).shape == (ROWS,)
    torch.testing.assert_close(mine(logits), theirs(logits))
    torch.testing.assert_close(gradient(mine, logits), gradient(theirs, logits))


def log_softmax_loop(row: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in row)
    return [value - math.log(total) for value in row]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_cross_entropy_is_that_of_torch(weights: Tensor | None, smoothing: float) -> None:
    same(
        lambda z: losses.cross_entropy(z, TARGETS, class_weights=weights, label_smoothing=smoothing),
        lambda z: functional.cross_entropy(
            z, TARGETS, weight=weights, label_smoothing=smoothing, reduction="none"
        ),
    )


def test_cross_entropy_in_a_float64_loop() -> None:
    found = losses.cross_entropy(random_logits(), TARGETS, class_weights=WEIGHTS, label_smoothing=0.2)
    for loss, row, target in zip(found.tolist(), random_logits().tolist(), TARGETS.tolist(), strict=True):
        logs, weights = log_softmax_loop(row), WEIGHTS.tolist()
        expected = -0.8 * weights[target] * logs[target]
        expected -= 0.05 * sum(w * value for w, value in zip(weights, logs, strict=True))
        assert loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_focal_in_a_float64_loop(gamma: float) -> None:
    found = losses.focal(random_logits(), TARGETS, gamma=gamma, class_weights=WEIGHTS)
    for loss, row, target in zip(found.tolist(), random_logits().tolist(), TARGETS.tolist(), strict=True):
        log = log_softmax_loop(row)[target]
        expected = -WEIGHTS[target].item() * (1 - math.exp(log)) ** gamma * log
        assert loss == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_focal_without_gamma_is_cross_entropy(weights: Tensor | None) -> None:
    same(
        lambda z: losses.focal(z, TARGETS, gamma=0.0, class_weights=weights),
        lambda z: losses.cross_entropy(z, TARGETS, class_weights=weights),
    )
    same(
        lambda z: losses.binary_focal(z, LABELS, gamma=0.0, positive_weights=weights),
        lambda z: losses.binary_cross_entropy(z, LABELS, positive_weights=weights),
    )


def test_focal_gradient_is_that_of_the_plain_formula() -> None:
    def plain(logits: Tensor) -> Tensor:
        share = logits.softmax(1)[torch.arange(ROWS), TARGETS]
        return -((1 - share) ** 1.5) * share.log()

    same(lambda z: losses.focal(z, TARGETS, gamma=1.5), plain)


@pytest.mark.parametrize("tau", [0.5, 1.0])
def test_logit_adjusted_in_a_float64_loop(tau: float) -> None:
    found = losses.logit_adjusted(random_logits(), TARGETS, priors=PRIORS, tau=tau, class_weights=WEIGHTS)
    for loss, row, target in zip(found.tolist(), random_logits().tolist(), TARGETS.tolist(), strict=True):
        # Menon's other form: the log of 1 + the sum of the rivals' odds.
        rivals = sum(
            (PRIORS[c].item() / PRIORS[target].item()) ** tau * math.exp(row[c] - row[target])
            for c in range(CLASSES)
            if c != target
        )
        assert loss == pytest.approx(WEIGHTS[target].item() * math.log1p(rivals), rel=1e-4)


def test_logit_adjusted_with_equal_priors_or_without_tau_is_cross_entropy() -> None:
    for options in ({"priors": torch.full((CLASSES,), 0.25)}, {"priors": PRIORS, "tau": 0.0}):
        same(
            partial(losses.logit_adjusted, targets=TARGETS, label_smoothing=0.1, **options),
            lambda z: losses.cross_entropy(z, TARGETS, label_smoothing=0.1),
        )


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_binary_cross_entropy_is_that_of_torch(weights: Tensor | None, smoothing: float) -> None:
    targets = torch.where(LABELS == 1, 1 - smoothing / 2, smoothing / 2)
    same(
        lambda z: losses.binary_cross_entropy(z, LABELS, positive_weights=weights, label_smoothing=smoothing),
        lambda z: functional.binary_cross_entropy_with_logits(
            z, targets, pos_weight=weights, reduction="none"
        ).mean(1),
    )


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_binary_focal_in_a_float64_loop(gamma: float) -> None:
    found = losses.binary_focal(random_logits(), LABELS, gamma=gamma, positive_weights=WEIGHTS)
    for loss, row, labels in zip(found.tolist(), random_logits().tolist(), LABELS.tolist(), strict=True):
        total = 0.0
        for logit, label, weight in zip(row, labels, WEIGHTS.tolist(), strict=True):
            share = 1 / (1 + math.exp(-logit))
            right, scale = (share, weight) if label else (1 - share, 1.0)
            total -= scale * (1 - right) ** gamma * math.log(right)
        assert loss == pytest.approx(total / CLASSES, rel=1e-4)


def test_squared_error() -> None:
    found = losses.squared_error(torch.tensor([1.0, -2.0]).half(), torch.tensor([3, -2]))
    assert found.tolist() == [4.0, 0.0]
    assert found.dtype == torch.float32


@pytest.mark.parametrize(("loss", "targets"), ALL, ids=NAMES)
def test_extreme_logits_have_finite_losses_and_gradients(
    loss: Callable[..., Tensor], targets: Tensor
) -> None:
    signs = random_logits(1).sign()
    for logits in (1e4 * signs, -1e4 * signs, torch.full((ROWS, CLASSES), 1e4), 1e4 * (2 * LABELS - 1.0)):
        assert loss(logits, targets).isfinite().all()
        assert gradient(lambda z: loss(z, targets), logits).isfinite().all()
    right = 1e4 * functional.one_hot(TARGETS, CLASSES).float()
    assert gradient(lambda z: loss(z, targets), right).isfinite().all()


@pytest.mark.parametrize(("loss", "targets"), ALL, ids=NAMES)
def test_computed_in_float32_with_a_gradient_in_the_type_of_the_logits(
    loss: Callable[..., Tensor], targets: Tensor
) -> None:
    half = random_logits().bfloat16()
    assert loss(half, targets).dtype == torch.float32
    torch.testing.assert_close(loss(half, targets), loss(half.float(), targets))
    assert gradient(lambda z: loss(z, targets), half).dtype == torch.bfloat16


@pytest.mark.parametrize(("loss", "targets"), ALL, ids=NAMES)
def test_cutting_a_batch_does_not_change_the_gradient(loss: Callable[..., Tensor], targets: Tensor) -> None:
    logits = random_logits()
    cut = logits.clone().requires_grad_()
    for part in (slice(0, 1), slice(1, 4), slice(4, ROWS)):
        (loss(cut[part], targets[part]).sum() / ROWS).backward()
    assert cut.grad is not None
    torch.testing.assert_close(cut.grad, gradient(lambda z: loss(z, targets), logits))


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    rows = np.repeat([0, 1, 2], [7, 2, 31])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=rows)
    assert losses.balanced_weights([7, 2, 31]) == pytest.approx(expected.tolist())


def test_positive_weights_are_negatives_per_positive() -> None:
    # With 0 for a label that all rows have, the loss would say nothing of it.
    assert losses.positive_weights([1, 5, 10], 10) == [9.0, 1.0, 1.0]


def test_a_class_without_rows_is_named() -> None:
    with pytest.raises(ValueError, match=r"index \[1, 3\]"):
        losses.balanced_weights([4, 0, 2, 0])
    with pytest.raises(ValueError, match=r"index \[0\]"):
        losses.positive_weights([0, 2], 5)
