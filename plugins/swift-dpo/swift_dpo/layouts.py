"""The forms of preference data that these tasks read.

Imports no torch: the specs of the tasks are made of these.
"""

from __future__ import annotations

from swift_core.spec import Column, ColumnType, Layout

_HERE = "swift_dpo.conversions"


def _optional(name: str, type_: ColumnType, meaning: str) -> Column:
    return Column(name=name, type=type_, meaning=meaning, required=False)


def _required(name: str, meaning: str, type_: ColumnType = "any") -> Column:
    return Column(name=name, type=type_, meaning=meaning)


_PROMPT = _required("prompt", "A text that is continued as it is, or messages.")
_MARGIN = _optional("margin", "number", "How much better the better answer should be.")
_WEIGHT = _optional("weight", "number", "How much the row counts in the loss; 1 for most.")
_VIOLATIONS = _optional("violations", "list[number]", "How much each answer breaks the constraint.")
_TOOLS = _optional("tools", "any", "Functions that the prompt may call, for the chat template.")
_SYSTEM = _optional("system", "string", "The system message.")
_ROW = (_MARGIN, _WEIGHT, _VIOLATIONS, _TOOLS)
_MORE = (_SYSTEM, *_ROW)

COLUMNS = (
    _PROMPT,
    _required("answers", "The answers, each a text or messages."),
    _required("scores", "How good each answer is; larger is better.", "list[number]"),
    *_ROW,
)
"""What a row is stored as, whatever its layout was."""

KTO_COLUMNS = (
    *COLUMNS,
    _optional("unrelated", "any", "An answer to another prompt; filled when data is read."),
)
"""The same for unpaired answers."""

_CHOSEN = _required("chosen", "The better answer: a text, or messages.")
_REJECTED = _required("rejected", "The worse answer.")
_INSTRUCTION = _required("instruction", "What is asked.", "text")
_INPUT = _optional("input", "string", "What it is asked about.")
_HISTORY = _optional("history", "any", "Earlier turns: pairs of a question and an answer.")
_CONVERSATIONS = _required("conversations", "Messages with from and value.")
_MESSAGES = _required("messages", "The conversation; its last message is the better answer.")


def _ranked(answers: str) -> Layout:
    columns = (
        _PROMPT,
        _required(answers, "Two or more answers, each a text or messages."),
        _optional("scores", "list[number]", "How good each answer is; larger is better."),
        _optional("ranks", "list[number]", "The place of each answer; 1 is the best."),
        *_MORE,
    )
    return Layout(name=f"ranked {answers}", columns=columns, convert=f"{_HERE}:from_ranked")


def _layout(name: str, convert: str, *columns: Column) -> Layout:
    return Layout(name=name, columns=(*columns, *_MORE), convert=f"{_HERE}:{convert}")


LAYOUTS = (
    _layout("pairs (TRL)", "from_pair", _PROMPT, _CHOSEN, _REJECTED),
    _ranked("answers"),
    _ranked("responses"),
    _layout("LLaMA-Factory, sharegpt", "from_conversations", _CONVERSATIONS, _CHOSEN, _REJECTED),
    _layout("LLaMA-Factory, alpaca", "from_instruction", _INSTRUCTION, _CHOSEN, _REJECTED, _INPUT, _HISTORY),
    _layout(
        "LLaMA-Factory, alpaca of earlier versions",
        "from_outputs",
        _INSTRUCTION,
        _required("output", "The better answer and the worse one.", "list[text]"),
        _INPUT,
        _HISTORY,
    ),
    _layout(
        "ms-swift",
        "from_messages",
        _MESSAGES,
        _required("rejected_response", "The worse answer, or several.", "texts"),
    ),
    _layout(
        "ms-swift, rejected messages",
        "from_messages",
        _MESSAGES,
        _required("rejected_messages", "The conversation with the worse answer."),
    ),
    _layout("whole conversations (TRL, HH)", "from_whole", _CHOSEN, _REJECTED),
)
"""Rows with two answers or more to one prompt."""

_TAG = _required("kto_tag", "Whether the answer is a good one.", "boolean")

KTO_LAYOUTS = (
    _layout(
        "answers with labels (TRL)",
        "from_completion",
        _PROMPT,
        _required("completion", "The answer: a text, or messages."),
        _required("label", "Whether it is a good one.", "boolean"),
    ),
    _layout("LLaMA-Factory, sharegpt with tags", "from_tagged_conversation", _CONVERSATIONS, _TAG),
    _layout(
        "LLaMA-Factory, alpaca with tags",
        "from_tagged_output",
        _INSTRUCTION,
        _required("output", "The answer.", "string"),
        _TAG,
        _INPUT,
        _HISTORY,
    ),
    *LAYOUTS,
    _layout(
        "ms-swift with labels",
        "from_labelled_messages",
        _MESSAGES,
        _required("label", "Whether the last message is a good answer.", "boolean"),
    ),
)
"""Answers that are good or bad by themselves; pairs and ranked answers are taken apart."""

KTO_GATHER = "swift_dpo.gathering:unpaired"
"""For :class:`swift_core.spec.TaskSpec`: one row for each answer, with an answer to another prompt."""
