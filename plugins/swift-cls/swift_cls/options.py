"""The options of the task type ``sequence-classification``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt, MinLen

from swift_core.spec import option

LossName = Literal["cross_entropy", "focal", "logit_adjusted", "binary_cross_entropy", "binary_focal", "mse"]
Problem = Literal["single_label", "multi_label", "regression"]
LongText = Literal["truncate", "head_tail", "chunk_mean", "chunk_max"]


@dataclass(frozen=True, kw_only=True)
class ClassificationOptions:
    """Labels, loss, imbalance, long texts and evaluation of classifiers."""

    problem: Problem | None = option(
        None,
        help="What is learned; default: what the labels are: lists are multi_label, numbers with a fraction "
        "regression, all else single_label.",
    )
    label_names: Annotated[list[str | int], MinLen(1)] | None = option(
        None,
        help="The labels in the order of their ids; default: those of the model where it knows all in the "
        "data, else those that the data set names (ClassLabel), else those of the training data, sorted.",
    )
    num_labels: Annotated[int, Gt(0)] | None = option(
        None, help="How many labels there must be; a check only, the data or label_names tell it."
    )
    pooling_method: Literal["cls", "mean", "lasttoken"] | None = option(
        None,
        help="Which token vectors the head reads; default: as a trained classifier did before, else "
        "as transformers does it for this model.",
    )
    head_start: Literal["random", "probe"] = option(
        "random",
        help="Where a new head starts: at random, or at a linear probe: what a logistic (for scores a ridge) "
        "regression learns from the vectors of the untrained model.",
    )
    loss: LossName | None = option(
        None,
        help="Default: cross_entropy for one label, binary_cross_entropy for several, mse for scores.",
    )
    label_smoothing_factor: Annotated[float, Ge(0), Lt(1)] = option(
        0.0, help="Share of the probability that is spread over all labels (not for focal losses and mse)."
    )
    class_weights: Literal["balanced"] | dict[str | int, Annotated[float, Ge(0)]] | None = option(
        None,
        help="Weight of each label's rows (for several labels: of the rows that have it), by name, 1 where "
        "none is given; or balanced: the rarer, the more.",
    )
    focal_gamma: Annotated[float, Ge(0)] | None = option(
        None, help="How much less a row counts that is right already (focal losses); default: 2."
    )
    logit_adjustment: Annotated[float, Gt(0)] | None = option(
        None, help="Factor of the log of each label's share that is added to its logit; default: 1."
    )
    sampling: Literal["balanced", "square_root"] | None = option(
        None,
        help="Draw rows with replacement: each label as often as any other, or in proportion to the square "
        "root of its rows (one label only).",
    )
    threshold: Annotated[float, Gt(0), Lt(1)] | Literal["auto", "per_label"] = option(
        "auto",
        help="Probability from which on a row has a label (several labels): a number, or fitted on the "
        "evaluation data: auto for one that is best for micro-F1, per_label for each label's own F1.",
    )
    calibrate: bool = option(
        True,
        help="Fit a temperature for the probabilities on the evaluation data and keep it with the model.",
    )
    long_text: LongText = option(
        "truncate",
        help="What becomes of a text above max_length: its end is cut (truncate), its middle (head_tail), or "
        "it is read in chunks whose vectors are averaged or maximised. A trained classifier goes on as "
        "before where nothing is given.",
    )
    report_duplicates: bool = option(
        True, help="Tell which evaluation texts are, nearly, in the training data too."
    )
