"""What a row is encoded as, and what goes into a batch."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from swift_core.core_options import CoreOptions
from swift_core.errors import UserError
from swift_core.flat import forward_flat
from swift_core.hookspecs import LeftOut
from swift_dpo.collator import PreferenceCollator, make_collator
from swift_dpo.data_options import DataOptions
from swift_dpo.limits import Limits
from swift_dpo.tokens import Tokens

NOTHING = dict.fromkeys(("tools", "margin", "weight", "violations", "unrelated"))


@pytest.fixture
def make(causal: Path) -> Any:
    """A collator for the small model, with the given attributes."""
    tokens = Tokens(tokenizer=AutoTokenizer.from_pretrained(causal), vocabulary=320)

    def of(max_length: int | None = None, **given: Any) -> PreferenceCollator:
        limits = given.pop("limits", Limits(max_length=max_length))
        return PreferenceCollator(tokens=tokens, limits=limits, **{"kind": "pairs", **given})

    return of


def row(prompt: Any, *answers: Any, scores: Sequence[float] = (1.0, 0.0), **more: Any) -> dict[str, Any]:
    return {**NOTHING, "prompt": prompt, "answers": list(answers), "scores": list(scores), **more}


def said(*texts: str) -> list[dict[str, str]]:
    """Turns, the assistant's first."""
    return [{"role": ("assistant", "user")[n % 2], "content": text} for n, text in enumerate(texts)]


def asked(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


RANKED = row("what is a cat", " a small animal", " rain", " the bank raised rates", scores=[2.0, 0.5, 0.5])
PAIR = row("who won the match", " the red team won two to one", " rain", margin=0.5, weight=2.0)
TURNS = row(asked("how far"), said("very", "really?", "yes"), said("not far"))


def features(collator: PreferenceCollator, *rows: dict[str, Any]) -> list[dict[str, Any]]:
    made = [collator.encode(entry) for entry in rows]
    assert not any(isinstance(entry, LeftOut) for entry in made), made
    return made  # type: ignore[return-value]


def slow_sums(model: Any, encoded: list[dict[str, Any]], ld_alpha: float = 1.0) -> list[float]:
    """Log-probability of each answer: whole texts, one by one, in float64; LD-DPO as TRL has it."""
    sums = []
    for feature in encoded:
        shared = min(sum(row) for row in feature["counted"])
        places = [[sum(row[: n + 1]) for n in range(len(row))] for row in feature["counted"]]
        weights_of = [
            [one * (1.0 if place <= shared else ld_alpha) for one, place in zip(*pair, strict=True)]
            for pair in zip(feature["counted"], places, strict=True)
        ]
        answers = list(zip(feature["answers"], weights_of, strict=True))
        if feature["unrelated"] is not None:
            answers.append((feature["unrelated"], feature["unrelated_counted"]))
        for answer, weights in answers:
            whole = torch.tensor([[*feature["prompt"], *answer]])
            logits = model(input_ids=whole).logits[0].double().log_softmax(-1)
            start = len(feature["prompt"])
            total = 0.0
            for place, weight in enumerate(weights):
                total += weight * float(logits[start + place - 1, whole[0, start + place]])
            sums.append(total)
    return sums


def flat_sums(model: Any, batch: dict[str, Any]) -> Tensor:
    hidden = forward_flat(model.model, batch["flat"])  # [N, D]
    logits = model.lm_head(hidden)[batch["predictors"]].double().log_softmax(-1)  # [T, V]
    picked = logits.gather(1, batch["targets"][:, None])[:, 0] * batch["weights"]
    return torch.zeros(len(batch["tokens"]), dtype=torch.float64).index_add(0, batch["owners"], picked)


@pytest.mark.parametrize("ld_alpha", [None, 0.3, 0.0])
def test_sums_are_those_of_whole_texts(causal: Path, make: Any, ld_alpha: float | None) -> None:
    model = AutoModelForCausalLM.from_pretrained(causal).double().eval()
    collator = make(ld_alpha=ld_alpha, pairs="all" if ld_alpha is None else "best_worst")
    encoded = features(collator, RANKED, PAIR, TURNS)
    with torch.no_grad():
        batch = collator(encoded)
        found = flat_sums(model, batch)
        expected = slow_sums(model, encoded, 1.0 if ld_alpha is None else ld_alpha)
    assert len(found) == (7 if ld_alpha is None else 6)
    # TRL divides by the whole completion, whatever its tokens weigh.
    assert batch["tokens"].tolist() == [sum(row) for feature in encoded for row in feature["counted"]]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-6)


