"""Losses, gradients and figures equal those of TRL, which scores the same batch by padded rows of its own."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pytest
import torch
import trl
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from swift_dpo.answers import Answers
from swift_dpo.objectives import cpo_loss, dpo_loss, kto_loss, orpo_loss, simpo_loss
from swift_dpo.options import CpoOptions, DpoOptions, KtoOptions, OrpoOptions, SimpoOptions

DPO: dict[str, DpoOptions] = {
    "sigmoid": DpoOptions(beta=0.3),
    "sigmoid_norm": DpoOptions(loss="sigmoid_norm", beta=2.0),
    "hinge": DpoOptions(loss="hinge"),
    "ipo": DpoOptions(loss="ipo", beta=0.2),
    "robust": DpoOptions(loss="robust", label_smoothing=0.2),
    "exo_pair": DpoOptions(loss="exo_pair", label_smoothing=0.01),
    "nca_pair": DpoOptions(loss="nca_pair"),
    "sppo_hard": DpoOptions(loss="sppo_hard", beta=0.5),
    "aot": DpoOptions(loss="aot", label_smoothing=0.1),
    "aot_unpaired": DpoOptions(loss="aot_unpaired"),
    "apo_zero": DpoOptions(loss="apo_zero"),
    "apo_down": DpoOptions(loss="apo_down"),
    "discopop": DpoOptions(loss="discopop"),
    "discopop, tau": DpoOptions(loss="discopop", discopop_tau=0.5),
    "sft": DpoOptions(loss="sft"),
    "RPO": DpoOptions(loss=["sigmoid", "sft"], loss_weights=[1.0, 0.3]),
    "several": DpoOptions(loss=["hinge", "apo_zero", "ipo"], loss_weights=[0.5, 2.0, 1.0]),
    "wpo": DpoOptions(wpo=True),
    "wpo, several": DpoOptions(loss=["nca_pair", "ipo"], wpo=True),
    "forward_kl": DpoOptions(f_divergence="forward_kl", beta=0.05),
    "js_divergence": DpoOptions(loss="hinge", f_divergence="js_divergence"),
    "alpha_divergence": DpoOptions(f_divergence="alpha_divergence", loss="ipo"),
    "alpha 1.2": DpoOptions(f_divergence="alpha_divergence", f_alpha=1.2),
    "alpha 1": DpoOptions(f_divergence="alpha_divergence", f_alpha=1.0),
}
FIGURES = [f"{name}/{side}" for name in ("rewards", "logps", "logits") for side in ("chosen", "rejected")]


@dataclass(frozen=True, kw_only=True)
class Padded:
    """What a model says of padded rows, computed here: the sums and means of answers' tokens."""

    logps: Tensor
    tokens: Tensor
    confidence: Tensor
    mean_logits: Tensor


def padded(model: nn.Module, ids: Tensor, attention: Tensor, completion: Tensor) -> Padded:
    logits = model(input_ids=ids, attention_mask=attention).logits[:, :-1].double()
    mask, log_shares = completion[:, 1:].double(), logits.log_softmax(-1)
    logps = log_shares.gather(2, ids[:, 1:, None])[..., 0] * mask
    tokens = mask.sum(1)
    collision = (2 * log_shares).logsumexp(-1) * mask
    return Padded(
        logps=logps.sum(1).float(),
        tokens=tokens.float(),
        confidence=((logps - collision).sum(1) / tokens).float().detach(),
        mean_logits=((logits.mean(-1) * mask).sum(1) / tokens).float().detach(),
    )


@pytest.fixture(scope="module")
def models(causal: Path) -> tuple[nn.Module, nn.Module]:
    """A policy, and a reference that differs from it."""
    reference = AutoModelForCausalLM.from_pretrained(causal, dtype=torch.float32)
    policy = copy.deepcopy(reference)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    return policy, reference


@pytest.fixture(scope="module")
def dpo_trainer(
    models: tuple[nn.Module, nn.Module], causal: Path, pairs: list[dict[str, Any]], tmp_path_factory: Any
) -> trl.DPOTrainer:
    config = trl.DPOConfig(
        output_dir=str(tmp_path_factory.mktemp("dpo")),
        per_device_train_batch_size=3,
        use_weighting=True,
        report_to=[],
        use_cpu=True,
        bf16=False,
        activation_checkpointing=False,
    )
    return trl.DPOTrainer(
        model=models[0],
        ref_model=models[1],
        args=config,
        train_dataset=datasets.Dataset.from_list(pairs),
        processing_class=AutoTokenizer.from_pretrained(causal),
    )


@pytest.fixture(scope="module")
def rows(dpo_trainer: trl.DPOTrainer) -> Mapping[str, Tensor]:
    """A batch as TRL makes it: three better answers, then three worse ones."""
    return next(iter(dpo_trainer.get_train_dataloader()))


