"""Serving: a task type answers a request's body with a response's body; a server package does the rest.

``TaskSpec.serving`` names a function for each route, ``package.module:respond``. It is called as
``respond(request, loaded, model=..., request_id=..., created=...)``: it reads no clock, keeps no state and
knows nothing of HTTP, so that any server can call it and any test can compare what it returns. Beside it, in
the same module, stands ``load(folder)``, which makes ``loaded`` of a folder that the task exports. Before it
loads one, a server calls :func:`swift_core.labels.verdicts.refuse_failed_export`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeVar

from annotated_types import Ge
from pydantic import BaseModel, ConfigDict, ValidationError

from swift_core.errors import SwiftError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MOST_FAULTS = 20
_EXPECTED = "a text, a list of texts, a list of token ids, or a list of such lists"
_EXPECTED_PAIRS = "a text, a list of texts or of pairs of texts, a list of token ids, or a list of such lists"


class RequestError(SwiftError):
    """A request that can't be answered.

    Attributes:
        faults: what is wrong, each beginning with the field's name.
        status: the HTTP status: 404 no such model, 413 too long, 422 anything else that the client can mend.
    """

    def __init__(self, *faults: str, status: int = 422) -> None:
        """Keep ``faults`` (at least one)."""
        self.faults, self.status = faults, status
        told = list(faults[:_MOST_FAULTS])
        if len(faults) > len(told):
            told.append(f"and {len(faults) - len(told):,} more like these")
        super().__init__("; ".join(told))

    @property
    def body(self) -> dict[str, Any]:
        """The body of the response, as the clients of OpenAI's API read it."""
        fields = {fault.partition(":")[0].partition("[")[0] for fault in self.faults}
        return {
            "error": {
                "message": str(self),
                "type": "invalid_request_error",
                "param": fields.pop() if len(fields) == 1 else None,
                "code": self.status,
            }
        }


