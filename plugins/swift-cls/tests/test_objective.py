"""Which loss a run has; an option that nothing reads is refused."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from swift_cls import metrics
from swift_cls.labels import Labels
from swift_cls.objective import check_chosen_metric, check_options, row_losses
from swift_cls.options import ClassificationOptions
from swift_cls.spec import SPEC
from swift_core.errors import UserError

ONE = Labels(problem="single_label", names=("a", "b", "c"), counts=(6, 3, 1), rows=10)
SEVERAL = Labels(problem="multi_label", names=("a", "b", "c"), counts=(6, 3, 1), rows=12)
SCORES = Labels(problem="regression", names=())


@pytest.mark.parametrize(
    ("labels", "options", "told"),
    [
        (ONE, {"loss": "mse"}, "mse learns regression, found single_label data; use cross_entropy"),
        (ONE, {"focal_gamma": 1.0}, "focal_gamma: has no effect with loss cross_entropy"),
        (ONE, {"threshold": 0.4}, "threshold: has no effect with single_label data"),
        (ONE, {"loss": "focal", "label_smoothing_factor": 0.1}, "label_smoothing_factor: has no effect"),
        (ONE, {"class_weights": {"d": 2.0}}, "there are no labels d; labels: a, b, c"),
        (
            ONE,
            {"class_weights": {"a": 0, "b": 0, "c": 0}},
            "a weight above 0 for some label, found 0 for all",
        ),
        (
            ONE,
            {"loss": "logit_adjusted", "sampling": "square_root"},
            "sampling: expected nothing with loss logit_adjusted, which corrects for the shares of labels in "
            "the data, found square_root, which draws other shares; leave one of the two out",
        ),
        (
            ONE,
            {"class_weights": "balanced", "sampling": "square_root"},
            "sampling: square_root and class_weights=balanced both make up for rare labels, together twice; "
            "leave one of the two out, or give weights by name",
        ),
        (SEVERAL, {"sampling": "balanced"}, "sampling: has no effect with multi_label data"),
        (SCORES, {"class_weights": "balanced"}, "class_weights: has no effect with loss mse"),
    ],
)
def test_what_has_no_effect_is_refused(labels: Labels, options: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as error:
        check_options(ClassificationOptions(**options), labels)
    assert told in str(error.value)


def test_weights_by_counts_need_rows_of_every_label() -> None:
    known = Labels(problem="single_label", names=("a", "b"), counts=(3, 0), rows=3, of_model=True)
    with pytest.raises(UserError, match=r"class_weights=balanced: needs training rows of every label.*b"):
        check_options(ClassificationOptions(class_weights="balanced"), known)


def test_every_option_reaches_its_loss() -> None:
    logits, targets = torch.randn(8, 3), torch.randint(3, (8,))
    plain = row_losses(logits, targets, ClassificationOptions(), ONE)
    torch.testing.assert_close(plain, functional.cross_entropy(logits, targets, reduction="none"))
    weights = torch.tensor([10 / 18, 10 / 9, 10 / 3])
    torch.testing.assert_close(
        row_losses(
            logits, targets, ClassificationOptions(class_weights="balanced", label_smoothing_factor=0.1), ONE
        ),
        functional.cross_entropy(logits, targets, weight=weights, label_smoothing=0.1, reduction="none"),
    )
    given = torch.tensor([1.0, 5.0, 1.0])
    torch.testing.assert_close(
        row_losses(logits, targets, ClassificationOptions(class_weights={"b": 5.0}), ONE),
        functional.cross_entropy(logits, targets, weight=given, reduction="none"),
    )
    ids = Labels(problem="single_label", names=("0", "1", "2"))
    torch.testing.assert_close(
        row_losses(logits, targets, ClassificationOptions(class_weights={1: 5.0}), ids),
        functional.cross_entropy(logits, targets, weight=given, reduction="none"),
    )
    focal = row_losses(logits, targets, ClassificationOptions(loss="focal", focal_gamma=3.0), ONE)
    right = torch.softmax(logits, 1)[torch.arange(8), targets]
    torch.testing.assert_close(focal, -((1 - right) ** 3) * right.log())
    adjusted = ClassificationOptions(loss="logit_adjusted", logit_adjustment=0.5)
    prior = torch.tensor([0.6, 0.3, 0.1]).log()
    torch.testing.assert_close(
        row_losses(logits, targets, adjusted, ONE),
        functional.cross_entropy(logits + 0.5 * prior, targets, reduction="none"),
    )


def test_several_labels_and_scores_have_their_own() -> None:
    logits, many = torch.randn(5, 3), torch.randint(2, (5, 3)).float()
    torch.testing.assert_close(
        row_losses(logits, many, ClassificationOptions(class_weights="balanced"), SEVERAL),
        functional.binary_cross_entropy_with_logits(
            logits, many, pos_weight=torch.tensor([6 / 6, 9 / 3, 11 / 1]), reduction="none"
        ).mean(1),
    )
    scores = torch.randn(5)
    torch.testing.assert_close(
        row_losses(logits[:, :1], scores, ClassificationOptions(), SCORES), (logits[:, 0] - scores) ** 2
    )


@pytest.mark.parametrize(
    ("problem", "name", "has_direction", "told"),
    [
        ("single_label", None, False, None),
        ("single_label", "eval_ece_calibrated", False, None),
        ("multi_label", "binary_ece", False, None),
        ("multi_label", "f1_macro", False, None),
        ("regression", "qwk", False, None),
        ("single_label", "my_figure", True, None),
        ("single_label", "acuracy", False, "found acuracy. Did you mean 'accuracy'?"),
        ("single_label", "temperature", False, "found temperature. For one of an extension"),
        ("multi_label", "accuracy", True, "expected a figure of multi_label data (f1_macro, "),
        ("regression", "f1_macro", False, "expected a figure of regression data (mse, "),
    ],
)
def test_the_figure_for_the_best_model_is_one_that_evaluations_give(
    problem: Any, name: str | None, has_direction: bool, told: str | None
) -> None:
    with nullcontext() if told is None else pytest.raises(UserError) as error:
        check_chosen_metric(name, SPEC, problem, has_direction=has_direction)
    assert told is None or told in str(error.value)


@pytest.mark.parametrize("problem", ["single_label", "multi_label", "regression"])
def test_every_figure_has_a_direction(problem: Any) -> None:
    probabilities, many = np.full((4, 2), 0.5), np.eye(2, dtype=int)[[0, 1, 1, 0]]
    figures = {
        "single_label": metrics.single_figures(probabilities, many.argmax(1)),
        "multi_label": metrics.multi_figures(probabilities, many, many),
        "regression": metrics.score_figures(probabilities[:, 0], many[:, 0]),
    }[problem]
    if problem != "regression":
        figures |= metrics.class_figures(probabilities, many, many, one_label=problem == "single_label")
    for name in figures:
        check_chosen_metric(name, SPEC, problem, has_direction=False)
        down = ("log_loss", "ece", "hamming_loss", "mse", "mae")
        assert SPEC.higher_is_better(name) is not name.endswith(down), name