@pytest.fixture
def trainer(dpo_trainer: trl.DPOTrainer) -> Iterator[trl.DPOTrainer]:
    before = dict(vars(dpo_trainer))
    yield dpo_trainer
    vars(dpo_trainer).update(before)
    dpo_trainer._metrics["eval"].clear()


def answers_of(
    models: tuple[nn.Module, nn.Module], rows: Mapping[str, Tensor], *, reference: bool = True
) -> Answers:
    inputs = (rows["input_ids"], rows["attention_mask"], rows["completion_mask"])
    policy = padded(models[0], *inputs)
    with torch.no_grad():
        frozen = padded(models[1], *inputs)
    return Answers(
        logps=policy.logps,
        tokens=policy.tokens,
        reference=frozen.logps if reference else None,
        confidence=policy.confidence,
        mean_logits=policy.mean_logits,
    )


def batch_of(answers: Answers) -> dict[str, Any]:
    count = len(answers.logps) // 2
    better = torch.arange(count)
    return {
        "better": better,
        "worse": better + count,
        "margin": torch.zeros(count),
        "pair_weight": torch.ones(count),
        "num_items": (count, int(answers.tokens[better].sum())),
    }


def number(figure: Tensor) -> float:
    return float(figure[0] / figure[1]) if figure.ndim else float(figure)


def rounding(answers: Answers) -> float:
    """Of a difference of log-probabilities: sums in float32 end in other digits on other processors."""
    return 2 * torch.finfo(torch.float32).eps * float(answers.logps.detach().abs().max())


def assert_same_gradient(mine: Tensor, theirs: Tensor, model: nn.Module) -> None:
    first, second = (
        torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(model.parameters()))])
        for loss in (mine, theirs)
    )
    assert (first - second).norm() < 1e-4 * second.norm()


@pytest.mark.parametrize("name", list(DPO))
def test_dpo_equals_trl(
    name: str, trainer: trl.DPOTrainer, models: tuple[nn.Module, nn.Module], rows: Mapping[str, Tensor]
) -> None:
    options = DPO[name]
    trainer.loss_types = list(options.losses)
    trainer.loss_weights = options.loss_weights or [1.0] * len(options.losses)
    trainer.beta = options.beta
    trainer.label_smoothing = options.label_smoothing or 0.0
    trainer.f_divergence_type = options.f_divergence
    trainer.f_alpha_divergence_coef = 0.5 if options.f_alpha is None else options.f_alpha
    trainer.use_weighting = options.wpo
    trainer.args.discopop_tau = options.discopop_tau or 0.05
    theirs = trainer.compute_loss(trainer.model, dict(rows))
    answers = answers_of(models, rows)
    mine = dpo_loss(answers, batch_of(answers), options)
    assert float(mine.loss.detach().sum()) == pytest.approx(float(theirs.detach()), rel=1e-5)
    assert_same_gradient(mine.loss.sum(), theirs, models[0])
    for figure in (*FIGURES, "rewards/accuracies", "rewards/margins"):
        (expected,) = trainer._metrics["eval"][figure]
        assert number(mine.metrics[figure]) == pytest.approx(expected, rel=1e-4, abs=rounding(answers)), (
            figure
        )


