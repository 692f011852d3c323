"""Messages of a conversation, in the forms that people write them. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from swift_core.data.values import described

Message: TypeAlias = dict[str, Any]

_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "observation": "tool",
    "function_call": "assistant",
}
"""What ``from`` says, for what chat templates call ``role``; other words mean themselves."""
_TURN = re.compile(r"(?:\A|\n\n)(Human|Assistant):")


def as_messages(value: Any, column: str) -> list[Message]:
    """Messages with ``role`` and ``content`` of a list of them, or of one, also with ``from`` and ``value``.

    Raises:
        ValueError: it is something else; the text starts with ``column``.
    """
    entries = [value] if isinstance(value, Mapping) else value
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{column}: expected messages with role and content, found {described(value)}")
    return [_message(entry, column) for entry in entries]


def is_messages(value: Any) -> bool:
    """Whether a value is messages rather than a text."""
    return not isinstance(value, str)


def _message(entry: Any, column: str) -> Message:
    if not isinstance(entry, Mapping):
        raise ValueError(f"{column}: expected a message with role and content, found {described(entry)}")
    role = entry.get("role", entry.get("from"))
    content = entry.get("content", entry.get("value"))
    if not isinstance(role, str):
        raise ValueError(f"{column}: expected a role in each message, found {described(entry)}")
    if isinstance(content, list):
        content = _joined(content, column)
    if not isinstance(content, str) and not (content is None and entry.get("tool_calls")):
        raise ValueError(f"{column}: expected a text as content of each message, found {described(content)}")
    # Further keys (tool_calls, name, reasoning_content) belong to the chat template.
    more = {key: part for key, part in entry.items() if key not in ("role", "from", "content", "value")}
    kept = {key: part for key, part in more.items() if part is not None}
    return {"role": _ROLES.get(role, role), "content": content, **kept}


def _joined(parts: Sequence[Any], column: str) -> str:
    texts = [part.get("text") if isinstance(part, Mapping) else None for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{column}: expected content of texts only, found {described(list(parts))}")
    return "".join(str(text) for text in texts)


def is_transcript(text: str) -> bool:
    """Whether a text is a conversation of ``Human:`` and ``Assistant:``, as in Anthropic's HH data."""
    return text.lstrip().startswith("Human:") and "\n\nAssistant:" in text


def of_transcript(text: str) -> list[Message]:
    """The messages of such a text."""
    _, *parts = _TURN.split(text.lstrip())
    roles = ("user" if name == "Human" else "assistant" for name in parts[::2])
    return [
        {"role": role, "content": content.strip()} for role, content in zip(roles, parts[1::2], strict=True)
    ]


def check_answer(messages: Sequence[Message], column: str) -> None:
    """Refuse an answer that does not begin and end with a turn of the assistant.

    Raises:
        ValueError: it does not; the text starts with ``column``.
    """
    for place, message in (("begin", messages[0]), ("end", messages[-1])):
        if message["role"] != "assistant":
            raise ValueError(
                f"{column}: expected an answer to {place} with a message of the assistant, found "
                f"'{message['role']}' ({described(message['content'])})"
            )


def alike(answer: Any, prompt: Any) -> Any:
    """An answer of another row, as a text or as messages, whatever the prompt is."""
    if is_messages(prompt) == is_messages(answer):
        return answer
    if is_messages(prompt):
        return [{"role": "assistant", "content": answer}]
    return answer[0]["content"] or ""


def is_blank(answer: Any) -> bool:
    """Whether the assistant says nothing in an answer, and calls no function."""
    if not is_messages(answer):
        return not answer.strip()
    return not any(
        message.get("tool_calls") or (message["content"] or "").strip()
        for message in answer
        if message["role"] == "assistant"
    )
