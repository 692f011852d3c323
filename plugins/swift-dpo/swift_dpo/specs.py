"""What the task types of this package say about themselves."""

from __future__ import annotations

from dataclasses import replace

from swift_core.spec import ExportFormat, Metric, TaskSpec
from swift_dpo.layouts import COLUMNS, KTO_COLUMNS, KTO_GATHER, KTO_LAYOUTS, LAYOUTS

_ANSWERS = (
    Metric(
        name="answer_tokens",
        meaning="Mean length of the model's answers to some prompts",
        group="answers",
        primary=True,
    ),
    Metric(name="answer_complete", meaning="Share of them that end by themselves", group="answers"),
)
_JUDGED = (
    Metric(
        name="win_rate",
        meaning="Share of prompts whose answer the judge prefers to the reference's; ties count half",
        group="judge",
    ),
    Metric(
        name="elo_gain",
        meaning="Elo gained over the reference, in percent of its rating of 1000",
        group="judge",
        primary=True,
    ),
    Metric(name="elo_gain_low", meaning="Lower end of the 95 % interval of elo_gain", group="judge"),
    Metric(name="elo_gain_high", meaning="Upper end of it", group="judge"),
)
_PAIRS = (
    Metric(
        name="rewards/accuracies",
        meaning="Share of pairs whose better answer has the larger reward",
        primary=True,
        group="pairs",
    ),
    Metric(
        name="rewards/margins", meaning="Mean reward of better answers less that of worse ones", group="pairs"
    ),
    Metric(name="loss", meaning="The loss of training", higher_is_better=False, group="pairs"),
    *_ANSWERS,
    *_JUDGED,
)
_SINGLE = (
    Metric(
        name="auc",
        meaning="How often a desirable answer has a larger reward than an undesirable one",
        primary=True,
        group="labels",
    ),
    Metric(name="loss", meaning="The loss of training", higher_is_better=False, group="labels"),
    *_ANSWERS,
    *_JUDGED,
)

DPO = TaskSpec(
    name="dpo",
    summary="Preference pairs against a reference: DPO and its family (IPO, BCO, APO, ...)",
    columns=COLUMNS,
    layouts=LAYOUTS,
    together="prompt",
    options="swift_dpo.options:DpoOptions",
    implementation="swift_dpo.hooks:DPO",
    metrics=_PAIRS,
    step_figures=("rewards/accuracies", "rewards/margins", "kl/chosen", "nll_loss", "violations/chosen"),
    exports=(
        ExportFormat(name="hf", meaning="Folder that transformers and vLLM load"),
        ExportFormat(name="adapter", meaning="The LoRA adapter, for peft"),
    ),
    defaults={"learning_rate": 1e-6, "per_device_train_batch_size": 8},
    lora_defaults={"learning_rate": 1e-5},
)
CPO = replace(
    DPO,
    name="cpo",
    summary="Preference pairs without a reference, with behaviour cloning; constrained by violations",
    options="swift_dpo.options:CpoOptions",
    implementation="swift_dpo.hooks:CPO",
)
SIMPO = replace(
    DPO,
    name="simpo",
    summary="Preference pairs without a reference, by mean log-probability",
    options="swift_dpo.options:SimpoOptions",
    implementation="swift_dpo.hooks:SIMPO",
)
ORPO = replace(
    DPO,
    name="orpo",
    summary="Likelihood of better answers and their odds against worse ones, in one stage",
    options="swift_dpo.options:OrpoOptions",
    implementation="swift_dpo.hooks:ORPO",
)
KTO = replace(
    DPO,
    name="kto",
    summary="Answers that are good or bad by themselves, against a reference",
    columns=KTO_COLUMNS,
    layouts=KTO_LAYOUTS,
    gather=KTO_GATHER,
    options="swift_dpo.options:KtoOptions",
    implementation="swift_dpo.hooks:KTO",
    metrics=_SINGLE,
    step_figures=("rewards/chosen", "rewards/rejected", "kl"),
)
