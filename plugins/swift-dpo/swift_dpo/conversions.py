"""What turns a checked row of each layout into the tasks' own: a prompt, its answers and their scores.

Imports no torch. Every function raises a ValueError that starts with the name of the column.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from swift_core.data.values import described
from swift_dpo.messages import Message, as_messages, check_answer, is_messages, is_transcript, of_transcript

Row = Mapping[str, Any]


def from_pair(row: Row) -> dict[str, Any]:
    """Rows with ``prompt``, ``chosen`` and ``rejected``; the answers may repeat a prompt of messages.

    Where the prompt is a text and the answers are conversations from their beginning on, these have it.
    """
    prompt, answers = _json(row, "prompt"), _pair(row)
    if not is_messages(prompt) and all(map(_begins_conversation, answers)):
        return from_whole(row)
    return _made(row, prompt, answers, ("chosen", "rejected"), (1.0, 0.0))


def _begins_conversation(answer: Any) -> bool:
    first = answer[0] if isinstance(answer, list) and answer else None
    return isinstance(first, Mapping) and first.get("role", first.get("from")) in ("system", "user", "human")


def from_ranked(row: Row) -> dict[str, Any]:
    """Rows with two or more answers, and scores or ranks."""
    column = "responses" if "responses" in row else "answers"
    answers, scores, ranks = _json(row, column), row.get("scores"), row.get("ranks")
    if not isinstance(answers, list) or len(answers) < 2:
        raise ValueError(f"{column}: expected a list of two answers or more, found {described(answers)}")
    if (scores is None) == (ranks is None):
        raise ValueError(
            "scores: expected either scores (larger is better) or ranks (1 is the best) for the answers, "
            f"found {'neither' if scores is None else 'both'}"
        )
    grades = scores if scores is not None else [-rank for rank in ranks or ()]
    if len(grades) != len(answers):
        name = "scores" if scores is not None else "ranks"
        raise ValueError(f"{name}: expected one for each of {len(answers)} answers, found {len(grades)}")
    names = [f"{column}: item {number}" for number in range(1, len(answers) + 1)]
    return _made(row, _json(row, "prompt"), answers, names, grades)


def from_whole(row: Row) -> dict[str, Any]:
    """Rows with ``chosen`` and ``rejected`` only, which begin with the prompt: messages or texts.

    Texts in the form of Anthropic's HH data are conversations. The prompt of messages ends before the last
    turn of the assistant at which both are still alike; that of other texts where they begin to differ, but
    for a space, as TRL has it.
    """
    chosen, rejected = _pair(row)
    if not is_messages(chosen) and not is_messages(rejected):
        if not (is_transcript(chosen) and is_transcript(rejected)):
            return _from_whole_texts(row, chosen, rejected)
        chosen, rejected = of_transcript(chosen), of_transcript(rejected)
    first, second = as_messages(chosen, "chosen"), as_messages(rejected, "rejected")
    size = _shared(first, second)
    return _made(row, first[:size], [first[size:], second[size:]], ("chosen", "rejected"), (1.0, 0.0))


def _from_whole_texts(row: Row, chosen: str, rejected: str) -> dict[str, Any]:
    shortest = min(len(chosen), len(rejected))
    size = next((n for n in range(shortest) if chosen[n] != rejected[n]), shortest)
    if size and chosen[size - 1] == " ":
        size -= 1
    if not size:
        raise ValueError(
            "chosen: expected a column prompt, or chosen and rejected that begin with the same prompt, found "
            f"{described(chosen)} and {described(rejected)}"
        )
    return _made(row, chosen[:size], [chosen[size:], rejected[size:]], ("chosen", "rejected"), (1.0, 0.0))


def from_conversations(row: Row) -> dict[str, Any]:
    """Rows of LLaMA-Factory's sharegpt form."""
    prompt = as_messages(_json(row, "conversations"), "conversations")
    return _made(row, prompt, _pair(row), ("chosen", "rejected"), (1.0, 0.0))


def from_instruction(row: Row) -> dict[str, Any]:
    """Rows of LLaMA-Factory's alpaca form."""
    return _made(row, _asked(row), _pair(row), ("chosen", "rejected"), (1.0, 0.0))


def from_outputs(row: Row) -> dict[str, Any]:
    """Rows of LLaMA-Factory's alpaca form as it was: two answers in ``output``, the better one first."""
    if len(row["output"]) != 2:
        raise ValueError(f"output: expected the better and the worse answer, found {len(row['output'])}")
    return _made(row, _asked(row), row["output"], ("output", "output"), (1.0, 0.0))


def from_messages(row: Row) -> dict[str, Any]:
    """Rows of ms-swift: the better answer ends ``messages``, the worse one has a column of its own."""
    messages = as_messages(_json(row, "messages"), "messages")
    if "rejected_messages" not in row:
        answers: list[Any] = [messages[-1:], *row["rejected_response"]]
        names = ["messages", *["rejected_response"] * len(row["rejected_response"])]
        return _made(row, messages[:-1], answers, names, [1.0, *[0.0] * (len(answers) - 1)])
    rejected = as_messages(_json(row, "rejected_messages"), "rejected_messages")
    names = ["messages", "rejected_messages"]
    if rejected[0]["role"] == "assistant" != messages[0]["role"]:
        return _made(row, messages[:-1], [messages[-1:], rejected], names, (1.0, 0.0))
    size = _shared(messages, rejected, names[0])
    return _made(row, messages[:size], [messages[size:], rejected[size:]], names, (1.0, 0.0))


def from_completion(row: Row) -> dict[str, Any]:
    """Rows of TRL with one answer and whether it is a good one."""
    answer = _json(row, "completion")
    return _made(row, _json(row, "prompt"), [answer], ["completion"], [float(row["label"])])


