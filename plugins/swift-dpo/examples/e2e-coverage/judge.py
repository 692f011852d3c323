"""How many of the facts that it was given does a text tell? A rule for each kind of fact, no model.

The facts stand in the prompt, such as ``name[Zizzi], food[Italian], familyFriendly[no]``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_FACT = re.compile(r"(\w[\w ]*)\[([^\]]*)\]")
_PRICES: Mapping[str, tuple[str, ...]] = {
    "cheap": ("cheap", "low", "inexpensive"),
    "less than £20": ("cheap", "low", "inexpensive", "20", "25"),
    "moderate": ("moderate", "average", "mid", "medium"),
    "£20-25": ("moderate", "average", "mid", "medium", "20", "25"),
    "high": ("high", "expensive"),
    "more than £30": ("high", "expensive"),
}


def score(prompt: Any, answer: str, row: Mapping[str, Any]) -> float:
    """Share of the facts of the prompt that ``answer`` mentions, 0 to 1."""
    asked = prompt if isinstance(prompt, str) else prompt[-1]["content"]
    facts = _FACT.findall(asked.split("facts:", 1)[-1])
    told = answer.lower()
    return sum(
        any(word in told for word in _words(kind.strip(), value.lower())) for kind, value in facts
    ) / len(facts)


def _words(kind: str, value: str) -> tuple[str, ...]:
    """Any of them in a text tells the fact."""
    match kind:
        case "familyFriendly":
            return ("famil", "kid", "child")
        case "priceRange":
            return (*_PRICES.get(value, ()), value, "price")
        case "customer rating":
            return ("star", "rat", value)
        case "area":
            return ("river",) if value == "riverside" else ("city", "centre", "center")
    return (value,)
