"""How a label may be called: the kind of task, and nothing that tells one run from another."""

from __future__ import annotations

import re
from collections.abc import Sequence

from swift_core.spec import TASK_NAME

_VARIANT = re.compile(
    r"v\d+|final\d*|copy\d*|tmp|temp|wip|bak|backup|draft|(19|20)\d{2}(\d{2}(\d{2})?)?|\d{6}"
)
_AT_AN_END = re.compile(r"new|old|test\d*|try\d*|latest|exp\d+|experiment\d*|my|\d")
"""Words that may well belong to a name inside of it: a test at an end is somebody's trial."""


def name_fault(name: str, allowed: Sequence[str] = ()) -> str | None:
    """Why ``name`` should not be a label, with what to do instead; None when it may.

    Args:
        name: the label.
        allowed: names that look like variants and are none.
    """
    if not TASK_NAME.fullmatch(name):
        better = _as_words(name)
        remedy = f"; write {better}" if TASK_NAME.fullmatch(better) else ""
        return f"expected lower-case words joined by '-', found {name!r}{remedy}"
    words = name.split("-")
    telling = [
        word
        for place, word in enumerate(words)
        if _VARIANT.fullmatch(word) or (place in (0, len(words) - 1) and _AT_AN_END.fullmatch(word))
    ]
    if not telling or name in allowed:
        return None
    kind = "-".join(word for word in words if word not in telling)
    kept = f"task_type: {kind} and " if kind else ""
    return (
        f"'{name}' names a variant ({', '.join(telling)}), not a kind of task; what tells one run or "
        "experiment "
        f"from another belongs into its name: write {kept}run_name: {'-'.join(telling)}"
    )


def _as_words(name: str) -> str:
    # DpoTask is dpo-task, CLS is cls, Product_V2 is product-v2.
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name)
    return re.sub(r"[^a-z0-9]+", "-", apart.lower()).strip("-")
