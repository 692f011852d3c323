"""``python -m swift_core.testing PACKAGE_OR_TASK --rows FILE``: a line for each check."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from swift_core import __version__
from swift_core.arguments import parse_overrides
from swift_core.cli.package_commands import CommandParser, parse_command
from swift_core.errors import SwiftError, UserError, did_you_mean, first_line, listed
from swift_core.registry import Claim, find_claims, find_task
from swift_core.runfile import parse_value
from swift_core.runs.atomic import write_text
from swift_core.testing.checks import CHECKS, Check, Result, run_checks
from swift_core.testing.subject import Subject

_WIDTH = len("not applicable")


def build_parser() -> CommandParser:
    """The parser of the command."""
    parser = CommandParser(
        prog="python -m swift_core.testing", description="Check what a task type promises on example rows."
    )
    add = parser.add_argument
    add("name", metavar="PACKAGE_OR_TASK", help="a task type, or a package with task types")
    add("options", nargs="*", metavar="option=value", help="options of the runs, such as learning_rate=0.05")
    add("--rows", required=True, type=Path, metavar="FILE", help="example rows, a JSON object a line")
    add("--eval-rows", type=Path, metavar="FILE", help="rows to evaluate on; default: the same")
    add("--batch-loss", action="store_true", help="the loss is a function of a whole batch")
    add("--steps", type=int, default=12, metavar="N", help="how long the runs are (default: 12)")
    add("--export", action="append", metavar="FORMAT", help="only this format; may be given again")
    add("--only", action="append", metavar="CHECK", help="only this check; may be given again")
    add("--badge", type=Path, metavar="FILE", help="write the outcome as JSON for a badge of shields.io")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Check, print, and return 0 where nothing failed, 1 where something did, 2 for a mistake."""
    try:
        parsed = parse_command(build_parser(), arguments)
        claims = _claims(parsed.name)
        results = [result for claim in claims for result in _checked(claim, parsed)]
        failed = sum(result.outcome == "failed" for result in results)
        if parsed.badge is not None:
            write_text(parsed.badge, json.dumps(badge(results), indent=2) + "\n")
        return 1 if failed else 0
    except SwiftError as error:
        print(f"swift_core.testing: {error}", file=sys.stderr)
        return error.exit_code


def _claims(name: str) -> list[Claim]:
    of_package = [claim for claim in find_claims() if claim.package == name]
    return of_package or [find_task(name)]


def _checked(claim: Claim, parsed: argparse.Namespace) -> list[Result]:
    from swift_core.cli.work import quiet_libraries

    results = []
    with tempfile.TemporaryDirectory() as folder, quiet_libraries(False):
        subject = Subject(
            task_type=claim.qualified_name,
            rows=read_rows(parsed.rows),
            folder=Path(folder),
            options=_options(parsed.options),
            eval_rows=None if parsed.eval_rows is None else read_rows(parsed.eval_rows),
            batch_loss=parsed.batch_loss,
            steps=parsed.steps,
            export_formats=parsed.export,
        )
        print(f"{claim.package} {claim.version}, task type {claim.name}, swift-core {__version__}")
        outcomes = run_checks(subject, _chosen(parsed.only))
        while (result := _next(outcomes)) is not None:
            results.append(result)
            told = f": {result.told}" if result.told else ""
            print(f"{result.outcome:<{_WIDTH}}  {result.check.promise}{told}", flush=True)
    print(f"conformance: {summary(results)}")
    return results


def _chosen(names: Sequence[str] | None) -> Sequence[Check]:
    known = {check.name: check for check in CHECKS}
    wrong = [name for name in names or () if name not in known]
    if wrong:
        raise UserError(
            *(f"--only: there is no check '{name}'.{did_you_mean(name, known)}" for name in wrong)
        )
    return CHECKS if names is None else [known[name] for name in names]


def _next(outcomes: Iterator[Result]) -> Result | None:
    # What runs print while they train is no part of the report.
    with contextlib.redirect_stdout(io.StringIO()):
        return next(outcomes, None)


def _options(texts: Sequence[str]) -> dict[str, Any]:
    return {name: parse_value(text) for name, text in parse_overrides(texts).items()}


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file with a JSON object a line.

    Raises:
        UserError: it can't be read, or has something else in it.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: expected a JSON object a line, found {first_line(error)}") from error
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: expected a JSON object a line, found {'other values' if rows else 'none'}")
    return rows


def summary(results: Sequence[Result]) -> str:
    """``15 passed, 1 failed, 2 not applicable``, without what there is none of."""
    counts = Counter(result.outcome for result in results)
    named = [f"{counts[name]} {name}" for name in ("passed", "failed", "not applicable") if counts[name]]
    return listed(named)


def badge(results: Sequence[Result]) -> dict[str, Any]:
    """The outcome in the form of https://shields.io/badges/endpoint-badge."""
    failed = any(result.outcome == "failed" for result in results)
    color = "red" if failed else "brightgreen"
    return {"schemaVersion": 1, "label": "swift conformance", "message": summary(results), "color": color}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
