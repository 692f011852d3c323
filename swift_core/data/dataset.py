"""The data of a run: checked rows, where they came from, and their tokens once encoded."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import datasets

from swift_core.data.checks import RowChecker
from swift_core.data.faults import Faults
from swift_core.data.gathering import gathered
from swift_core.data.places import Places
from swift_core.data.records import features_of, write_table
from swift_core.data.rows import Input
from swift_core.data.sources import Source, find_inputs
from swift_core.errors import PluginError, UserError
from swift_core.spec import TaskSpec

if TYPE_CHECKING:
    from swift_core.data.lengths import LengthStats


@dataclass(frozen=True)
class TaskData:
    """Training or evaluation data.

    Attributes:
        name: ``train`` or ``eval``.
        records: the checked rows with only the task's columns; None where an optional one is absent.
        sources: what was read.
        fingerprint: SHA-256 over the content of the sources, the mapping of columns, the split, and the name
            of what gathered the rows.
        gathered: what was done with the rows that the sources gave, told by the task, if it was anything.
        features: what the collator's ``encode`` made of each row; None before
            :func:`~swift_core.data.encoding.encode_data`.
        stats: lengths of the encoded rows, set together with ``features``.
        class_names: by column of the layout that the rows had, the classes that the data set names (a
            ``datasets.ClassLabel``), in the order of its ids; ``records`` have the names.
        places: where each row was found; None where the task made other rows of them.
        left_out: numbers, from 1, of the rows that the collator left out when it encoded them, by the reason
            that it gave; ``records`` and ``features`` are without them.
    """

    name: str
    records: datasets.Dataset
    sources: tuple[Source, ...]
    fingerprint: str
    gathered: str | None = None
    features: datasets.Dataset | None = None
    stats: LengthStats | None = None
    left_out: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    places: Places | None = field(default=None, repr=False, compare=False)

    def place(self, row: int) -> str:
        """What an error calls a row, counted from 0: ``train.jsonl:17``, or its number."""
        if self.places is not None:
            return self.places[row]
        return f"{self.name} {'row' if self.gathered is None else 'gathered row'} {row + 1}"

    @property
    def summary(self) -> dict[str, Any]:
        """What the record of a run says about this data."""
        told: dict[str, Any] = {} if self.gathered is None else {"gathered": self.gathered}
        if self.left_out:
            told["left_out"] = {why: len(rows) for why, rows in self.left_out.items()}
        return {
            "name": self.name,
            "rows": len(self.records),
            "fingerprint": self.fingerprint,
            "sources": [asdict(source) for source in self.sources],
            **told,
        }


def load_data(
    dataset: Any, *, name: str, spec: TaskSpec, columns: Mapping[str, str], split: str, config: str | None
) -> TaskData:
    """Read and check all rows that ``dataset`` names; every row is kept or told as a fault.

    Args:
        dataset: one of the forms that ``swift_core.data.sources`` lists.
        name: ``train`` or ``eval``.
        spec: the task whose columns the rows must have.
        columns: names in the data for columns of the task.
        split: split of a hub data set or folder.
        config: configuration of a hub data set.

    Raises:
        RefusedRows: the data can't be read or a row breaks a rule; the first 20 faults of all inputs.
        UserError: what ``dataset`` names is no data.
        PluginError: the task declares no columns, or what should gather its rows does not keep the contract.
    """
    if not spec.columns:
        raise PluginError(f"task type '{spec.name}' declares no columns, so there is nothing to read")
    faults = Faults()
    inputs = find_inputs(dataset, name=name, split=split, config=config, spec=spec)
    reading = _Reading(RowChecker(spec, columns, faults), faults, spec)
    features = features_of(spec.columns)
    table = write_table(reading.rows(inputs), features)
    reading.checker.end(name)
    identity = [[source.sha256 for source in reading.sources], sorted(columns.items()), split]
    fingerprint = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    records = datasets.Dataset(table, datasets.DatasetInfo(features=features), fingerprint=fingerprint)
    data = TaskData(
        name,
        records,
        tuple(reading.sources),
        fingerprint,
        class_names={column: tuple(names) for column, names in reading.checker.class_names.items() if names},
        places=reading.places,
    )
    if faults.total:
        raise RefusedRows(faults, data)
    return gathered(data, spec)


class RefusedRows(UserError):
    """Faults of data, with the rows of it that have none.

    Attributes:
        sound: those rows.
    """

    def __init__(self, faults: Faults, sound: TaskData) -> None:
        told = faults.error()
        super().__init__(*told.faults, total=told.total)
        self.sound = sound


class _Reading:
    """One pass over all inputs: yields the rows without a fault, and looks for the faults of the others."""

    def __init__(self, checker: RowChecker, faults: Faults, spec: TaskSpec) -> None:
        self.checker = checker
        self.faults = faults
        self.sources: list[Source] = []
        self.places = Places()
        self._numbered = [column.name for column in spec.columns if column.type == "source"]

    def rows(self, inputs: list[Input]) -> Iterator[dict[str, Any]]:
        for entry in inputs:
            digest = hashlib.sha256()
            faults_before, rows = self.faults.total, 0
            for where, row in entry.read(digest, self.faults):
                rows += 1
                own, told = entry.layout is not None, self.faults.total
                values = self.checker.check(where, row, untyped=entry.untyped, own_names=own)
                if self.faults.total == told:
                    self.places.add(where)
                    yield {**values, **dict.fromkeys(self._numbered, len(self.sources))}
            if not rows and self.faults.total == faults_before:
                self.faults.add(f"{entry.name}: there are no rows in it")
            layout = self.checker.end_input(entry.name, rows)
            self.sources.append(Source(entry.name, digest.hexdigest(), rows, entry.layout or layout))


def split_off(
    data: TaskData, share: float, seed: int, strata: str | None = None, together: str | None = None
) -> tuple[TaskData, TaskData]:
    """Hold out ``share`` of the rows, drawn with ``seed``, for evaluation; call it before encoding.

    Both parts keep the order of the rows and have at least one of them. With ``strata`` each value of that
    column has its share in both, and a value that only one row has stays in the training data. With
    ``together`` rows with the same value of that column stay together.

    Returns:
        What is left for training, and what is held out.

    Raises:
        UserError: there are fewer than two rows, or they can't be parted.
        ValueError: ``share`` is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise ValueError(f"share={share}: expected a number between 0 and 1")
    rows = len(data.records)
    if rows < 2:
        raise UserError(f"eval_split: needs at least 2 rows to divide, found {rows} in the {data.name} data")
    # Only random() is promised to give the same numbers in every version of Python; shuffle() is not.
    draw = random.Random(seed)
    order = sorted(range(rows), key=lambda _: draw.random())
    held = min(max(round(rows * share), 1), rows - 1)
    if together is not None:
        chosen = _whole_groups(order, data.records[together], held, together)
    else:
        chosen = set(order[:held]) if strata is None else _in_strata(order, data.records[strata], held)
    parts = (("train", sorted(set(order) - chosen)), ("eval", sorted(chosen)))
    drawn = " ".join([repr(share), str(seed), *(name for name in (strata, together) if name)])
    train, evaluation = (_part(data, name, chosen, drawn) for name, chosen in parts)
    return train, evaluation


