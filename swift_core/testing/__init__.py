"""The conformance kit: what a task type promises, checked on a few example rows of its own.

In a test of the package (pytest is imported only for this)::

    from swift_core.testing import TaskConformance

    class TestLegalNer(TaskConformance):
        task_type = "legal-ner"
        rows = [{"words": ["..."], "tags": ["..."]}, ...]
        options = {"learning_rate": 0.05}

Without pytest, ``python -m swift_core.testing PACKAGE --rows FILE`` prints a line for each check, and from
Python :func:`swift_core.testing.checks.run_checks` gives the same results as data.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swift_core.testing.checks import CHECKS, Check, Result, run_checks
    from swift_core.testing.conformance import TaskConformance
    from swift_core.testing.outcomes import ConformanceError, NotApplicable
    from swift_core.testing.subject import Subject
    from swift_core.testing.tiny import tiny_encoder

_HOMES = {
    "CHECKS": "checks",
    "Check": "checks",
    "ConformanceError": "outcomes",
    "NotApplicable": "outcomes",
    "Result": "checks",
    "Subject": "subject",
    "TaskConformance": "conformance",
    "run_checks": "checks",
    "tiny_encoder": "tiny",
}

__all__ = [
    "CHECKS",
    "Check",
    "ConformanceError",
    "NotApplicable",
    "Result",
    "Subject",
    "TaskConformance",
    "run_checks",
    "tiny_encoder",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'swift_core.testing' has no attribute {name!r}")
    return getattr(importlib.import_module(f"swift_core.testing.{_HOMES[name]}"), name)
