"""What options name is looked for before a run begins, and told under the name of its option."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from swift_core import SwiftTrainer, TrainingArguments
from swift_core.errors import UserError
from swift_core.preparation import prepare_task

Make = Callable[..., TrainingArguments]
Rows = list[dict[str, Any]]


def faults(args: TrainingArguments, rows: Rows, evaluation: Rows | None = None) -> tuple[str, ...]:
    with pytest.raises(UserError) as caught:
        prepare_task(args, rows, evaluation)
    return caught.value.faults


def test_all_that_is_not_there_is_told_at_once(
    causal: Path, pairs: Rows, make_args: Make, tmp_path: Path
) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"question": "who"}\n', encoding="utf-8")
    args = make_args(
        causal,
        eval_samples=2,
        reference=str(tmp_path / "nowhere"),
        judge=f"{tmp_path}/none.py:score",
        eval_prompts=str(tmp_path / "prompts.jsonl"),
    )
    reference, judge, prompts = faults(args, pairs, pairs)
    assert reference.startswith("reference: there is no folder")
    assert judge.startswith("judge: there is no file")
    assert "prompts.jsonl:1: prompt: expected a text" in prompts


def test_prompts_that_the_model_can_not_be_asked_are_told_before_the_first_step(
    causal: Path, pairs: Rows, make_args: Make, tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    rows: Rows = [{"prompt": "who won " * 300}, {"prompt": [{"role": "user", "content": "who won"}]}]
    prompts.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    plain = shutil.copytree(causal, tmp_path / "plain")
    (plain / "chat_template.jinja").unlink()
    asks = {"eval_samples": 2, "eval_prompts": str(prompts)}
    long, chat = faults(make_args(plain, **asks), pairs, pairs)
    assert "tokens, and the model reads at most 256 with the answer" in long
    assert "expected a text, because the tokenizer has no chat template" in chat
    prepare_task(make_args(causal, **asks, overlong="truncate_prompt"), pairs, pairs)


@pytest.mark.parametrize("options", [{"judge": "json:dumps"}, {"eval_prompts": "p.jsonl"}])
def test_what_evaluations_use_needs_evaluation_data(
    causal: Path, pairs: Rows, make_args: Make, options: dict[str, Any]
) -> None:
    (fault,) = faults(make_args(causal, **options), pairs)
    assert fault.startswith(f"{next(iter(options))}: is used at evaluations, and there is no evaluation data")


def test_options_of_a_judge_are_refused_without_one_whether_or_not_there_is_evaluation_data(
    causal: Path, pairs: Rows, make_args: Make
) -> None:
    args = make_args(causal, judge_model="j", judge_timeout_seconds=5)
    for evaluation in (None, pairs):
        assert [fault.split(" with")[0] for fault in faults(args, pairs, evaluation)] == [
            "judge_model: has no effect",
            "judge_timeout_seconds: has no effect",
        ]


def test_a_judge_and_prompts_are_refused_where_nothing_is_asked(
    causal: Path, pairs: Rows, make_args: Make
) -> None:
    judge = f"{Path(__file__).parent}/toy_judge.py:length"
    args = make_args(causal, eval_samples=0, judge=judge, eval_prompts="p.jsonl")
    assert [fault.split(", which")[0] for fault in faults(args, pairs, pairs)] == [
        "judge: has no effect with eval_samples 0",
        "eval_prompts: has no effect with eval_samples 0",
    ]


def test_a_reward_model_is_looked_for_under_the_name_judge(
    causal: Path, pairs: Rows, make_args: Make, tmp_path: Path
) -> None:
    (fault,) = faults(make_args(causal, judge=f"{tmp_path}/none", eval_samples=2), pairs, pairs)
    assert fault.startswith("judge: there is no folder")


def test_a_reference_with_other_token_ids_is_refused(
    causal: Path, pairs: Rows, make_args: Make, tmp_path: Path
) -> None:
    other = shutil.copytree(causal, tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    (fault,) = faults(make_args(causal, reference=str(other)), pairs)
    assert "has another tokenizer than the model" in fault


def test_a_reference_that_knows_fewer_token_ids_is_refused(
    causal: Path, pairs: Rows, make_args: Make, tmp_path: Path
) -> None:
    alone = tmp_path / "alone"  # without a tokenizer
    alone.mkdir()
    config = json.loads((causal / "config.json").read_text(encoding="utf-8"))
    (alone / "config.json").write_text(json.dumps({**config, "vocab_size": 319}), encoding="utf-8")
    (fault,) = faults(make_args(causal, reference=str(alone)), pairs)
    assert f"{alone} knows 319 token ids, and the model's tokenizer has ids up to 319" in fault


def test_nothing_is_looked_for_where_nothing_is_trained(
    causal: Path, pairs: Rows, make_args: Make, tmp_path: Path
) -> None:
    prepare_task(make_args(causal, reference=str(tmp_path / "gone")), pairs, check=False)


def test_a_constraint_that_fails_is_told_by_row(
    causal: Path, pairs: Rows, make_args: Make, tmp_path: Path
) -> None:
    (tmp_path / "rule.py").write_text("def score(prompt, answer):\n    return {}[prompt]\n", encoding="utf-8")
    args = make_args(causal, "cpo", constraint_weight=1, violation_function=f"{tmp_path}/rule.py:score")
    found = faults(args, pairs)
    assert len(found) == len(pairs)
    assert (
        found[0].startswith("row 1 of train_dataset: violation_function: ")
        and "failed (KeyError:" in found[0]
    )


def test_a_prompt_alone_is_enough_for_a_loss_that_compares_with_no_other(
    causal: Path, make_args: Make
) -> None:
    rows = [{"prompt": "who", "completion": f" {n}", "label": n % 2 == 0} for n in range(4)]
    (fault,) = faults(make_args(causal, "kto"), rows)
    assert "found one prompt in all" in fault and "apo_zero_unpaired" in fault
    (fault,) = faults(make_args(causal, "kto"), [*rows, {**rows[0], "prompt": "what"}], rows)
    assert fault.startswith("prompt: expected eval rows with two different prompts")
    trainer = SwiftTrainer(make_args(causal, "kto", loss="apo_zero_unpaired"), train_dataset=rows)
    trainer.train()
    assert trainer.state.global_step == 2


def test_the_console_shows_what_a_person_watches_and_the_logs_keep_all(
    causal: Path, pairs: Rows, make_args: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = SwiftTrainer(make_args(causal), train_dataset=pairs)
    trainer.train()
    (line, _) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    shown = [part.rsplit(" ", 1)[0] for part in line.split("  ")[1:]]
    assert shown == [
        "loss",
        "grad norm",
        "lr",
        "rewards/accuracies",
        "rewards/margins",
        "kl/chosen",
        "useful tokens/s",
        "ETA",
    ]
    assert trainer.state.log_history[0].keys() >= {"logps/rejected", "kl_token/chosen", "logits/chosen"}
