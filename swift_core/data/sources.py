"""What the options ``dataset`` and ``eval_dataset`` may name, turned into inputs to read."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets

from swift_core.data import locations
from swift_core.data.class_names import names_in, with_class_ids
from swift_core.data.faults import Faults
from swift_core.data.hub import load_folder, load_hub
from swift_core.data.jsonlines import read_json, read_json_lines
from swift_core.data.layouts import load_function
from swift_core.data.locations import KNOWN_SUFFIXES, UnreadableError
from swift_core.data.rows import Digest, Input, Row, hash_row
from swift_core.data.tables import ROWS_AT_ONCE, read_delimited, read_parquet, rows_of
from swift_core.data.values import described
from swift_core.errors import UserError
from swift_core.spec import FolderLayout, TaskSpec

ACCEPTED = (
    "expected a path or a list of paths (jsonl, json, csv, tsv, parquet; local or URL), a folder, a hub id, "
    "a datasets.Dataset, or a list of mappings"
)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[\w.-]{1,96})?")


@dataclass(frozen=True)
class Source:
    """Where data came from, for the run's record.

    Attributes:
        name: path, URL without credentials, hub id with split, or ``train_dataset`` for data in memory.
        sha256: of the bytes of a file, or of the rows of anything else.
        rows: how many rows it gave.
        layout: the form that its rows had, where it is not the task's first.
    """

    name: str
    sha256: str
    rows: int
    layout: str | None = None


def find_inputs(dataset: Any, *, name: str, split: str, config: str | None, spec: TaskSpec) -> list[Input]:
    """List what to read for the value of a ``dataset`` option; nothing is read yet.

    Raises:
        UserError: the value is of a kind that is not supported.
    """
    option = f"{name}_dataset"
    if isinstance(dataset, str | Path):
        return [_input_at(dataset, split, config, spec)]
    if isinstance(dataset, datasets.Dataset):
        return [_input_of_dataset(dataset, option)]
    if isinstance(dataset, list | tuple):
        if dataset and all(isinstance(entry, str | Path) for entry in dataset):
            return [_input_at(entry, split, config, spec) for entry in dataset]
        if not any(isinstance(entry, str | Path) for entry in dataset):
            return [Input(option, partial(_read_rows, dataset, option))]
        raise UserError(f"{option}: {ACCEPTED}; found a list that mixes paths and other things")
    if isinstance(dataset, datasets.IterableDataset | datasets.IterableDatasetDict):
        raise UserError(f"{option}: streaming is not supported yet; {ACCEPTED}")
    if isinstance(dataset, datasets.DatasetDict):
        splits = ", ".join(dataset)
        raise UserError(f"{option}: found several splits ({splits}); give one, such as dataset['train']")
    raise UserError(f"{option}: {ACCEPTED}; found {described(dataset)}")


def _input_at(given: str | Path, split: str, config: str | None, spec: TaskSpec) -> Input:
    location = str(given)
    if locations.is_url(location):
        return _file_input(location)
    path = locations.local_path(location)
    there = locations.exists(path)
    if there and path.is_dir():
        for layout in spec.folders:
            if all((path / name).exists() for name in layout.files):
                return _folder_input(path, location, layout, split, spec)
        return _split_input(location, split, partial(load_folder, location, config, split))
    may_be_hub = isinstance(given, str) and not there and locations.data_suffix(location) is None
    if may_be_hub and _HUB_ID.fullmatch(location):
        return _split_input(location, split, partial(load_hub, location, config, split))
    return _file_input(location)


def _folder_input(path: Path, location: str, layout: FolderLayout, split: str, spec: TaskSpec) -> Input:
    def read(digest: Digest, faults: Faults) -> Iterator[Row]:
        for place, row in load_function(layout.read, spec)(path, split, faults):
            hash_row(row, digest)
            yield place, row

    return Input(f"{location}[{split}]", read, layout=layout.name)


def _file_input(location: str) -> Input:
    untyped = locations.data_suffix(location) in (".csv", ".tsv")
    return Input(locations.shown(location), partial(_read_file, location), untyped=untyped)


def _read_file(location: str, digest: Digest, faults: Faults) -> Iterator[Row]:
    name = locations.shown(location)
    suffix = locations.data_suffix(location)
    path = locations.local_path(location)
    if suffix is None:
        lost = not locations.is_url(location) and not locations.exists(path)
        known = f"unknown kind of file; known are {', '.join(KNOWN_SUFFIXES)}, all but parquet also as .gz"
        faults.add(locations.missing(path, location) if lost else f"{name}: {known}")
        return
    try:
        with locations.local_copy(location, digest) as copy:
            yield from _rows_of_file(copy, suffix, name, faults)
    except UnreadableError as error:
        faults.add(str(error))
    except (OSError, EOFError, zlib.error) as error:
        faults.add(f"{name}: can't be read to its end ({error})")


def _rows_of_file(path: Path, suffix: str, name: str, faults: Faults) -> Iterator[Row]:
    match suffix:
        case ".jsonl":
            return read_json_lines(path, name, faults)
        case ".json":
            return read_json(path, name, faults)
        case ".parquet":
            return read_parquet(path, name, faults)
        case _:
            return read_delimited(path, name, faults, delimiter="\t" if suffix == ".tsv" else ",")


def _split_input(location: str, split: str, load: Callable[[], datasets.Dataset]) -> Input:
    name = f"{location}[{split}]"
    return Input(name, partial(_read_loaded, load, name))


def _read_loaded(
    load: Callable[[], datasets.Dataset], name: str, digest: Digest, faults: Faults
) -> Iterator[Row]:
    try:
        loaded = load()
    except UnreadableError as error:
        faults.add(str(error))
        return
    for number, row in enumerate(_rows_of_dataset(loaded, digest), start=1):
        hash_row(row, digest)
        yield f"{name} row {number}", row


def _input_of_dataset(dataset: datasets.Dataset, option: str) -> Input:
    if dataset.format["type"] == "custom":
        raise UserError(
            f"{option}: the data set has a transform, but rows are read only once; apply it with map()"
        )
    return Input(option, partial(_read_dataset, dataset, option))


def _read_dataset(dataset: datasets.Dataset, option: str, digest: Digest, faults: Faults) -> Iterator[Row]:
    return _read_rows(_rows_of_dataset(dataset, digest), option, digest, faults)


def _rows_of_dataset(dataset: datasets.Dataset, digest: Digest) -> Iterator[Mapping[str, Any]]:
    # As Arrow: images and sounds in columns that no task reads are not decoded.
    rows = rows_of(dataset.with_format("arrow").iter(batch_size=ROWS_AT_ONCE))
    names = names_in(dataset.features)
    if names:
        hash_row(names, digest)
    return with_class_ids(rows, names) if names else rows


def _read_rows(
    rows: Sequence[Any] | Iterator[Any], option: str, digest: Digest, faults: Faults
) -> Iterator[Row]:
    for number, row in enumerate(rows, start=1):
        where = f"row {number} of {option}"
        if isinstance(row, Mapping):
            hash_row(row, digest)
            yield where, row
        else:
            faults.add(f"{where}: expected a mapping from column names to values, found {described(row)}")
