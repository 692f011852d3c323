"""The alarm speaks when chosen answers are forgotten while accuracy rises, once, and not otherwise."""

from __future__ import annotations

from swift_dpo.alarm import LikelihoodAlarm


def told(kl: list[float], accuracies: list[float], threshold: float = 0.1) -> list[str]:
    alarm = LikelihoodAlarm(threshold=threshold)
    heard = [
        alarm.heard({"kl_token/chosen": a, "rewards/accuracies": b})
        for a, b in zip(kl, accuracies, strict=True)
    ]
    return [text for text in heard if text is not None]


def test_forgetting_while_accuracy_rises_is_told_once() -> None:
    (text,) = told([0.0, -0.1, -0.2, -0.3, -0.4, -0.5], [0.5, 0.6, 0.7, 0.8, 0.9, 0.9])
    assert "less likely than under the reference" in text and "0.50" in text


def test_one_bad_batch_is_not_told() -> None:
    assert not told([0.0, -0.2, 0.0, 0.0, -0.2, 0.0], [0.5, 0.6, 0.7, 0.8, 0.9, 0.9])


def test_learning_without_forgetting_is_not_told() -> None:
    assert not told([0.0, 0.1, 0.2, 0.3], [0.5, 0.6, 0.7, 0.8])


def test_forgetting_without_learning_is_not_told() -> None:
    assert not told([0.0, -0.3, -0.6, -0.9], [0.5, 0.5, 0.4, 0.5])


def test_other_figures_are_let_pass() -> None:
    assert LikelihoodAlarm().heard({"loss": 1.0}) is None