@pytest.fixture(scope="module")
def experimental() -> tuple[type, type]:
    """TRL's trainers for CPO and ORPO, whose import warns that they may move."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from trl.experimental.cpo import CPOTrainer
        from trl.experimental.orpo import ORPOTrainer
    return CPOTrainer, ORPOTrainer


def unbuilt(kind: type, **attributes: Any) -> Any:
    """A trainer with nothing but what its loss reads."""
    made = object.__new__(kind)
    vars(made).update(attributes, accelerator=SimpleNamespace(device=torch.device("cpu")))
    return made


def test_cpo_and_simpo_equal_trl(
    experimental: tuple[type, type], models: tuple[nn.Module, nn.Module], rows: Mapping[str, Tensor]
) -> None:
    answers = answers_of(models, rows, reference=False)
    batch = batch_of(answers)
    mean = answers.logps / answers.tokens
    likelihood = -float(answers.logps[:3].detach().sum() / answers.tokens[:3].sum())
    cases: list[tuple[Any, CpoOptions | SimpoOptions, Tensor]] = [
        (cpo_loss, CpoOptions(beta=0.3, bc_weight=0.7), answers.logps),
        (cpo_loss, CpoOptions(label_smoothing=0.1), answers.logps),
        (cpo_loss, CpoOptions(loss="hinge", bc_weight=0.0), answers.logps),
        (cpo_loss, CpoOptions(loss="ipo"), mean),
        (simpo_loss, SimpoOptions(), mean),
        (simpo_loss, SimpoOptions(gamma=1.2, label_smoothing=0.1, bc_weight=0.5), mean),
    ]
    for loss, options, logps in cases:
        trainer = unbuilt(
            experimental[0],
            alpha=0.0,
            beta=options.beta,
            loss_type=getattr(options, "loss", "simpo"),
            simpo_gamma=getattr(options, "gamma", 0.0),
            label_smoothing=options.label_smoothing or 0.0,
        )
        each, chosen, rejected = trainer.cpo_loss(logps[:3], logps[3:])
        mine = loss(answers, batch, options)
        expected = float(each.detach().mean()) + options.bc_weight * likelihood
        assert float(mine.loss.detach().sum()) == pytest.approx(expected, rel=1e-5)
        assert mine.loss.shape == ((2,) if options.bc_weight else ())
        assert number(mine.metrics["rewards/chosen"]) == pytest.approx(float(chosen.mean()))
        assert number(mine.metrics["rewards/rejected"]) == pytest.approx(float(rejected.mean()))
        assert number(mine.metrics["logps/chosen"]) == pytest.approx(float(logps[:3].detach().mean()))
        assert not any(name.startswith("kl") for name in mine.metrics)
        if options.bc_weight:
            assert number(mine.metrics["nll_loss"]) == pytest.approx(likelihood, rel=1e-5)


def test_orpo_equals_trl(
    experimental: tuple[type, type], models: tuple[nn.Module, nn.Module], rows: Mapping[str, Tensor]
) -> None:
    answers = answers_of(models, rows, reference=False)
    mean = answers.logps / answers.tokens
    gain, chosen, _, ratio, log_odds = unbuilt(experimental[1], beta=0.4).odds_ratio_loss(mean[:3], mean[3:])
    mine = orpo_loss(answers, batch_of(answers), OrpoOptions(beta=0.4))
    assert float(mine.loss.detach()[0]) == pytest.approx(-float(gain.detach().mean()), rel=1e-5)
    likelihood = -float(answers.logps[:3].detach().sum() / answers.tokens[:3].sum())
    assert float(mine.loss.detach()[1]) == pytest.approx(likelihood, rel=1e-5)
    expected = {"rewards/chosen": chosen.mean(), "log_odds_ratio": ratio, "log_odds_chosen": log_odds}
    for name, value in expected.items():
        assert number(mine.metrics[name]) == pytest.approx(float(value.detach()), rel=1e-5), name


@pytest.mark.parametrize("loss", ["kto", "apo_zero_unpaired"])
def test_kto_equals_trl(
    loss: Any,
    models: tuple[nn.Module, nn.Module],
    causal: Path,
    pairs: list[dict[str, Any]],
    tmp_path: Path,
) -> None:
    config = trl.KTOConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=6,
        loss_type=loss,
        beta=0.3,
        desirable_weight=1.5,
        undesirable_weight=0.5,
        report_to=[],
        use_cpu=True,
        bf16=False,
        activation_checkpointing=False,
    )
    judged = [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        for row in pairs
        for side in ("chosen", "rejected")
    ]
    trainer = trl.KTOTrainer(
        model=models[0],
        ref_model=models[1],
        args=config,
        train_dataset=datasets.Dataset.from_list(judged),
        processing_class=AutoTokenizer.from_pretrained(causal),
    )
    rows = next(iter(trainer.get_train_dataloader()))
    theirs = trainer.compute_loss(trainer.model, dict(rows))
    answers, count = answers_of(models, rows), len(judged)
    if loss == "kto":
        others = {name: rows[f"KL_{name}"] for name in ("input_ids", "attention_mask", "completion_mask")}
        answers = joined(answers, answers_of(models, others))
    batch = {
        "scores": torch.cat([torch.as_tensor(rows["label"]).float(), torch.zeros(count)])[
            : len(answers.logps)
        ],
        "unrelated": torch.arange(count, 2 * count) if loss == "kto" else None,
        "pair_weight": torch.ones(count),
        "num_items": count,
    }
    options = KtoOptions(loss=loss, beta=0.3, desirable_weight=1.5, undesirable_weight=0.5)
    mine = kto_loss(answers, batch, options)
    assert float(mine.loss.detach()) == pytest.approx(float(theirs.detach()), rel=1e-5)
    assert_same_gradient(mine.loss, theirs, models[0])
    for figure in (*FIGURES, *(["kl"] if loss == "kto" else [])):
        (expected,) = trainer._metrics["eval"][figure]
        assert number(mine.metrics[figure]) == pytest.approx(expected, rel=1e-4, abs=rounding(answers)), (
            figure
        )


def joined(first: Answers, second: Answers) -> Answers:
    """The answers of both, one after another."""
    parts = {
        field.name: torch.cat([getattr(first, field.name), getattr(second, field.name)])
        for field in fields(Answers)
    }
    return Answers(**parts)
