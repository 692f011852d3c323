"""The names of a new package: what they must look like, and that nobody has them."""

from __future__ import annotations

import importlib.util
import keyword
import re
import sys
from dataclasses import dataclass

from swift_core.errors import UserError
from swift_core.registry import EXTENSION_GROUP, OUR_PACKAGES, TASK_GROUP, find_claims
from swift_core.spec import TASK_NAME

# https://packaging.python.org/en/latest/specifications/name-normalization/
_PACKAGE_NAME = re.compile(r"[A-Z0-9]|[A-Z0-9][A-Z0-9._-]*[A-Z0-9]", re.IGNORECASE)
_LONGEST = 40


@dataclass(frozen=True)
class Names:
    """What a new package is called.

    Attributes:
        name: of the task type or extension.
        package: of the distribution.
        module: what is imported.
        camel: how its classes start.
        group: the group of its entry point.
    """

    name: str
    package: str
    module: str
    camel: str
    group: str


def names_of(name: str, package: str | None, *, extension: bool) -> Names:
    """Check the names for a new package.

    Args:
        name: of the task type or extension.
        package: of the distribution; None for ``swift-`` and the name.
        extension: which of the two it is.

    Raises:
        UserError: all that is wrong with them.
    """
    group = EXTENSION_GROUP if extension else TASK_GROUP
    named = package is not None
    package = f"swift-{name}" if package is None else package
    module = re.sub(r"[._-]+", "_", package).lower()
    faults = _name_faults(name, group)
    if named or not faults:  # what follows from a wrong name is not told twice
        faults += _package_faults(package, module)
    if faults:
        raise UserError(*faults)
    return Names(name, package, module, "".join(word.capitalize() for word in name.split("-")), group)


def _name_faults(name: str, group: str) -> list[str]:
    if not TASK_NAME.fullmatch(name) or len(name) > _LONGEST:
        return [
            f"NAME: expected lower-case words joined by '-', such as 'legal-ner', of {_LONGEST} letters at "
            f"most, found {name!r}"
        ]
    if group == TASK_GROUP and name in OUR_PACKAGES:
        return [f"NAME: '{name}' belongs to {OUR_PACKAGES[name]}; choose another, or write --extends {name}"]
    taken = [claim.package for claim in find_claims(group) if claim.name == name]
    return [f"NAME: the installed package {taken[0]} provides '{name}'; choose another"] if taken else []


def _package_faults(package: str, module: str) -> list[str]:
    if not _PACKAGE_NAME.fullmatch(package) or len(package) > _LONGEST + len("swift-"):
        return [
            "--package: expected some letters, digits, '-', '_' and '.', the first and the last of them a "
            f"letter or a digit, found {package!r}"
        ]
    if not module.isidentifier() or keyword.iskeyword(module):
        return [f"--package: '{package}' makes the module '{module}', which Python can't import; rename it"]
    if module in sys.stdlib_module_names or importlib.util.find_spec(module) is not None:
        return [f"--package: a module '{module}' can be imported already; choose another name"]
    return []
