"""Templates filled and written as a whole package, or not at all."""

from __future__ import annotations

import contextlib
import string
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from swift_core.errors import UserError
from swift_core.runs.atomic import TEMPORARY, replaced_folder

_SUFFIX = ".tmpl"


class _Template(string.Template):
    """Python and YAML use ``$``; nothing here uses ``@@``."""

    delimiter = "@@"


def write_package(target: Path, templates: Sequence[str], values: Mapping[str, str]) -> list[str]:
    """Fill the folders of ``templates``, later ones over earlier ones, and put all at ``target`` at once.

    Args:
        target: a folder that does not exist, or is empty.
        templates: folders of ``swift_core/new/templates``, or files in them with the name to write.
        values: what stands for each name.

    Returns:
        The files that were written, by their paths in the package.

    Raises:
        UserError: something is there already, or the disk refuses.
    """
    place = target.expanduser().resolve()
    written = {}
    for name in templates:
        for path, text in _texts(files("swift_core.new") / "templates" / name, values["module"]):
            written[path] = _Template(text).substitute(values)
    try:
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            raise UserError(f"{target}: there is something already; remove it, or name another --folder")
        with _filled(place) if place.exists() else replaced_folder(place) as folder:
            for path, text in written.items():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"--folder: expected a folder that can be written to, found {target}: {error.strerror or error}; "
            "name another, or change its permissions"
        ) from error
    return sorted(written)


@contextlib.contextmanager
def _filled(place: Path) -> Iterator[Path]:
    """A folder whose content comes into ``place``, which is empty and stays the folder that it is.

    A shell may stand in it (``--folder .``), and would be left in a folder that is gone.
    """
    with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=place) as name:
        folder = Path(name)
        yield folder
        moved: list[Path] = []
        try:
            for entry in sorted(folder.iterdir()):
                moved.append(entry.rename(place / entry.name))
        except BaseException:
            for entry in moved:
                entry.rename(folder / entry.name)
            raise


def _texts(folder: Traversable, module: str, inside: str = "") -> Iterator[tuple[str, str]]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        name = entry.name.replace("dot_", ".", 1) if entry.name.startswith("dot_") else entry.name
        if entry.is_dir():
            yield from _texts(entry, module, f"{inside}{module if name == 'module' else name}/")
        elif name.endswith(_SUFFIX):
            yield f"{inside}{name.removesuffix(_SUFFIX)}", entry.read_text(encoding="utf-8")