def test_unrelated_answers_follow_the_others_with_the_same_prompt(causal: Path, make: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(causal).double().eval()
    collator = make(kind="answers", with_unrelated=True)
    rows = [
        row("what is", " a cat", scores=[1.0], unrelated=" rain", weight=2.0),
        row(asked("far?"), said("no"), scores=[0.0], unrelated=" a text"),
    ]
    encoded = features(collator, *rows)
    batch = collator(encoded)
    assert batch["unrelated"].tolist() == [2, 3]
    assert batch["scores"].tolist() == [1, 0, 0, 0] and batch["num_items"] == 2
    assert batch["pair_weight"].tolist() == [2, 1] and len(batch["better"]) == len(batch["worse"]) == 0
    with torch.no_grad():
        found = flat_sums(model, batch).tolist()
        first, first_other, second, second_other = slow_sums(model, encoded)
    assert found == pytest.approx([first, second, first_other, second_other], rel=1e-6)
    assert encoded[0]["length"] == sum(len(encoded[0][name]) for name in ("prompt", "unrelated")) + len(
        encoded[0]["answers"][0]
    )


def test_a_batch_says_which_answers_are_compared(make: Any) -> None:
    collator = make()
    batch = collator(features(collator, RANKED, PAIR))
    assert batch["better"].tolist() == [0, 0, 3] and batch["worse"].tolist() == [1, 2, 4]
    assert batch["margin"].tolist() == [0, 0, 0.5] and batch["pair_weight"].tolist() == [1, 1, 2]
    assert batch["scores"].tolist() == [2, 0.5, 0.5, 1, 0]
    assert batch["num_items"] == 3
    assert batch["unrelated"] is None and batch["violations"] is None
    assert batch["complete"].tolist() == [True] * 5
    assert batch["tokens"].tolist() == torch.bincount(batch["owners"]).tolist()
    for name in ("better", "worse", "owners", "targets", "predictors", "keys"):
        assert batch[name].dtype == torch.long
    for name in ("weights", "tokens", "scores", "margin", "pair_weight"):
        assert batch[name].dtype == torch.float32


@pytest.mark.parametrize(
    ("choice", "kept", "pairs"),
    [
        ("all", 4, {(1, 0), (1, 2), (1, 3), (2, 0), (2, 3)}),
        ("best_worst", 2, {(1, 0)}),
        ("neighbours", 3, {(1, 2), (2, 0)}),
    ],
)
def test_only_answers_that_are_compared_are_computed(
    make: Any, choice: str, kept: int, pairs: set[tuple[int, int]]
) -> None:
    scores = [1.0, 3.0, 2.0, 1.0]
    entry = row("q", " a", " b", " c", " d", scores=scores, violations=[0.1, 0.2, 0.3, 0.4])
    collator = make(pairs=choice)
    (feature,) = features(collator, entry)
    assert len(feature["answers"]) == len(feature["keys"]) == kept
    batch = collator([feature])
    by_violation = {round(v, 1): n for n, v in zip(range(4), (0.1, 0.2, 0.3, 0.4), strict=True)}
    place = [by_violation[round(v, 1)] for v in batch["violations"].tolist()]
    found = {
        (place[i], place[j]) for i, j in zip(batch["better"].tolist(), batch["worse"].tolist(), strict=True)
    }
    assert found == pairs


def test_rows_with_one_prompt_share_it(make: Any) -> None:
    collator = make()
    encoded = features(collator, RANKED, row(RANKED["prompt"], " x", " y"), PAIR)
    batch = collator(encoded)
    rows, parents, _ = batch["flat"].rows()
    assert [parent for parent in parents if parent is not None] == [0, 0, 0, 0, 0, 1, 1]
    assert batch["flat"].num_tokens == sum(len(ids) for ids in rows)
    assert len(rows) == 2 + 7


def test_a_mean_of_tokens_counts_those_of_better_answers(make: Any) -> None:
    collator = make(kind="likelihood")
    encoded = features(collator, PAIR, TURNS)
    batch = collator(encoded)
    assert batch["num_items"] == (2, sum(map(sum, (entry["counted"][0] for entry in encoded))))
    assert batch["num_items"][1] == batch["tokens"][[0, 2]].sum()


def test_weights_beyond_the_shared_length(make: Any) -> None:
    for alpha in (0.25, 0.0):
        collator = make(ld_alpha=alpha)
        (feature,) = features(collator, row("q", " a a a a", " b"))
        long, short = map(len, feature["answers"])
        batch = collator([feature])
        assert batch["weights"].tolist() == [1.0] * short + [alpha] * (long - short) + [1.0] * short
        # What weighs nothing is a token of its answer still.
        assert batch["tokens"].tolist() == [long, short]


def test_rows_of_several_pairs_are_refused_where_the_lengths_of_a_pair_count(make: Any) -> None:
    with pytest.raises(
        ValueError, match=r"^answers: ld_alpha expects two answers.*found 3; set pairs to best"
    ):
        make(ld_alpha=0.5).encode(RANKED)
    assert len(features(make(ld_alpha=0.5, pairs="best_worst"), RANKED)[0]["answers"]) == 2
    # An answer that is compared with none does not count.
    (feature,) = features(make(ld_alpha=0.5), row("q", " a", " b", " a", scores=[1.0, 0.0, 0.0]))
    assert len(feature["answers"]) == 2


def test_keys_name_a_sequence_and_its_weights(make: Any) -> None:
    collator = make()
    first, second = features(collator, row("q", " a x x x", " b"), row("q", " c", " b"))
    assert first["keys"][1] == second["keys"][1]
    (other,) = features(collator, row("r", " a x x x", " b"))
    (weighted,) = features(make(ld_alpha=0.5), row("q", " a x x x", " b"))
    assert len({first["keys"][0], first["keys"][1], other["keys"][0], weighted["keys"][0]}) == 4
    assert all(0 <= key < 2**63 for key in first["keys"])
    assert first["keys"] == features(collator, row("q", " a x x x", " b"))[0]["keys"]


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        (row("q", " a", " a"), "identical answers"),
        (row("q", " a", " b", scores=[1.0, 1.0]), "equal scores"),
        (row("q", " a", " a", " b", scores=[1.0, 0.0, 1.0]), None),
    ],
)
def test_rows_that_say_nothing_are_left_out(make: Any, entry: dict[str, Any], why: str | None) -> None:
    made = make().encode(entry)
    assert made == LeftOut(why) if why else made["scores"] == [0.0, 1.0]


