"""A head that starts where a linear probe of the given model ends, not at random.

Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution" (LP-FT):
a random head sends large, wrong gradients into the body before it has learned anything itself.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from swift_cls.predicting import row_vectors
from swift_core.errors import UserError
from swift_core.flat.processes import is_first_process
from swift_core.modes import evaluating

if TYPE_CHECKING:
    import datasets

    from swift_cls.collator import ClassificationCollator
    from swift_cls.options import Problem

# Shape legend: N rows, D dimensions, C outputs.

MOST_ROWS = 20_000
"""Rows that are looked at, drawn at random: more change a probe of some hundred dimensions little."""

_C, _ITERATIONS, _VECTORS_AT_ONCE = 0.03, 200, 4_096


def start_at_probe(model: Any, collator: ClassificationCollator, features: datasets.Dataset) -> None:
    """Fit the last layer of the head to the training rows, with all other weights as they are, in place.

    Args:
        model: a flat classifier, perhaps with a new adapter.
        collator: knows the labels.
        features: encoded training rows.

    Raises:
        UserError: the head does not end in a linear layer with an output for each label.
    """
    rows = range(len(features))
    if len(features) > MOST_ROWS:
        features = features.select(sorted(random.Random(0).sample(rows, MOST_ROWS)))
    vectors = torch.from_numpy(row_vectors(model, collator, features, progress=True))
    last, inputs = _read_by_last_layer(model, vectors, len(collator.known_labels))
    weight, bias = fit_probe(
        inputs.cpu().numpy(),
        features["targets"],
        collator.known_labels.problem,
        outputs=last.out_features,
        with_bias=last.bias is not None,
    )
    with torch.no_grad():
        last.weight.copy_(torch.from_numpy(weight))
        if last.bias is not None:
            last.bias.copy_(torch.from_numpy(bias))
    if is_first_process():
        print(f"head      starts at a linear probe of {len(features):,} rows", flush=True)


def _read_by_last_layer(model: Any, vectors: Tensor, outputs: int) -> tuple[nn.Linear, Tensor]:
    """The layer that gives the logits, and what it is given for pooled vectors: [N, D]."""
    called: list[tuple[nn.Linear, Tensor]] = []
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    hooks = [
        layer.register_forward_pre_hook(lambda layer, inputs: called.append((layer, inputs[0])))
        for layer in layers
    ]
    device = next(model.parameters()).device
    found = []
    try:
        with evaluating(model):
            for part in vectors.split(_VECTORS_AT_ONCE):
                model.flat_logits(part.to(device))
                found.append(called[-1][1].reshape(len(part), -1).float() if called else part)
    finally:
        for hook in hooks:
            hook.remove()
    if not called or called[-1][0].out_features != outputs:
        raise UserError(
            "head_start: probe needs a head that ends in a linear layer with an output for each label, found "
            "another one; leave head_start out"
        )
    return called[-1][0], torch.cat(found)


def fit_probe(
    vectors: np.ndarray,
    targets: Sequence[Sequence[float]],
    problem: Problem,
    *,
    outputs: int,
    with_bias: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """A linear model of the targets, by scikit-learn: logistic regression, for scores ridge regression.

    Args:
        vectors: [N, D].
        targets: of each row the id of its label, the ids of its labels, or its score.
        problem: which of these.
        outputs: C; a label without rows is made improbable.
        with_bias: False: logits are products with the vectors alone.

    Returns:
        Weight [C, D] and bias [C], for vectors as they are.
    """
    from sklearn.linear_model import Ridge

    mean = vectors.mean(0) if with_bias else np.zeros(vectors.shape[1])
    # One scale for all dimensions makes one strength of the penalty fit the vectors of every model. A scale
    # of each would give those that hardly vary weights under which dropout alone decides.
    scale = float(np.sqrt(vectors.var(0).mean())) or 1.0
    scaled = (vectors - mean) / scale
    if problem == "regression":
        ridge = Ridge(alpha=1 / _C, fit_intercept=with_bias)
        ridge.fit(scaled, np.array([row[0] for row in targets]))
        weight, bias = ridge.coef_.reshape(1, -1), np.reshape(ridge.intercept_, 1)
    elif problem == "single_label":
        weight, bias = _of_labels(scaled, np.array([int(row[0]) for row in targets]), outputs, with_bias)
    else:
        parts = [
            _of_labels(scaled, np.array([int(label in row) for row in targets]), 2, with_bias)
            for label in range(outputs)
        ]
        weight = np.stack([part[1] - part[0] for part, _ in parts])
        bias = np.array([part[1] - part[0] for _, part in parts])
    weight = weight / scale
    bias = bias - weight @ mean
    return weight.astype(np.float32), bias.astype(np.float32)


def _of_labels(
    scaled: np.ndarray, ids: np.ndarray, outputs: int, with_bias: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Weight [C, D] and bias [C] of a softmax over the labels."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    # With one row more of each label: what was not seen is improbable, not impossible.
    counts = np.bincount(ids, minlength=outputs) + 1
    weight, bias = np.zeros((outputs, scaled.shape[1])), np.log(counts / counts.sum())
    there = np.unique(ids)
    if len(there) == 1:
        return weight, bias
    model = LogisticRegression(C=_C, max_iter=_ITERATIONS, fit_intercept=with_bias)
    with warnings.catch_warnings():
        # Training goes on from here: near the optimum is near enough.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(scaled, ids)
    found, offset = model.coef_, np.broadcast_to(model.intercept_, len(model.coef_))
    if len(there) == 2:
        found, offset = np.concatenate([-found, found]) / 2, np.concatenate([-offset, offset]) / 2
    weight[there] = found
    # Labels without rows stay as much below the others as their counts are.
    bias[there] = offset + (bias[there].mean() - offset.mean())
    return weight, bias
