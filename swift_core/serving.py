"""Serving: a task type answers a request's body with a response's body; a server package does the rest.

``TaskSpec.serving`` names the function, ``package.module:respond``. It is called as
``respond(request, loaded, model=..., request_id=..., created=...)``: it reads no clock, keeps no state and
knows nothing of HTTP, so that any server can call it and any test can compare what it returns. Beside it, in
the same module, stands ``load(folder)``, which makes ``loaded`` of a folder that the task exports.
"""

from __future__ import annotations

from typing import Any

from swift_core.errors import SwiftError

_MOST_FAULTS = 20


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
