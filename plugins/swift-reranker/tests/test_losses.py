"""Each loss equals that of sentence-transformers, gradients too, or a float64 loop where it has none."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from sentence_transformers.cross_encoder import CrossEncoder
from sentence_transformers.cross_encoder import losses as theirs
from torch import Tensor, nn
from torch.nn import functional

from swift_reranker import groups, losses

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]

SIZES = (4, 7, 1, 3, 2)
GROUP = torch.tensor([row for row, size in enumerate(SIZES) for _ in range(size)])
SHUFFLED = torch.randperm(len(GROUP), generator=torch.Generator().manual_seed(5))
# Distinct within a group: theirs don't say what becomes of ties.
GRADES = torch.tensor([2, 0, 1, 3, 0, 5, 4, 6, 1, 2, 3, 1, 0, 2, 1, 1, 0], dtype=torch.float32)
BINARY = torch.tensor([1, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 0, 1, 0, 0], dtype=torch.float32)
TEACHER = 4 * torch.randn(len(GROUP), generator=torch.Generator().manual_seed(9))

SCHEMES: dict[losses.Weighting, nn.Module] = {
    "ndcg_loss2++": theirs.NDCGLoss2PPScheme(mu=7.0),
    "ndcg_loss2": theirs.NDCGLoss2Scheme(),
    "lambda_rank": theirs.LambdaRankScheme(),
    "none": theirs.NoWeightingScheme(),
}
LISTWISE: dict[str, tuple[Loss, Callable[..., nn.Module]]] = {
    "ranknet": (losses.ranknet, theirs.RankNetLoss),
    "ranknet, natural": (
        partial(losses.ranknet, k=2, sigma=0.7, reduction_log="natural"),
        partial(theirs.RankNetLoss, k=2, sigma=0.7, reduction_log="natural"),
    ),
    "lambda_loss": (losses.lambda_loss, theirs.LambdaLoss),
    "listnet": (losses.listnet, theirs.ListNetLoss),
    "list_mle": (losses.list_mle, partial(theirs.ListMLELoss, respect_input_order=False)),
    "p_list_mle": (losses.p_list_mle, partial(theirs.PListMLELoss, respect_input_order=False)),
} | {
    f"lambda_loss, {name}, k={k}": (
        partial(losses.lambda_loss, weighting=name, k=k, mu=7.0, sigma=1.5, reduction_log="natural"),
        partial(theirs.LambdaLoss, weighting_scheme=scheme, k=k, sigma=1.5, reduction_log="natural"),
    )
    for name, scheme in SCHEMES.items()
    for k in (None, 1, 3)
}
ALL: dict[str, Loss] = {name: mine for name, (mine, _) in LISTWISE.items()} | {
    "binary_cross_entropy": losses.binary_cross_entropy,
    "mean_squared_error": losses.mean_squared_error,
    "softmax_cross_entropy": losses.softmax_cross_entropy,
    "margin_mse": losses.margin_mse,
    "kl_divergence": losses.kl_divergence,
}
COMPARING = {
    name: loss for name, loss in ALL.items() if name not in ("binary_cross_entropy", "mean_squared_error")
}


class GivenScores(CrossEncoder):
    """A model whose documents are the places of their scores."""

    def __init__(self, scores: Tensor) -> None:
        nn.Module.__init__(self)
        self.given = scores

    device = torch.device("cpu")
    num_labels = 1

    def preprocess(self, inputs: list[tuple[str, str]], **_: Any) -> dict[str, Tensor]:
        """The places."""
        return {"places": torch.tensor([int(document) for _, document in inputs])}

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """The scores at these places."""
        return {"scores": self.given[features["places"]]}


def random_scores(seed: int = 0, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(len(GROUP), generator=torch.Generator().manual_seed(seed))


def gradient(loss: Callable[[Tensor], Tensor], scores: Tensor) -> Tensor:
    leaf = scores.clone().requires_grad_()
    loss(leaf).sum().backward()
    assert leaf.grad is not None
    return leaf.grad


def same(mine: Callable[[Tensor], Tensor], other: Callable[[Tensor], Tensor], scores: Tensor) -> None:
    """Values and gradients of both agree."""
    torch.testing.assert_close(mine(scores), other(scores), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient(mine, scores), gradient(other, scores), rtol=1e-5, atol=1e-5)


def of_lists(make: Callable[..., nn.Module], scores: Tensor, labels: Tensor, rows: list[Tensor]) -> Tensor:
    """A listwise loss of theirs for one batch of groups, each given by the places of its candidates."""
    documents = [[str(place) for place in row.tolist()] for row in rows]
    value: Tensor = make(GivenScores(scores))([["q"] * len(rows), documents], [labels[row] for row in rows])
    return value


def rows_of(group: Tensor) -> list[Tensor]:
    return [(group == row).nonzero().squeeze(1) for row in range(int(group.max()) + 1)]


def by_row(value: Callable[[Tensor, Tensor], Tensor], scores: Tensor, targets: Tensor) -> Tensor:
    """``value`` of each group on its own, [S]."""
    return torch.stack([value(scores[row], targets[row]) for row in rows_of(GROUP)])


@pytest.mark.parametrize("name", LISTWISE)
@pytest.mark.parametrize("labels", [GRADES, GRADES / 6, TEACHER], ids=["grades", "shares", "teacher"])
def test_each_group_gets_what_sentence_transformers_gives_it(name: str, labels: Tensor) -> None:
    mine, make = LISTWISE[name]

    def other(scores: Tensor) -> Tensor:
        return torch.stack([of_lists(make, scores, labels, [row]) for row in rows_of(GROUP)])

    assert mine(random_scores(), labels, GROUP).shape == (len(SIZES),)
    same(lambda scores: mine(scores, labels, GROUP), other, random_scores())


@pytest.mark.parametrize("name", ["listnet", "list_mle", "p_list_mle"])
def test_the_mean_over_rows_is_theirs_of_a_ragged_batch(name: str) -> None:
    mine, make = LISTWISE[name]
    same(
        lambda scores: mine(scores, GRADES, GROUP).mean(),
        lambda scores: of_lists(make, scores, GRADES, rows_of(GROUP)),
        random_scores(),
    )


@pytest.mark.parametrize("name", ["ranknet", "lambda_loss", "lambda_loss, ndcg_loss2, k=3"])
def test_theirs_of_a_batch_weighs_groups_by_their_pairs(name: str) -> None:
    mine, make = LISTWISE[name]
    top = 3 if "k=3" in name else 100
    # Pairs with one of the first k: all but those of two others.
    pairs = torch.tensor([math.comb(size, 2) - math.comb(max(size - top, 0), 2) for size in SIZES])
    same(
        lambda scores: (mine(scores, GRADES, GROUP) * pairs).sum() / pairs.sum(),
        lambda scores: of_lists(make, scores, GRADES, rows_of(GROUP)),
        random_scores(),
    )


def test_losses_of_single_candidates_are_theirs() -> None:
    documents = [str(place) for place in range(len(GROUP))]
    weights = torch.tensor(SIZES) / len(GROUP)
    for mine, make, labels in (
        (losses.binary_cross_entropy, theirs.BinaryCrossEntropyLoss, BINARY),
        (losses.binary_cross_entropy, theirs.BinaryCrossEntropyLoss, TEACHER.sigmoid()),
        (losses.mean_squared_error, theirs.MSELoss, TEACHER),
    ):
        same(
            lambda scores: (mine(scores, labels, GROUP) * weights).sum(),  # noqa: B023 - called at once
            lambda scores: make(GivenScores(scores))([documents, documents], labels),  # noqa: B023
            random_scores(),
        )
    same(
        lambda scores: losses.binary_cross_entropy(scores, BINARY, GROUP),
        lambda scores: by_row(functional.binary_cross_entropy_with_logits, scores, BINARY),
        random_scores(),
    )
    same(
        lambda scores: losses.mean_squared_error(scores, TEACHER, GROUP),
        lambda scores: by_row(functional.mse_loss, scores, TEACHER),
        random_scores(),
    )


def test_margins_are_those_of_all_pairs() -> None:
    def expected(s: Tensor, t: Tensor) -> Tensor:
        pairs = [(i, j) for i in range(len(t)) for j in range(len(t)) if t[i] > t[j]]
        errors = [(s[i] - s[j] - (t[i] - t[j])) ** 2 for i, j in pairs]
        return torch.stack(errors).mean() if errors else 0 * s.sum()

    for teacher in (TEACHER, BINARY):
        same(
            lambda scores: losses.margin_mse(scores, teacher, GROUP),  # noqa: B023 - called at once
            lambda scores: by_row(expected, scores, teacher),  # noqa: B023
            random_scores(),
        )
    two = torch.tensor([0, 0, 1, 1])
    teacher = torch.tensor([3.0, 1.0, 5.0, 0.5])
    same(
        lambda scores: losses.margin_mse(scores, teacher, two).mean(),
        lambda scores: theirs.MarginMSELoss(GivenScores(scores))(
            [["q", "q"], ["0", "2"], ["1", "3"]], torch.tensor([2.0, 4.5])
        ),
        random_scores()[:4],
    )


def test_softmax_contrasts_each_positive_with_the_negatives() -> None:
    def expected(s: Tensor, y: Tensor) -> Tensor:
        wrong = s[y <= 0] / 0.5
        parts = [
            functional.cross_entropy(torch.cat([p[None], wrong]), torch.tensor(0)) for p in s[y > 0] / 0.5
        ]
        return torch.stack(parts).mean() if parts else 0 * s.sum()

    same(
        lambda scores: losses.softmax_cross_entropy(scores, BINARY, GROUP, temperature=0.5),
        lambda scores: by_row(expected, scores, BINARY),
        random_scores(),
    )
    # With one positive it is the cross entropy of the whole group.
    one = torch.tensor([0.0, 1.0, 0.0, 0.0])
    scores = random_scores()[:4]
    whole = functional.cross_entropy(scores[None], torch.tensor([1]))
    torch.testing.assert_close(losses.softmax_cross_entropy(scores, one, one.long() * 0), whole[None])


def test_divergence_is_that_of_the_softmaxes() -> None:
    def expected(s: Tensor, t: Tensor) -> Tensor:
        return functional.kl_div(
            (s / 2).log_softmax(0), (t / 3).log_softmax(0), log_target=True, reduction="sum"
        )

    same(
        lambda scores: losses.kl_divergence(scores, TEACHER, GROUP, temperature=2, teacher_temperature=3),
        lambda scores: by_row(expected, scores, TEACHER),
        random_scores(),
    )
    same_as_teacher = losses.kl_divergence(TEACHER, TEACHER, GROUP)
    torch.testing.assert_close(same_as_teacher, torch.zeros(len(SIZES)))


@pytest.mark.parametrize("name", ALL)
def test_candidates_may_come_in_any_order_and_with_others(name: str) -> None:
    loss, scores, labels = ALL[name], random_scores(), BINARY if name == "softmax_cross_entropy" else GRADES
    whole = loss(scores, labels, GROUP)
    torch.testing.assert_close(loss(scores[SHUFFLED], labels[SHUFFLED], GROUP[SHUFFLED]), whole)
    alone = torch.cat([loss(scores[row], labels[row], 0 * row) for row in rows_of(GROUP)])
    torch.testing.assert_close(alone, whole)
    moved = loss(scores, labels, GROUP + 1)  # the first row is empty
    torch.testing.assert_close(moved, torch.cat([torch.zeros(1), whole]))
    assert loss(scores[:0], labels[:0], GROUP[:0]).shape == (0,)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("labels", [GRADES, BINARY, 0 * BINARY], ids=["grades", "binary", "all 0"])
def test_extreme_scores_have_finite_gradients(name: str, labels: Tensor) -> None:
    signs = torch.where(random_scores(seed=3) > 0, 1e4, -1e4)
    for scores in (signs, -signs, 0 * signs, 0 * signs + 1e4, 1e4 + random_scores(), 0 * signs - 1e4):
        value = ALL[name](scores, labels, GROUP)
        assert torch.isfinite(value).all(), scores
        assert torch.isfinite(gradient(lambda leaf: ALL[name](leaf, labels, GROUP), scores)).all(), scores


@pytest.mark.parametrize("name", COMPARING)
def test_single_candidates_and_equal_labels_teach_nothing(name: str) -> None:
    loss = COMPARING[name]
    single = torch.arange(3)
    scores = torch.tensor([2.0, -1e4, 7.0])
    labels = torch.tensor([1.0, 1.0, 0.0])
    assert loss(scores, labels, single).tolist() == [0.0, 0.0, 0.0]
    assert gradient(lambda leaf: loss(leaf, labels, single), scores).tolist() == [0.0, 0.0, 0.0]
    if "mle" not in name and name not in ("listnet", "kl_divergence"):
        assert loss(scores, torch.ones(3), 0 * single).tolist() == [0.0]


@pytest.mark.parametrize("name", ALL)
def test_half_precision_is_computed_in_single(name: str) -> None:
    scores, labels = random_scores().bfloat16(), BINARY
    half = ALL[name](scores, labels.long(), GROUP)
    assert half.dtype == torch.float32
    assert torch.equal(half, ALL[name](scores.float(), labels, GROUP))
    cold = partial(losses.softmax_cross_entropy, temperature=0.3)
    assert torch.equal(cold(scores, labels, GROUP), cold(scores.float(), labels, GROUP))
    distil = partial(losses.kl_divergence, temperature=0.3, teacher_temperature=0.7)
    teacher = TEACHER.bfloat16()
    assert torch.equal(distil(scores, teacher, GROUP), distil(scores.float(), teacher.float(), GROUP))


def test_equal_labels_keep_the_order_of_the_group() -> None:
    group = torch.zeros(5, dtype=torch.long)
    scores = random_scores()[:5]
    tied, order = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0]), torch.tensor([2.0, 4.0, 1.0, 3.0, 0.0])
    for loss in (losses.list_mle, losses.p_list_mle):
        torch.testing.assert_close(loss(scores, tied, group), loss(scores, order, group))


def test_large_labels_and_long_lists_do_not_overflow() -> None:
    count = 400
    group, scores = torch.zeros(count, dtype=torch.long), torch.randn(count)
    labels = torch.arange(count, dtype=torch.float32)
    for name in ("lambda_loss", "p_list_mle"):
        value = ALL[name](scores, labels, group)
        assert torch.isfinite(value).all() and value > 0
    # Gains are shares of the best: 100 more of each label changes nothing where 2^y - 1 is as good as 2^y.
    few = torch.tensor([70.0, 60.0, 66.0, 50.0])
    torch.testing.assert_close(
        losses.lambda_loss(scores[:4], few + 100, group[:4]), losses.lambda_loss(scores[:4], few, group[:4])
    )
    in_double = of_lists(
        partial(theirs.PListMLELoss, respect_input_order=False), scores, labels, [torch.arange(count)]
    )
    torch.testing.assert_close(losses.p_list_mle(scores, labels, group), in_double[None])


def test_better_orders_cost_less() -> None:
    group = torch.zeros(4, dtype=torch.long)
    labels = torch.tensor([3.0, 2.0, 1.0, 0.0])
    for name, loss in COMPARING.items():
        right, wrong = (loss(sign * labels, labels, group) for sign in (1, -1))
        assert right < wrong, name


def test_values_are_laid_out_by_group() -> None:
    values, group = torch.tensor([5.0, 6.0, 7.0, 8.0]), torch.tensor([2, 0, 2, 2])
    matrix, mask = groups.padded(values, group)
    assert matrix.tolist() == [[6, 0, 0], [0, 0, 0], [5, 7, 8]]
    assert mask.tolist() == [[True, False, False], [False] * 3, [True] * 3]
    both, _ = groups.padded(torch.stack([values, -values], 1), group)
    assert both[..., 1].tolist() == (-matrix).tolist()
