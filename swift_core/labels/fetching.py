"""A labels file at an https address: fetched each time, never from a copy."""

from __future__ import annotations

import urllib.error
import urllib.request
from http.client import HTTPException, HTTPMessage
from typing import IO
from urllib.parse import urlsplit

from swift_core.errors import UserError
from swift_core.runs.redact import without_credentials

_TIMEOUT_SECONDS = 5.0
_MOST_BYTES = 1_000_000


class _NoDowngrade(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if fault := _address_fault(newurl):
            raise urllib.error.URLError(f"it redirects to {without_credentials(newurl)}: {fault}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _address_fault(address: str) -> str | None:
    parts = urlsplit(address)
    if "@" in parts.netloc:
        # They would not be sent, and http.client quotes a password that it takes for a port.
        return "expected an address without user and password, found one with them; they can't be used"
    # Anybody on the way could change what is not encrypted; there is no way to this machine itself.
    if parts.scheme == "https" or (
        parts.scheme == "http" and parts.hostname in ("localhost", "127.0.0.1", "::1")
    ):
        return None
    return f"expected an https address or a path, found {parts.scheme}"


def fetched(address: str, found_by: str) -> str:
    """The text at an address, asked for anew each time.

    Args:
        address: https, or http on this machine.
        found_by: how it was found, in words, for errors.

    Raises:
        UserError: it can't be had within some seconds, or is no text of a sensible size.
    """
    if fault := _address_fault(address):
        raise UserError(f"labels: {without_credentials(address)} ({found_by}): {fault}")
    request = urllib.request.Request(
        address, headers={"Cache-Control": "no-cache", "User-Agent": "swift-core"}
    )
    opener = urllib.request.build_opener(_NoDowngrade)
    try:
        with opener.open(request, timeout=_TIMEOUT_SECONDS) as answer:
            content: bytes = answer.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise UserError(
                f"{without_credentials(address)}: expected a labels file, found more than "
                f"{_MOST_BYTES:,} bytes"
            )
        return content.decode("utf-8-sig")
    except (OSError, HTTPException, UnicodeDecodeError) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(
            f"{without_credentials(address)}: the labels file can't be fetched ({found_by}): "
            f"{reason}. No older copy is used; try again, or ask who set it"
        ) from error
