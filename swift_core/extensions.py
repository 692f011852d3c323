"""Extensions that a run file asks for: ``extensions: {name: {options}}``, found as entry points.

Like a task type, an extension is looked at in three levels: metadata, its :class:`ExtensionSpec` and options
(no torch), and its implementation when a run starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from swift_core.errors import PluginError, UserError, did_you_mean, listed
from swift_core.options import find_faults, options_of
from swift_core.registry import (
    EXTENSION_GROUP,
    Claim,
    conflict_of,
    disabled_fault,
    find_claims,
    load_entry,
    load_object,
)
from swift_core.spec import ExtensionSpec

if TYPE_CHECKING:
    from swift_core.arguments import TrainingArguments


def find_extension(name: str) -> Claim:
    """The one claim that ``name`` (an extension, or ``package:extension``) stands for.

    Raises:
        UserError: no installed package provides it, or several do.
    """
    claims = find_claims(EXTENSION_GROUP)
    fitting = [claim for claim in claims if claim.is_called(name)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise UserError(str(conflict_of(fitting[0], fitting)))
    if disabled := disabled_fault(name, EXTENSION_GROUP):
        raise UserError(disabled)
    known = sorted({claim.name for claim in claims})
    raise UserError(
        f"no installed package provides the extension '{name}'.{did_you_mean(name, known)} "
        f"Installed extensions: {listed(known)}"
    )


def load_extension_spec(claim: Claim) -> ExtensionSpec:
    """Import what an extension says about itself.

    Raises:
        PluginError: it can't be imported, or is something else.
    """
    found = load_entry(claim, f"package {claim.package} {claim.version}, extension '{claim.name}'")
    who = f"package {claim.package} {claim.version}"
    if not isinstance(found, ExtensionSpec):
        raise PluginError(
            f"{who}: {claim.entry_point.value} is a {type(found).__name__}, "
            "expected a swift_core.ExtensionSpec"
        )
    if found.name != claim.name:
        raise PluginError(
            f"{who}: the extension calls itself '{found.name}'; give it and its entry point the same name"
        )
    return found


def extension_faults(asked: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """All that is wrong with ``asked``, the option ``extensions`` of a run; no implementation is loaded."""
    faults = []
    for name, given in asked.items():
        try:
            _options(name, given)
        except UserError as error:
            faults += [f"extensions: {fault}" for fault in error.faults]
    return faults


def _options(name: str, given: Mapping[str, Any]) -> tuple[Claim, ExtensionSpec, Any]:
    claim = find_extension(name)
    spec = load_extension_spec(claim)
    options_class = load_object(spec.options, claim) if spec.options else None
    known = options_of(options_class, "extension") if options_class else {}
    faults = find_faults(given, known)
    if faults:
        raise UserError(*(f"{name}: {fault}" for fault in faults.values()))
    try:
        return claim, spec, options_class(**given) if options_class else None
    except (TypeError, ValueError) as error:
        raise UserError(f"{name}: {error}") from error


def load_extensions(args: TrainingArguments) -> list[object]:
    """Build what a run asks for, in the order in which it is written.

    Raises:
        UserError: an extension is not installed, can't be imported, or refuses its options.
    """
    built = []
    for name, given in args.core.extensions.items():
        claim, spec, options = _options(name, given)
        factory = load_object(spec.implementation, claim)
        built.append(factory(options) if spec.options else factory())
    return built


def extension_packages(args: TrainingArguments) -> list[str]:
    """The distributions that the extensions of a run come from, for its record."""
    return [find_extension(name).package for name in args.core.extensions]
