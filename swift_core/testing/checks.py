"""All checks by name, and running them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from swift_core.errors import SwiftError
from swift_core.testing.outcomes import ConformanceError, NotApplicable
from swift_core.testing.subject import Subject


@dataclass(frozen=True)
class Check:
    """One promise of a task type.

    Attributes:
        name: as in the docs and the ids of tests.
        home: the module of :mod:`swift_core.testing` that has a function of this name.
        promise: what is checked, in a few words.
    """

    name: str
    home: str
    promise: str

    def run(self, subject: Subject) -> None:
        """Look whether ``subject`` keeps the promise.

        Raises:
            ConformanceError: it does not.
            NotApplicable: the promise says nothing about it.
        """
        module = importlib.import_module(f"swift_core.testing.{self.home}")
        function: Callable[[Subject], None] = getattr(module, self.name)
        try:
            function(subject)
        except (ConformanceError, NotApplicable):
            raise
        except Exception as error:  # a plugin may fail in any way
            told = str(error) if isinstance(error, SwiftError) else f"{type(error).__name__}: {error}"
            raise ConformanceError(
                expected=self.promise,
                found=told,
                remedy="mend that first; the check could not be made",
            ) from error


CHECKS = (
    Check("spec_imports_no_torch", "declaration", "the spec imports no torch"),
    Check("hooks_are_complete", "declaration", "the five hooks keep the contract"),
    Check("options_are_documented_and_typed", "declaration", "options are documented and typed"),
    Check("typos_are_refused", "declaration", "a typo in an option is refused with a suggestion"),
    Check("bad_rows_are_named", "data_rows", "a bad row is named with its column"),
    Check("collator_works_in_workers", "batches", "the collator works in DataLoader workers"),
    Check("padded_and_flat_agree", "batches", "padded and flat batches have the same loss"),
    Check("loss_is_finite_and_falls", "learning", "the loss is finite and falls"),
    Check("same_seed_gives_the_same_curve", "learning", "the same seed gives the same curve"),
    Check("runs_leave_each_other_alone", "learning", "two runs of one process leave each other alone"),
    Check("resume_continues_exactly", "learning", "a resumed run ends as an unbroken one"),
    Check("accumulation_keeps_the_gradient", "gradients", "accumulation keeps the gradient"),
    Check("two_processes_keep_the_gradient", "processes", "two processes keep the gradient"),
    Check("two_processes_measure_the_same", "processes", "two processes measure the same"),
    Check("metrics_exist", "saved", "every declared metric exists"),
    Check("reload_evaluates_the_same", "saved", "what is saved measures the same in a new process"),
    Check("exports_exist", "saved", "every declared export is written"),
    Check("exports_give_the_same_outputs", "saved", "exports give the model's outputs"),
)
"""In the order in which they are best mended."""


@dataclass(frozen=True)
class Result:
    """How a check ended; ``told`` is empty where it passed."""

    check: Check
    outcome: Literal["passed", "failed", "not applicable"]
    told: str = ""


def run_checks(subject: Subject, checks: Iterable[Check] = CHECKS) -> Iterator[Result]:
    """Run ``checks`` one after the other."""
    for check in checks:
        try:
            check.run(subject)
        except NotApplicable as reason:
            yield Result(check, "not applicable", str(reason))
        except ConformanceError as error:
            yield Result(check, "failed", str(error))
        else:
            yield Result(check, "passed")
