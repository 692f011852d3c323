"""Where the labels file is: named by option, for the whole platform, beside the run file or above it.

Nothing is kept between commands: each reads the file, or the address, anew.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from swift_core.errors import UserError
from swift_core.labels.definitions import Labels
from swift_core.labels.reading import read_labels
from swift_core.runs.redact import without_credentials

FILE_NAME = "labels.toml"
PLATFORM_VARIABLE = "SWIFT_LABELS"
"""Set by the owner of a platform for everybody: it says where the rules are, which is no option of a run."""


def find_labels(
    named: object = None, *, beside: Path | None = None, environment: Mapping[str, str] | None = None
) -> Labels | None:
    """The labels that hold here, or None where there is no labels file.

    Args:
        named: path or https address that the option ``labels`` names; it wins.
        beside: folder to look in, and then in those above it up to the root of the repository; default: the
            working folder.
        environment: where ``SWIFT_LABELS`` is looked up; default: this process's.

    Raises:
        UserError: a file that was named is not there, or what was found can't be read as one.
    """
    platform = (os.environ if environment is None else environment).get(PLATFORM_VARIABLE)
    # Another type is a fault among those of all options.
    if isinstance(named, str) and named:
        also = f", not {PLATFORM_VARIABLE}={_told(platform)}" if platform and platform != named else ""
        return _load(named, f"option labels{also}")
    if platform:
        return _load(platform, PLATFORM_VARIABLE)
    path = _above(beside or Path.cwd())
    return None if path is None else _load(str(path), "found beside or above")


def _above(folder: Path) -> Path | None:
    for candidate in (folder.absolute(), *folder.absolute().parents):
        if (candidate / FILE_NAME).is_file():
            return candidate / FILE_NAME
        # What lies outside of a project was not written for it.
        if (candidate / ".git").exists():
            return None
    return None


def _load(place: str, found_by: str) -> Labels:
    if "://" in place:
        # Only who names an address pays for loading what speaks to it.
        from swift_core.labels.fetching import fetched

        return read_labels(fetched(place, found_by), place=_told(place), found_by=found_by)
    path = Path(place).expanduser()
    try:
        # Not as a text file: its line ends are kept when it is changed.
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{place}: expected a labels file ({found_by}), found none") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{place}: expected UTF-8 text, found byte {error.object[error.start]:#04x}"
        ) from error
    except OSError as error:
        raise UserError(f"{place}: the labels file can't be read ({found_by}): {error.strerror}") from error
    return read_labels(text, place=_shortest(path), found_by=found_by, origin=str(path.absolute()))


def _shortest(path: Path) -> str:
    """A path as people read it: relative where it lies below the working folder."""
    whole = path.absolute()
    return str(whole.relative_to(Path.cwd())) if whole.is_relative_to(Path.cwd()) else str(whole)


def _told(place: str | None) -> str:
    return str(without_credentials(place)) if place else ""
