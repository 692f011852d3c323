"""Which releases of swift-core an installed package was made for: its own ``Requires-Dist``, read again here.

pip looks at it once, when the package is installed. It is not looked at when swift-core is replaced later by
another tool, with ``--no-deps`` or from a checkout, and then hooks fail in odd places, or worse, don't.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import Distribution
from typing import TYPE_CHECKING

from swift_core import __version__

if TYPE_CHECKING:
    from packaging.specifiers import Specifier

CORE = "swift-core"


def core_window(distribution: Distribution | None) -> str | None:
    """The versions of swift-core that ``distribution`` asks for, such as ``>=0.1,<0.3``.

    None where it asks for none, or its metadata can't be read.
    """
    asked = _asked(distribution)
    if asked is None:
        return None
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        bounds = sorted(Requirement(asked).specifier, key=lambda bound: bound.version)
    except InvalidRequirement:
        return asked
    return ",".join(str(bound) for bound in bounds) or None


def core_misfit(distribution: Distribution | None, installed: str = __version__) -> str | None:
    """Why ``distribution`` can't be used with the swift-core that is ``installed``; None when it can."""
    asked = _asked(distribution)
    if asked is None:
        return None
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        specifier = Requirement(asked).specifier
    except InvalidRequirement:
        return f"its metadata asks for '{asked}', which is no requirement; install another release of it"
    if all(_holds(bound, installed) for bound in specifier):
        return None
    return (
        f"it needs {CORE} {core_window(distribution)}, installed is {installed}; "
        "install a release of it, or of swift-core, that fits"
    )


def _holds(bound: Specifier, installed: str) -> bool:
    """Whether a bound takes a version; one that comes before a release counts as the release.

    Somebody who runs 0.2.0rc1 or 0.2.0.dev1 tries the packages made for 0.2, which ``>=0.2`` would refuse by
    PEP 440; those made for ``<0.2`` are refused, as by PEP 440. A bound that itself names a version before a
    release means it.
    """
    from packaging.version import Version

    version = Version(installed)
    if version.is_prerelease and bound.operator != "===":
        named = Version(bound.version.removesuffix(".*"))
        version = version if named.is_prerelease else Version(version.base_version)
    return bound.contains(version, prereleases=True)


def _asked(distribution: Distribution | None) -> str | None:
    try:
        requires: Iterable[str] = (distribution.requires if distribution else None) or ()
        found = [text for text in requires if _is_core(text)]
    except Exception:  # whatever the parsers of metadata say of what they find
        return None
    if len(found) > 1 and not any(";" in text for text in found):
        # Bounds may stand in lines of their own; all of them hold.
        return CORE + ",".join(bounds for text in found if (bounds := text[len(CORE) :].strip()))
    return found[0] if found else None


def _is_core(requirement: str) -> bool:
    """Whether a line of Requires-Dist is about swift-core, and holds without extras in this environment."""
    if not requirement.lower().replace("_", "-").replace(".", "-").startswith(CORE):
        # packaging takes a while to import: only those who depend on us need it.
        return False
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    try:
        parsed = Requirement(requirement)
    except InvalidRequirement:
        return requirement[len(CORE) :].lstrip()[:1] in tuple("=<>!~(")
    applies = parsed.marker is None or parsed.marker.evaluate({"extra": ""})
    return canonicalize_name(parsed.name) == CORE and applies