class ServedRequest(BaseModel):
    """The fields that every task reads; a client's further ones are left alone, as others do."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    model: str | None = None
    user: str | None = None
    truncate_prompt_tokens: Annotated[int, Ge(-1)] | None = None


class TextRequest(ServedRequest):
    """The fields about texts each of which is an input of its own."""

    input: Any = None
    truncation_side: Literal["left", "right"] | None = None
    add_special_tokens: bool = True


RequestType = TypeVar("RequestType", bound=ServedRequest)


class Check(NamedTuple):
    """A field that must be there.

    Attributes:
        expected: what its value should be, for one who left it out.
        faults: what is wrong with a value, each fault with its place.
    """

    expected: str
    faults: Callable[[Any], Sequence[str]]


def parse_request(
    request: Mapping[str, Any],
    kind: type[RequestType],
    *,
    model: str,
    checks: Mapping[str, Check],
    limit_faults: Callable[[RequestType], Sequence[str]],
) -> RequestType:
    """The checked fields of a request.

    Args:
        request: the body, as a JSON parser gives it.
        model: the name that the model is served under.
        checks: the fields that must be there, by name.
        limit_faults: what is wrong with the other fields, each of its type.

    Raises:
        RequestError: another model is asked for (404); anything else is wrong (422: all faults).
    """
    if not isinstance(request, Mapping):
        raise RequestError(f"body: expected a JSON object, found {shown(request)}")
    faults: list[str] = []
    for name, check in checks.items():
        missing = [f"{name}: expected {check.expected}, found nothing"]
        faults += check.faults(request[name]) if name in request else missing
    try:
        asked = kind.model_validate(dict(request))
    except ValidationError as error:
        wrong = {entry["loc"][0]: _fault_of(entry) for entry in error.errors()}
        faults += wrong.values()
        # What else is wrong is looked for as if these fields were not there.
        rest = {name: value for name, value in request.items() if name not in wrong}
        asked = kind.model_validate(rest)
    faults += limit_faults(asked)
    if faults:
        raise RequestError(*faults)
    if asked.model not in (None, model):
        raise RequestError(f"model: there is no {asked.model!r} here, expected {model!r}", status=404)
    return asked


def _fault_of(entry: Any) -> str:
    return f"{entry['loc'][0]}: {entry['msg'][:1].lower()}{entry['msg'][1:]}, found {shown(entry['input'])}"


def input_check(*, vocabulary: int, pairs: bool = False) -> Check:
    """Of the field ``input``, see :func:`input_faults`."""
    return Check(_EXPECTED, lambda value: input_faults(value, vocabulary=vocabulary, pairs=pairs))


def inputs_of(value: Any) -> list[Any]:
    """The inputs of a request that holds one or several."""
    single = isinstance(value, str) or all(_is_number(part) for part in value)
    return [value] if single else value


def input_faults(value: Any, *, vocabulary: int, pairs: bool = False) -> list[str]:
    """What is wrong with the value of ``input``, each fault with its place.

    Args:
        vocabulary: token ids that the model has a row for.
        pairs: whether two texts in a list are one input.
    """
    if not isinstance(value, str | list) or value == []:
        expected = _EXPECTED_PAIRS if pairs else _EXPECTED
        return [f"input: expected {expected}, found {shown(value)}"]
    items = inputs_of(value)
    kinds = {isinstance(item, list) and not (pairs and is_pair(item)) for item in items}
    if kinds == {True, False} and all(isinstance(item, str | list) for item in items):
        return ["input: expected texts or lists of token ids, found both; send them in two requests"]
    places = ["input"] if items is not value else [f"input[{index}]" for index in range(len(items))]
    found = []
    for place, item in zip(places, items, strict=True):
        if pairs and is_pair(item):
            found += [_item_fault(f"{place}[{n}]", text, vocabulary) for n, text in enumerate(item)]
        else:
            found.append(_item_fault(place, item, vocabulary))
    return [fault for fault in found if fault is not None]


def _item_fault(place: str, item: Any, vocabulary: int) -> str | None:
    if isinstance(item, str):
        return text_fault(place, item)
    if not isinstance(item, list):
        return f"{place}: expected a text or a list of token ids, found {shown(item)}"
    if not item:
        return f"{place}: expected at least one token id, found an empty list"
    # An id that the model has no row for would end the whole process on a GPU.
    wrong = (n for n, token in enumerate(item) if not _is_number(token) or not 0 <= token < vocabulary)
    bad = next(wrong, None)
    if bad is None:
        return None
    return f"{place}[{bad}]: expected a token id from 0 to {vocabulary - 1}, found {shown(item[bad])}"


def text_fault(place: str, text: str) -> str | None:
    """What is wrong with a text at that place of a request."""
    if not text.strip():
        return f"{place}: expected a text with a visible character, found {shown(text)}"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"{place}: expected Unicode text, found half a surrogate pair at {error.start}"
    return None


def truncation_faults(asked: TextRequest, tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[str]:
    """Whether texts can be cut as short as asked for."""
    limit = asked.truncate_prompt_tokens
    items = inputs_of(asked.input) if isinstance(asked.input, str | list) else []
    adds = asked.add_special_tokens and not is_of_tokens(asked.input)
    special = tokenizer.num_special_tokens_to_add(pair=any(map(is_pair, items))) if adds else 0
    if limit is None or limit == -1 or special < limit <= max_length:
        return []
    return [
        f"truncate_prompt_tokens: expected -1, or {special + 1} to {max_length} tokens (special "
        f"ones included), found {limit}"
    ]


def refuse_long(lengths: Sequence[int], limit: int) -> None:
    """Refuse inputs of more than ``limit`` tokens.

    Raises:
        RequestError: there are any (413).
    """
    faults = [
        f"input[{n}]: expected at most {limit} tokens, found {length}; shorten it, or set "
        "truncate_prompt_tokens to -1 to have it cut"
        for n, length in enumerate(lengths)
        if length > limit
    ]
    if faults:
        raise RequestError(*faults, status=413)


def cut_row(ids: list[int], special: Sequence[int], limit: int, side: str) -> list[int]:
    """At most ``limit`` of ``ids``; the special ones at either end stay."""
    if len(ids) <= limit:
        return ids
    start = next((n for n, flag in enumerate(special) if not flag), len(ids))
    end = len(ids) - next((n for n, flag in enumerate(reversed(special)) if not flag), 0)
    room = limit - start - (len(ids) - end)
    kept = ids[start : start + room] if side == "right" else ids[end - room : end]
    return [*ids[:start], *kept, *ids[end:]]


def is_of_tokens(value: Any) -> bool:
    """Whether ``input`` holds token ids, in one list or several."""
    if not isinstance(value, list) or not value or isinstance(value[0], str):
        return False
    return not is_pair(value[0])


def is_pair(item: Any) -> bool:
    """Whether one of the inputs is two texts."""
    return isinstance(item, list) and len(item) == 2 and all(isinstance(text, str) for text in item)


def shown(value: Any) -> str:
    """A value in a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
