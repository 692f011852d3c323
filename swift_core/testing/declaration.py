"""Checks of what a task type says about itself. None of them imports torch in this process."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from typing import Any

from swift_core.errors import PluginError, UserError, first_line
from swift_core.options import Option
from swift_core.registry import load_object
from swift_core.testing.comparing import shown
from swift_core.testing.outcomes import ConformanceError, NotApplicable
from swift_core.testing.subject import Subject

_HEAVY = ("torch", "transformers")
_LOOK = """
import json, sys
from swift_core.registry import find_task, load_object, load_spec
claim = find_task(sys.argv[1])
spec = load_spec(claim)
paths = [spec.options, spec.gather, *(l.convert for l in spec.layouts), *(f.read for f in spec.folders)]
for path in filter(None, paths):
    load_object(path, claim)
print(json.dumps([name for name in sys.argv[2:] if name in sys.modules]))
"""


def spec_imports_no_torch(subject: Subject) -> None:
    """The spec, the options and the layouts are read in a process of their own."""
    done = subprocess.run(
        [sys.executable, "-c", _LOOK, subject.task_type, *_HEAVY],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ConformanceError(
            expected="a spec that can be imported",
            found=first_line(ValueError(done.stderr.strip().split("\n")[-1])),
            remedy="import it in a fresh process to see where it fails",
        )
    heavy = json.loads(done.stdout.splitlines()[-1])
    if heavy:
        raise ConformanceError(
            expected="spec, options and layouts that import neither torch nor transformers",
            found=f"{' and '.join(heavy)} imported",
            remedy="name what needs them by a dotted path, and import it in the module with the hooks",
        )


def hooks_are_complete(subject: Subject) -> None:
    """All five hooks are there, with arguments that exist."""
    from swift_core.runtime import Runtime

    try:
        Runtime(subject.claim)
    except PluginError as error:
        raise ConformanceError(
            expected="five hooks that keep the contract",
            found="; ".join(error.faults),
            remedy="mend each of them as the message says",
        ) from error


def options_are_documented_and_typed(subject: Subject) -> None:
    """Every option has a help text, a type and a default of that type; columns and metrics have meanings."""
    from swift_core.arguments import known_options, task_options

    try:
        known_options(subject.claim)
        own = task_options(subject.claim, subject.spec)
    except PluginError as error:
        raise ConformanceError(
            expected="options of the task's own, in a dataclass",
            found="; ".join(error.faults),
            remedy="see `The options` in the docs",
        ) from error
    required = _required(subject)
    faults = [f for o in own.values() for f in _option_faults(o, required=o.name in required)]
    faults += _silent(subject)
    others = known_options(subject.claim).keys() - own.keys()
    faults += [f"unused_options: no option '{n}'" for n in subject.spec.unused_options if n not in others]
    if faults:
        raise ConformanceError(
            expected="a help text, a type and a fitting default for each option, a meaning for the rest",
            found=shown(faults, most=10),
            remedy="write `name: int = option(3, help='One sentence.')`",
        )


def _required(subject: Subject) -> set[str]:
    if subject.spec.options is None:
        return set()
    fields = dataclasses.fields(load_object(subject.spec.options, subject.claim))
    missing = dataclasses.MISSING
    return {f.name for f in fields if f.default is missing and f.default_factory is missing}


def _option_faults(option: Option, *, required: bool) -> list[str]:
    faults = []
    if len(option.help.split()) < 2:
        faults.append(f"option {option.name} has no help text")
    if option.annotation in (Any, object) or option.type_text == "a value":
        faults.append(f"option {option.name} takes any value")
    elif not required and (fault := option.fault(option.default)):
        faults.append(f"the default of option {fault}")
    return faults


def _silent(subject: Subject) -> list[str]:
    spec = subject.spec
    columns = [*spec.columns, *(c for layout in spec.layouts for c in layout.columns)]
    said = {
        "summary": spec.summary,
        **{f"column {column.name}": column.meaning for column in columns},
        **{f"metric {metric.name}": metric.meaning for metric in spec.metrics},
        **{f"export {entry.name}": entry.meaning for entry in spec.exports},
    }
    return [f"{name} says nothing" for name, text in said.items() if not text.strip()]


def typos_are_refused(subject: Subject) -> None:
    """An option with a letter too few, and one with two letters exchanged, is refused with a suggestion."""
    from swift_core.arguments import TrainingArguments, known_options, task_options

    own = task_options(subject.claim, subject.spec)
    if not own:
        raise NotApplicable("the task has no options of its own")
    known = known_options(subject.claim)
    for option in own.values():
        for typo in _typos(option.name):
            if typo in known:
                found = f"an option '{typo}' beside '{option.name}'"
            else:
                told = _told(TrainingArguments, subject, typo, option.default_json)
                if f"Did you mean '{option.name}'" in told:
                    continue
                found = f"'{typo}' answered with: {told or 'nothing'}"
            raise ConformanceError(
                expected=f"'{typo}' refused, and '{option.name}' suggested",
                found=found,
                remedy="rename one of the two options that differ by so little",
            )


def _typos(name: str) -> list[str]:
    middle = len(name) // 2
    swapped = f"{name[: middle - 1]}{name[middle]}{name[middle - 1]}{name[middle + 1 :]}"
    return list(dict.fromkeys(t for t in (name[:-1], swapped) if t != name and len(name) > 3))


def _told(arguments: type, subject: Subject, name: str, value: Any) -> str:
    try:
        arguments(subject.task_type, **{**subject.options, name: value})
    except UserError as error:
        return str(error)
    return ""