def test_an_answer_without_tokens_leaves_its_row_out(make: Any) -> None:
    collator = make()
    collator.tokenizer.eos_token = None
    collator.tokenizer.chat_template = None
    assert collator.encode(row("what is", " a", "")) == LeftOut("nothing to score")


LONG = row(asked("what is a cat and how far is the moon"), said("a small animal that runs"), said("rain"))


def lengths(collator: PreferenceCollator) -> tuple[int, int, int]:
    (feature,) = features(collator, LONG)
    return len(feature["prompt"]), *map(len, feature["answers"])  # type: ignore[return-value]


def test_what_is_too_long_is_refused_by_default_or_left_out(make: Any) -> None:
    prompt, first, second = lengths(make())
    whole = prompt + max(first, second)
    assert features(make(max_length=whole), LONG)[0]["truncated"] == 0
    with pytest.raises(
        ValueError, match=f"prompt: {prompt} tokens and an answer of {first} are more than max_"
    ):
        make(max_length=whole - 1).encode(LONG)
    drops = Limits(max_length=whole - 1, overlong="drop")
    assert make(limits=drops).encode(LONG) == LeftOut("too long")


def test_prompts_are_cut_on_the_left_behind_what_the_template_opens_with(make: Any) -> None:
    prompt, first, _ = lengths(make())
    limits = Limits(max_length=prompt + first - 6, overlong="truncate_prompt")
    collator = make(limits=limits)
    (feature,) = features(collator, LONG)
    (whole,) = features(make(), LONG)
    assert len(feature["prompt"]) == prompt - 6 and feature["truncated"] == 1
    text = collator.tokenizer.decode(feature["prompt"])
    assert text.startswith("<|im_start|>user\n") and text.endswith("<|im_end|>\n<|im_start|>assistant\n")
    opening = len(collator.tokens.opening(LONG["prompt"]))
    assert feature["prompt"] == whole["prompt"][:opening] + whole["prompt"][opening + 6 :]
    assert feature["answers"] == whole["answers"] and feature["keys"] != whole["keys"]
    with pytest.raises(ValueError, match="prompt: max_length leaves 5 tokens for the prompt"):
        make(limits=Limits(max_length=first + 5, overlong="truncate_prompt")).encode(LONG)