def _whole_groups(order: list[int], values: Sequence[Any], held: int, column: str) -> set[int]:
    """At least ``held`` rows: all of each value, in the order in which the values come in ``order``."""
    rows_of: dict[Any, list[int]] = {}
    for row in order:
        value = values[row]
        # What a column of type any holds may not be hashable.
        key = value if isinstance(value, str | None) else json.dumps(value, sort_keys=True)
        rows_of.setdefault(key, []).append(row)
    if len(rows_of) < 2:
        raise UserError(f"eval_split: needs at least 2 different values of {column}, found one in all rows")
    chosen: set[int] = set()
    for rows in list(rows_of.values())[:-1]:
        if len(chosen) >= held:
            break
        chosen.update(rows)
    return chosen


def _in_strata(order: list[int], values: Sequence[Any], held: int) -> set[int]:
    """``held`` rows, taken at equal steps from the rows of ``order`` sorted by value.

    A list counts as the rarest thing in it. Rows that are the only ones of their value are left out, unless
    nothing else is there. Numbers that are scores, since one has a fraction or most are there once, have no
    strata.
    """
    counts = Counter(
        str(part) for value in values for part in (value if isinstance(value, list) else [value])
    )
    keys = [
        min(map(str, value), key=lambda part: (counts[part], part), default="")
        if isinstance(value, list)
        else str(value)
        for value in values
    ]
    sizes = Counter(keys)
    usable = sorted((row for row in order if sizes[keys[row]] > 1), key=lambda row: keys[row])  # stable
    if _are_scores(values, most_once=len(usable) < len(order) / 2):
        return set(order[:held])
    # Half of them at most, so that no value is held out whole.
    held = min(held, len(usable) // 2)
    if held == 0:
        return set(order[:1])
    return {row for n, row in enumerate(usable) if n * held // len(usable) != (n + 1) * held // len(usable)}


def _are_scores(values: Sequence[Any], *, most_once: bool) -> bool:
    try:
        # A csv file has numbers as texts.
        numbers = [float(value) for value in values]
    except (TypeError, ValueError):
        return any(isinstance(value, float) and not value.is_integer() for value in values)
    return most_once or not all(number.is_integer() for number in numbers)


def _part(data: TaskData, name: str, chosen: list[int], draw: str) -> TaskData:
    fingerprint = hashlib.sha256(f"{data.fingerprint} {draw} {name}".encode()).hexdigest()
    records = data.records.select(chosen, new_fingerprint=fingerprint)
    places = data.places and data.places.select(chosen)
    return replace(
        data, name=name, records=records, fingerprint=fingerprint, features=None, stats=None, places=places
    )
