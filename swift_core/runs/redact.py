"""What must not end up in a record: secrets, by the name of their option or inside an address."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from swift_core.runs.plain import plain

HIDDEN = "<REDACTED>"
_SECRET_NAME = re.compile(
    r"(?:\A|[^a-z]|api|auth|access|secret|private|pass|(?-i:(?<=[a-z])(?=[A-Z])))"
    r"(?:token|(?:key|secret|password)s?|passwd|credentials?|authorization|auth|cookie)\Z",
    re.IGNORECASE,
)
# Tokens of a vocabulary.
_NO_SECRET = re.compile(r"(true|false|pad|eos|bos|unk|cls|sep|mask|start|stop|end)_token\Z")

# `?` before `@` is a password with a question mark or a query with an `@`; nobody can tell, so all goes.
_UNCLEAR = re.compile(r"(?<=://)[^/\s]*\?[^/\s]*@\S*")
_USER = re.compile(r"(?<=://)[^/\s]*@")
_QUERY = re.compile(r"(://[^\s?]*)\?\S*")


def redacted(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``options`` as JSON values, without secrets.

    The value of an option whose name ends in the word token, key, secret or password becomes ``<REDACTED>``
    (None stays None: that it was not given is no secret), also inside nested mappings and lists. Numbers in
    there stay: their names may be data, such as labels with weights. Addresses lose ``user:password@`` and
    their query string.
    """
    return {name: _without_secrets(name, value) for name, value in plain(options).items()}


def without_hidden(value: Any) -> Any:
    """Recorded options, or a part of them, without the entries whose values were kept out of the record."""
    if isinstance(value, dict):
        return {name: without_hidden(entry) for name, entry in value.items() if entry != HIDDEN}
    return [without_hidden(entry) for entry in value] if isinstance(value, list) else value


def is_secret_name(name: str) -> bool:
    """Whether an option of that name holds a secret."""
    return _SECRET_NAME.search(name) is not None and _NO_SECRET.match(name) is None


def without_credentials(value: Any) -> Any:
    """Return ``value`` as JSON values; addresses have lost ``user:password@`` and their query string."""
    return _in_strings(plain(value))


def _without_secrets(name: str, value: Any) -> Any:
    if value is not None and is_secret_name(name):
        return HIDDEN
    if isinstance(value, dict):
        return {
            inner: entry if isinstance(entry, int | float) else _without_secrets(inner, entry)
            for inner, entry in value.items()
        }
    if isinstance(value, list):
        return [_without_secrets("", entry) for entry in value]
    return _scrubbed(value) if isinstance(value, str) else value


def _in_strings(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _in_strings(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_in_strings(entry) for entry in value]
    return _scrubbed(value) if isinstance(value, str) else value


def _scrubbed(text: str) -> str:
    return _QUERY.sub(r"\1", _USER.sub("", _UNCLEAR.sub(HIDDEN, text)))