def from_tagged_conversation(row: Row) -> dict[str, Any]:
    """Rows of LLaMA-Factory's sharegpt form whose last message is good or bad."""
    messages = as_messages(_json(row, "conversations"), "conversations")
    return _made(row, messages[:-1], [messages[-1:]], ["conversations"], [float(row["kto_tag"])])


def from_tagged_output(row: Row) -> dict[str, Any]:
    """Rows of LLaMA-Factory's alpaca form whose output is good or bad."""
    return _made(row, _asked(row), [row["output"]], ["output"], [float(row["kto_tag"])])


def from_labelled_messages(row: Row) -> dict[str, Any]:
    """Rows of ms-swift whose last message is good or bad."""
    messages = as_messages(_json(row, "messages"), "messages")
    return _made(row, messages[:-1], [messages[-1:]], ["messages"], [float(row["label"])])


def _made(
    row: Row, prompt: Any, answers: Sequence[Any], names: Sequence[str], scores: Sequence[float]
) -> dict[str, Any]:
    """The task's row; ``names`` are what the data calls the answers."""
    for name, answer in zip(names, answers, strict=True):
        if answer is None or answer == []:
            raise ValueError(f"{name}: expected an answer, found {described(answer)}")
    tools = _tools(row)
    made_prompt, made = _dialogue(row, prompt, answers, names, chat=tools is not None)
    _check_numbers(row, len(answers))
    return {
        # Columns of type any are stored as JSON.
        "prompt": json.dumps(made_prompt),
        "answers": json.dumps(made),
        "scores": list(scores),
        "margin": row.get("margin"),
        "weight": row.get("weight"),
        "violations": row.get("violations"),
        "tools": tools,
    }


def _dialogue(
    row: Row, prompt: Any, answers: Sequence[Any], names: Sequence[str], *, chat: bool
) -> tuple[str | list[Message], list[Any]]:
    """Prompt and answers, all of them texts or, of a ``chat`` in any case, all of them messages."""
    system = row.get("system") or None
    if not any(map(is_messages, (prompt, *answers))) and system is None and not chat:
        if not prompt:
            raise ValueError("prompt: expected a text or messages, found an empty string")
        return prompt, list(answers)
    messages = as_messages(prompt if is_messages(prompt) else _said("user", prompt), "prompt")
    if system is not None:
        if messages and messages[0]["role"] == "system":
            raise ValueError("system: expected no system message in the prompt beside it, found one")
        messages = [{"role": "system", "content": system}, *messages]
    made = []
    for name, answer in zip(names, answers, strict=True):
        turns = as_messages(answer if is_messages(answer) else _said("assistant", answer), name)
        # Many data sets repeat the prompt before each answer.
        for before in (messages, messages[1:] if messages[0]["role"] == "system" else None):
            if before and turns[: len(before)] == before and len(turns) > len(before):
                turns = turns[len(before) :]
        check_answer(turns, name)
        made.append(turns)
    return messages, made


def _said(role: str, text: str) -> list[Message]:
    return [{"role": role, "content": text}]


def _check_numbers(row: Row, answers: int) -> None:
    violations, weight = row.get("violations"), row.get("weight")
    if violations is not None and len(violations) != answers:
        raise ValueError(f"violations: expected one for each of {answers} answers, found {len(violations)}")
    if weight is not None and weight < 0:
        raise ValueError(f"weight: expected 0 or more, found {weight:g}")


def tools_of(value: Any) -> list[Any] | None:
    """The functions that a row's ``tools`` tells of: a list, or as TRL stores it a text of JSON.

    Raises:
        ValueError: it is something else.
    """
    tools = value
    if isinstance(value, str) and value:
        try:
            tools = json.loads(value)
        except ValueError:
            raise ValueError(f"tools: expected JSON, found {described(value)}") from None
    if tools and not isinstance(tools, list):
        raise ValueError(f"tools: expected a list of functions, found {described(tools)}")
    return tools or None


def _tools(row: Row) -> str | None:
    tools = tools_of(_json(row, "tools")) if row.get("tools") is not None else None
    return None if tools is None else json.dumps(tools)


def _json(row: Row, column: str) -> Any:
    return json.loads(row[column])


def _pair(row: Row) -> list[Any]:
    return [_json(row, "chosen"), _json(row, "rejected")]


def _asked(row: Row) -> list[Message]:
    """The messages of an alpaca row: earlier turns, then the instruction with its input below it."""
    history = json.loads(row.get("history") or "[]") or []
    if not isinstance(history, list) or not all(_is_turn(turn) for turn in history):
        raise ValueError(f"history: expected pairs of two texts, found {described(history)}")
    turns = [
        _said(role, text) for pair in history for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    asked = "\n".join(part for part in (row["instruction"], row.get("input")) if part)
    return [message for turn in turns for message in turn] + _said("user", asked)


def _is_turn(turn: Any) -> bool:
    return isinstance(turn, list) and len(turn) == 2 and all(isinstance(text, str) for text in turn)


def _shared(first: Sequence[Message], second: Sequence[Message], column: str = "chosen") -> int:
    """How many messages are the prompt of two conversations: what is left begins with the assistant."""
    shortest = min(len(first), len(second)) - 1
    size = next((n for n in range(shortest) if first[n] != second[n]), shortest)
    while size and not first[size]["role"] == second[size]["role"] == "assistant":
        size -= 1
    if not size:
        raise ValueError(
            f"{column}: expected two conversations that begin with the same messages and then differ in what "
            f"the assistant says, found {described(first[0]['content'])} and "
            f"{described(second[0]['content'])} at their beginning"
        )
    return size
