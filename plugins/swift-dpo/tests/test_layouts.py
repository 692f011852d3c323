"""The forms of preferences that people have, read as every run reads them."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from swift_core.data.dataset import TaskData, load_data
from swift_core.errors import UserError
from swift_core.spec import TaskSpec
from swift_dpo.layouts import COLUMNS, KTO_COLUMNS, KTO_GATHER, KTO_LAYOUTS, LAYOUTS

DPO = TaskSpec(name="dpo", summary="Pairs.", implementation="swift_dpo.dpo", columns=COLUMNS, layouts=LAYOUTS)
KTO = TaskSpec(
    name="kto",
    summary="Answers.",
    implementation="swift_dpo.kto",
    columns=KTO_COLUMNS,
    layouts=KTO_LAYOUTS,
    gather=KTO_GATHER,
)


def load(*rows: dict[str, Any], spec: TaskSpec = DPO, columns: dict[str, str] | None = None) -> TaskData:
    return load_data(list(rows), name="train", spec=spec, columns=columns or {}, split="train", config=None)


def filled(data: TaskData) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if value is not None} for row in data.records]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def bot(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


SYSTEM = {"role": "system", "content": "s"}
TEXTS = {"prompt": "p", "answers": ["c", "r"], "scores": [1.0, 0.0]}
CHAT = {"prompt": [user("p")], "answers": [[bot("c")], [bot("r")]], "scores": [1.0, 0.0]}
LONGER = {**CHAT, "prompt": [user("a"), bot("b"), user("p")]}


def human(text: str) -> dict[str, str]:
    return {"from": "human", "value": text}


def gpt(text: str) -> dict[str, str]:
    return {"from": "gpt", "value": text}


@pytest.mark.parametrize(
    ("row", "layout", "expected"),
    [
        ({"prompt": "p", "chosen": "c", "rejected": "r"}, None, TEXTS),
        ({"prompt": [user("p")], "chosen": [bot("c")], "rejected": [bot("r")]}, None, CHAT),
        ({"prompt": [user("p")], "chosen": "c", "rejected": "r"}, None, CHAT),
        ({"prompt": "p", "chosen": [user("p"), bot("c")], "rejected": [user("p"), bot("r")]}, None, CHAT),
        (
            {"prompt": "p", **{n: [SYSTEM, user("p"), bot(n[0])] for n in ("chosen", "rejected")}},
            None,
            {**CHAT, "prompt": [SYSTEM, user("p")]},
        ),
        (
            {"prompt": [user("p")], "chosen": [user("p"), bot("c")], "rejected": [user("p"), bot("r")]},
            None,
            CHAT,
        ),
        ({"prompt": "p", "chosen": bot("c"), "rejected": bot("r")}, None, CHAT),
        (
            {"prompt": "p", "chosen": "c", "rejected": "r", "system": "s"},
            None,
            {**CHAT, "prompt": [SYSTEM, user("p")]},
        ),
        (
            {
                "prompt": "p",
                "chosen": "c",
                "rejected": "r",
                "margin": 2,
                "weight": 0.5,
                "violations": [0, 1],
            },
            None,
            {**TEXTS, "margin": 2.0, "weight": 0.5, "violations": [0.0, 1.0]},
        ),
        (
            {"prompt": [user("p")], "chosen": "c", "rejected": "r", "tools": '[{"type": "function"}]'},
            None,
            {**CHAT, "tools": [{"type": "function"}]},
        ),
        ({"prompt": "p", "chosen": "c", "rejected": "r", "tools": []}, None, TEXTS),
        ({"prompt": "p", "chosen": "c", "rejected": "r", "tools": ""}, None, TEXTS),
        (
            {"prompt": "p", "answers": ["a", "b", "c"], "scores": [3, 1, 2.5]},
            "ranked answers",
            {"prompt": "p", "answers": ["a", "b", "c"], "scores": [3.0, 1.0, 2.5]},
        ),
        (
            {"prompt": "p", "responses": ["a", "b", "c"], "ranks": [2, 1, 3]},
            "ranked responses",
            {"prompt": "p", "answers": ["a", "b", "c"], "scores": [-2.0, -1.0, -3.0]},
        ),
        (
            {
                "conversations": [human("a"), gpt("b"), human("p")],
                "chosen": gpt("c"),
                "rejected": gpt("r"),
            },
            "LLaMA-Factory, sharegpt",
            LONGER,
        ),
        (
            {"conversations": [human("p")], "chosen": gpt("c"), "rejected": gpt("r"), "system": "s"},
            "LLaMA-Factory, sharegpt",
            {**CHAT, "prompt": [SYSTEM, user("p")]},
        ),
        ({"instruction": "p", "input": "", "chosen": "c", "rejected": "r"}, "LLaMA-Factory, alpaca", CHAT),
        (
            {
                "instruction": "do",
                "input": "it",
                "chosen": "c",
                "rejected": "r",
                "history": [["a", "b"]],
            },
            "LLaMA-Factory, alpaca",
            {**CHAT, "prompt": [user("a"), bot("b"), user("do\nit")]},
        ),
        (
            {"instruction": "p", "output": ["c", "r"]},
            "LLaMA-Factory, alpaca of earlier versions",
            CHAT,
        ),
        (
            {"messages": [user("a"), bot("b"), user("p"), bot("c")], "rejected_response": "r"},
            "ms-swift",
            LONGER,
        ),
        (
            {"messages": [user("p"), bot("c")], "rejected_response": ["r", "q"]},
            "ms-swift",
            {"prompt": [user("p")], "answers": [[bot(x)] for x in "crq"], "scores": [1.0, 0.0, 0.0]},
        ),
        (
            {"messages": [user("p"), bot("c")], "rejected_messages": [user("p"), bot("r")]},
            "ms-swift, rejected messages",
            CHAT,
        ),
        (
            {"messages": [user("p"), bot("c")], "rejected_messages": [bot("r")]},
            "ms-swift, rejected messages",
            CHAT,
        ),
        (
            {"chosen": [user("p"), bot("c")], "rejected": [user("p"), bot("r")]},
            "whole conversations (TRL, HH)",
            CHAT,
        ),
        (
            {
                "chosen": "\n\nHuman: a\n\nAssistant: b\n\nHuman: p\n\nAssistant: c",
                "rejected": "\n\nHuman: a\n\nAssistant: b\n\nHuman: p\n\nAssistant: r",
            },
            "whole conversations (TRL, HH)",
            LONGER,
        ),
        (
            {"chosen": "The sky is blue.", "rejected": "The sky is green."},
            "whole conversations (TRL, HH)",
            {"prompt": "The sky is", "answers": [" blue.", " green."], "scores": [1.0, 0.0]},
        ),
    ],
)
def test_what_people_have_becomes_a_prompt_with_answers(
    row: dict[str, Any], layout: str | None, expected: dict[str, Any]
) -> None:
    data = load(row)
    assert filled(data) == [expected]
    assert data.sources[0].layout == layout


def test_conversations_part_at_a_turn_of_the_assistant() -> None:
    chosen = [user("p"), bot("a"), user("more"), bot("c")]
    rejected = [user("p"), bot("a"), user("what?"), bot("r")]
    (row,) = filled(load({"chosen": chosen, "rejected": rejected}))
    assert row["prompt"] == [user("p")]
    assert row["answers"] == [chosen[1:], rejected[1:]]


def test_turns_of_the_assistant_that_are_alike_belong_to_the_prompt() -> None:
    chosen = [user("p"), bot("a"), user("more"), bot("c")]
    (row,) = filled(load({"chosen": chosen, "rejected": [*chosen[:3], bot("r")]}))
    assert row["prompt"] == chosen[:3]
    (same,) = filled(load({"chosen": chosen, "rejected": chosen}))
    assert same["prompt"] == chosen[:3] and same["answers"] == [[bot("c")], [bot("c")]]


def test_keys_of_a_message_that_a_template_may_want_stay() -> None:
    called = {"role": "assistant", "content": None, "tool_calls": [{"type": "function"}]}
    result = {"role": "tool", "content": "7", "name": "f"}
    row = {"prompt": [user("p")], "chosen": [called, result, bot("c")], "rejected": [bot("r")]}
    assert filled(load(row))[0]["answers"][0] == [called, result, bot("c")]


def test_content_in_parts_is_joined() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    row = {"prompt": [{"role": "user", "content": parts}], "chosen": "c", "rejected": "r"}
    assert filled(load(row))[0]["prompt"] == [user("ab")]


PAIR = {"prompt": "p", "chosen": "c", "rejected": "r"}


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({**PAIR, "prompt": ""}, "prompt: expected a text or messages, found an empty string"),
        ({**PAIR, "prompt": 5}, "prompt: expected messages with role and content, found a number (5)"),
        ({**PAIR, "chosen": []}, "chosen: expected an answer, found a list ([])"),
        ({**PAIR, "rejected": [{"content": "x"}]}, "rejected: expected a role in each message"),
        ({**PAIR, "rejected": [user("x")]}, "rejected: expected an answer to begin with a message of the"),
        (
            {**PAIR, "chosen": [bot("c"), user("x")]},
            "chosen: expected an answer to end with a message of the",
        ),
        (
            {**PAIR, "chosen": [{"role": "assistant", "content": [{"type": "image"}]}]},
            "chosen: expected content of texts only",
        ),
        ({**PAIR, "violations": [1]}, "violations: expected one for each of 2 answers, found 1"),
        ({**PAIR, "weight": -1}, "weight: expected 0 or more, found -1"),
        ({**PAIR, "tools": "{"}, "tools: expected JSON"),
        ({**PAIR, "prompt": [SYSTEM, user("p")], "system": "t"}, "system: expected no system message"),
        ({"prompt": "p", "answers": ["a"], "scores": [1]}, "answers: expected a list of two answers or more"),
        ({"prompt": "p", "answers": ["a", "b"], "scores": [1]}, "scores: expected one for each of 2 answers"),
        (
            {"prompt": "p", "answers": ["a", "b"]},
            "scores: expected either scores (larger is better) or ranks",
        ),
        (
            {"prompt": "p", "answers": ["a", "b"], "scores": [1, 2], "ranks": [1, 2]},
            "scores: expected either scores (larger is better) or ranks",
        ),
        ({"prompt": "p", "answers": ["a", 3], "scores": [1, 2]}, "answers: item 2: expected messages"),
        ({"instruction": "p", "output": ["c"]}, "output: expected the better and the worse answer, found 1"),
        (
            {"instruction": "p", "chosen": "x", "rejected": "x", "history": ["a"]},
            "history: expected",
        ),
        (
            {"chosen": "abc", "rejected": "xyz"},
            "chosen: expected a column prompt, or chosen and rejected that",
        ),
        (
            {"chosen": [user("p"), bot("c")], "rejected": [user("q"), bot("r")]},
            "chosen: expected two conversations that begin with the same messages",
        ),
    ],
)
def test_a_row_that_breaks_a_rule_is_told_by_its_column(row: dict[str, Any], fault: str) -> None:
    with pytest.raises(UserError) as caught:
        load(row)
    assert str(caught.value).startswith(f"row 1 of train_dataset: {fault}")


def test_rows_of_no_layout_name_all_of_them() -> None:
    with pytest.raises(UserError) as caught:
        load({"question": "p", "chosen_text": "c"})
    assert "no row has the column 'prompt'" in str(caught.value)
    assert "ms-swift (messages, rejected_response)" in str(caught.value)


def test_columns_of_other_names_are_mapped() -> None:
    row = {"question": "p", "good": "c", "bad": "r"}
    data = load(row, columns={"prompt": "question", "chosen": "good", "rejected": "bad"})
    assert filled(data) == [TEXTS]


OTHER = {"prompt": "q", "completion": "d", "label": False}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "p", "completion": "c", "label": True}, ("p", ["c"], [1.0])),
        ({"prompt": "p", "completion": [bot("c")], "label": False}, ([user("p")], [[bot("c")]], [0.0])),
        (
            {"conversations": [human("p"), gpt("c")], "kto_tag": True},
            ([user("p")], [[bot("c")]], [1.0]),
        ),
        ({"instruction": "p", "output": "c", "kto_tag": False}, ([user("p")], [[bot("c")]], [0.0])),
        ({"messages": [user("p"), bot("c")], "label": True}, ([user("p")], [[bot("c")]], [1.0])),
    ],
)
def test_answers_by_themselves(row: dict[str, Any], expected: tuple[Any, ...]) -> None:
    first = load_data([row], name="train", spec=_ungathered(), columns={}, split="train", config=None)
    assert [first.records[0][name] for name in ("prompt", "answers", "scores")] == list(expected)


def _ungathered() -> TaskSpec:
    return TaskSpec(
        name="kto", summary="Answers.", implementation="x", columns=KTO_COLUMNS, layouts=KTO_LAYOUTS
    )


def test_the_forms_are_known_without_torch() -> None:
    code = (
        "import sys, swift_dpo.layouts, swift_dpo.conversions, swift_dpo.data_options, swift_dpo.gathering;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