def test_a_limit_for_prompts_cuts_prompts_only(make: Any) -> None:
    prompt, first, second = lengths(make())
    limits = Limits(max_length=None, max_prompt_length=prompt - 3)
    assert lengths(make(limits=limits)) == (prompt - 3, first, second)


@pytest.mark.parametrize("overlong", ["error", "drop", "truncate_prompt", "truncate_answer"])
def test_a_prompt_of_which_only_the_opening_would_be_left_is_dropped_where_that_is_asked(
    make: Any, overlong: Any
) -> None:
    limits = Limits(max_length=None, max_prompt_length=3, overlong=overlong)
    collator = make(limits=limits)
    if overlong == "drop":
        assert collator.encode(LONG) == LeftOut("too long")
    else:
        with pytest.raises(ValueError, match=r"; raise max_prompt_length, or set overlong to drop$"):
            collator.encode(LONG)
    # A prompt of an evaluation is not left out.
    with pytest.raises(ValueError, match=r"; raise max_prompt_length$"):
        limits.fit_prompt([0] * 9, lambda: 3, answer=1)


def test_answers_are_cut_on_the_right_and_then_have_no_end(make: Any) -> None:
    prompt, first, second = lengths(make())
    assert second < first
    limits = Limits(max_length=prompt + first - 2, overlong="truncate_answer")
    (feature,) = features(make(limits=limits), LONG)
    assert [len(answer) for answer in feature["answers"]] == [first - 2, second]
    assert feature["complete"] == [False, True] and feature["truncated"] == 1
    assert len(feature["counted"][0]) == first - 2
    with pytest.raises(ValueError, match="leave no room for an answer"):
        make(limits=Limits(max_length=prompt, overlong="truncate_answer")).encode(LONG)
    alike = row("q", " a b", " a c")
    (whole,) = features(make(), alike)
    room = Limits(max_length=len(whole["prompt"]) + 1, overlong="truncate_answer")
    assert make(limits=room).encode(alike) == LeftOut("identical answers")


def test_an_unrelated_answer_is_cut_where_it_is_too_long(make: Any) -> None:
    plain = make(kind="answers")
    (alone,) = features(plain, row("q", " a", scores=[1.0]))
    limits = Limits(max_length=alone["length"])
    collator = make(kind="answers", with_unrelated=True, limits=limits)
    entry = row("q", " a", scores=[1.0], unrelated=" a very long text")
    (feature,) = features(collator, entry)
    assert len(feature["unrelated"]) == len(alone["answers"][0]) and feature["truncated"] == 0


def test_a_collator_goes_to_workers_and_keeps_its_tokenizer(make: Any, tmp_path: Path) -> None:
    collator = make()
    copy = pickle.loads(pickle.dumps(collator))
    assert copy.encode(PAIR) == collator.encode(PAIR)
    collator.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == collator.tokenizer.chat_template


class Options:
    """As much of a run's options as a collator reads, with the core's own and those of the data."""

    def __init__(self, model: Path, *, max_length: int | None = None, **task: Any) -> None:
        self.core = CoreOptions(model_name_or_path=str(model), max_length=max_length)
        self.task = DataOptions(**task)


def test_options_reach_the_collator(causal: Path, tmp_path: Path) -> None:
    template = tmp_path / "template.jinja"
    template.write_text("{{ messages[0]['content'] }}")
    options = Options(
        causal,
        overlong="drop",
        max_prompt_length=9,
        pairs="neighbours",
        max_bad_rows=0.5,
        chat_template=str(template),
    )
    made = make_collator(options, kind="likelihood", ld_alpha=0.5)  # type: ignore[arg-type]
    assert made.limits == Limits(max_length=256, max_prompt_length=9, overlong="drop")
    assert (made.kind, made.pairs, made.ld_alpha, made.max_bad_rows) == ("likelihood", "neighbours", 0.5, 0.5)
    assert made.tokens.vocabulary == 320
    assert made.tokenizer.chat_template == "{{ messages[0]['content'] }}"


def test_options_that_cannot_be_used_are_told(causal: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="max_length: the model takes at most 256 tokens, found 300"):
        make_collator(Options(causal, max_length=300), kind="pairs")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="chat_template: expected a file with a chat template"):
        make_collator(Options(causal, chat_template=str(tmp_path / "none")), kind="pairs")  # type: ignore[arg-type]
