"""Ids and texts of a bundle, read from the disk one at a time."""

from __future__ import annotations

import json
import os
import shutil
import weakref
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import overload

import numpy as np

from swift_core.errors import UserError, listed

LINES = "documents.jsonl"
OFFSETS = "documents.offsets.npy"


class Documents(Sequence[tuple[str, str]]):
    """Id and text of every document in the order of the index; a corpus of any size takes no memory.

    Raises:
        UserError: the two files do not fit each other.
    """

    def __init__(self, folder: Path) -> None:
        self._offsets = np.load(folder / OFFSETS, allow_pickle=False)  # [N + 1]
        # Read and not mapped: a mapped file that somebody cuts kills the process.
        self._lines = os.open(folder / LINES, os.O_RDONLY)
        weakref.finalize(self, os.close, self._lines)
        size = os.fstat(self._lines).st_size
        if size != self._offsets[-1]:
            raise UserError(
                f"{folder / LINES}: {size:,} bytes, but {OFFSETS} tells of {self._offsets[-1]:,}; copy the "
                "bundle again"
            )

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, place: int) -> tuple[str, str]: ...
    @overload
    def __getitem__(self, place: slice) -> list[tuple[str, str]]: ...
    def __getitem__(self, place: int | slice) -> tuple[str, str] | list[tuple[str, str]]:
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(len(self)))]
        number = range(len(self))[place]
        start, end = self._offsets[number : number + 2].tolist()
        row = json.loads(os.pread(self._lines, end - start, start))
        return row["id"], row["text"]


def write_documents(
    folder: Path, documents: Iterable[tuple[str, str]], *, before: Path | None = None
) -> None:
    """Write ``documents.jsonl`` and where each of its lines begins.

    Args:
        folder: where to.
        documents: ids and texts.
        before: a folder whose documents come first.
    """
    offsets = [0]
    if before is not None:
        shutil.copyfile(before / LINES, folder / LINES)
        offsets = np.load(before / OFFSETS, allow_pickle=False).tolist()
    with (folder / LINES).open("ab") as file:
        for name, text in documents:
            line = json.dumps({"id": name, "text": text}, ensure_ascii=False) + "\n"
            offsets.append(offsets[-1] + file.write(line.encode("utf-8")))
    np.save(folder / OFFSETS, np.array(offsets, dtype=np.int64))


def check_documents(documents: Sequence[tuple[str, str]], known: Iterable[tuple[str, str]] = ()) -> None:
    """Refuse what can't be told apart or found.

    Args:
        documents: ids and texts.
        known: those of the bundle that they join.

    Raises:
        UserError: there are none, an id appears twice or is known, or a text is empty.
    """
    if not documents:
        raise UserError("documents: expected at least one to put into the index, found none")
    faults = []
    names = Counter(name for name, _ in documents)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        faults.append(f"documents: ids must differ; {len(twice)} appear more than once: {listed(twice[:5])}")
    old = [name for name, _ in known if name in names]
    if old:
        faults.append(f"documents: ids must be new; {len(old)} are in the bundle: {listed(old[:5])}")
    empty = [name for name, text in documents if not text.strip()]
    if empty:
        faults.append(f"documents: {len(empty)} have no text, such as {listed(empty[:5])}; leave them out")
    if faults:
        raise UserError(*faults)
