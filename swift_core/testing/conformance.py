"""The conformance kit as tests of pytest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from swift_core.testing.checks import CHECKS, Check
from swift_core.testing.outcomes import ConformanceError, NotApplicable
from swift_core.testing.subject import Subject

if TYPE_CHECKING:
    from torch import nn

    from swift_core.hookspecs import Collator


class TaskConformance:
    """A base class: a subclass that names a task type and gives rows is tested for what it promises.

    Attributes:
        task_type: its name.
        rows: example rows that it can learn from; eight or more, of different lengths.
        options: options of the runs, such as a learning rate that makes the loss fall in ``steps`` steps.
        eval_rows: rows to evaluate on; default: ``rows``.
        bad_rows: rows that must be refused, each with the column that the message must name.
        batch_loss: True where the loss is a function of a whole batch, such as in-batch negatives.
        steps: how long the runs are.
        export_formats: the formats to write; default: all whose packages are installed.
        not_applicable: checks that say nothing of this task type, by name, each with the reason.
    """

    task_type: ClassVar[str]
    rows: ClassVar[Sequence[Mapping[str, Any]]]
    options: ClassVar[Mapping[str, Any]] = {}
    eval_rows: ClassVar[Sequence[Mapping[str, Any]] | None] = None
    bad_rows: ClassVar[Sequence[tuple[Mapping[str, Any], str]]] = ()
    batch_loss: ClassVar[bool] = False
    steps: ClassVar[int] = 12
    export_formats: ClassVar[Sequence[str] | None] = None
    not_applicable: ClassVar[Mapping[str, str]] = {}

    def reload_export(self, format: str, folder: Path) -> Any:
        """Load the export in ``folder`` and return its outputs on rows of your choice."""
        raise NotImplementedError

    def outputs(self, model: nn.Module, collator: Collator) -> Any:
        """Return the outputs of ``model`` on the same rows: tensors, numbers, texts, or lists of them."""
        raise NotImplementedError

    _subject: ClassVar[Subject | None] = None

    @pytest.fixture
    def task_options(self) -> Mapping[str, Any]:
        """The options; override it where they need a fixture, such as a folder with a small model.

        It is asked for once for all checks of the class.
        """
        return self.options

    @pytest.fixture
    def conformance_subject(self, request: pytest.FixtureRequest) -> Subject:
        """What all checks of the class look at; made by the first of them."""
        own = type(self)
        if "_subject" not in vars(own) or own._subject is None:
            folder = request.getfixturevalue("tmp_path_factory").mktemp("conformance")
            own._subject = self._new_subject(folder, request.getfixturevalue("task_options"))
        return own._subject

    def _new_subject(self, folder: Path, options: Mapping[str, Any]) -> Subject:
        own = type(self)
        reloads = own.reload_export is not TaskConformance.reload_export
        gives = own.outputs is not TaskConformance.outputs
        return Subject(
            task_type=self.task_type,
            rows=self.rows,
            folder=folder,
            options=options,
            eval_rows=self.eval_rows,
            bad_rows=self.bad_rows,
            batch_loss=self.batch_loss,
            steps=self.steps,
            export_formats=self.export_formats,
            reload_export=self.reload_export if reloads else None,
            outputs=self.outputs if gives else None,
        )

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
    def test_conformance(self, check: Check, conformance_subject: Subject) -> None:
        """Run one check; what is not applicable is skipped with its reason."""
        if check.name in self.not_applicable:
            pytest.skip(self.not_applicable[check.name])
        try:
            check.run(conformance_subject)
        except NotApplicable as reason:
            pytest.skip(str(reason))
        except ConformanceError as error:
            pytest.fail(str(error), pytrace=False)
