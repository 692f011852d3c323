"""The labels of a run: which there are, in which order, and what a row's label stands for."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, islice, pairwise
from typing import Any

from swift_cls.options import ClassificationOptions, Problem
from swift_core.errors import UserError, did_you_mean, listed

_SHOWN = 20
_ID = re.compile(r"-?\d+")
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Labels:
    """What a model tells apart.

    Attributes:
        problem: what is learned.
        names: the labels in the order of their ids; none for scores.
        counts: rows of the training data that have each of them; empty where these were not seen.
        rows: how many rows there are in all.
        of_model: the model that a run starts from has a head for just these labels.
    """

    problem: Problem
    names: tuple[str, ...]
    counts: tuple[int, ...] = ()
    rows: int = 0
    of_model: bool = False

    def __len__(self) -> int:
        """Outputs of the head."""
        return len(self.names) or 1

    def may_go_by(self, names: Sequence[str]) -> bool:
        """Whether ``names`` are these labels: by name or, where nobody named these, by their number."""
        # What the library writes where nobody did.
        unnamed = all(name == f"LABEL_{place}" for place, name in enumerate(self.names))
        return self.names == tuple(names) or (unnamed and len(self.names) == len(names))

    def targets(self, value: Any) -> list[float]:
        """What a row's label stands for: one id, the ids of several, or a score.

        Raises:
            ValueError: it is none of the labels, or of another kind than the problem's.
        """
        if self.problem == "regression":
            return [_score(value)]
        if self.problem == "multi_label":
            if not isinstance(value, list):
                raise ValueError(f"label: expected a list of labels (multi_label), found {value!r}")
            ids = sorted(float(self._id(entry)) for entry in value)
            if len(set(ids)) < len(ids):
                raise ValueError(
                    f"label: expected each label once, found {value!r}; vectors of 0 and 1 are not read, "
                    "give the names or ids of the labels that a row has"
                )
            return ids
        if isinstance(value, list):
            raise ValueError(f"label: expected one label (single_label), found the list {value!r}")
        return [float(self._id(value))]

    def place_of_name(self, value: Any) -> int | None:
        """The place of the name that a label is spelled like, or equals as a number; None: there is none.

        Raises:
            ValueError: it is neither a text nor a whole number.
        """
        name = _name(value)
        # As it is spelled first: "1.0" may be a name, and goes by "1" where it is none.
        return self._places.get(str(value).strip(), self._places.get(name))

    def spelled(self, value: Any) -> str:
        """A label as the names have it, or as it goes by where it is none of them."""
        place = self.place_of_name(value)
        return _name(value) if place is None else self.names[place]

    @cached_property
    def _places(self) -> dict[str, int]:
        """Names to their places: as they are spelled and, behind that, "1.0" as "1"."""
        # Backwards, for the first one of a name that is there twice.
        spelled = {name: place for place, name in reversed([*enumerate(self.names)])}
        return {**{_plain(name): place for name, place in spelled.items()}, **spelled}

    @cached_property
    def takes_ids(self) -> bool:
        """Whether a whole number may be an id; not where numbers are names, "1.0" too."""
        return not any(_ID.fullmatch(name) for name in self._places)

    def _id(self, value: Any) -> int:
        place = self.place_of_name(value)
        if place is not None:
            return place
        name = _name(value)
        # Ids beside names that are given, as numbers or as the texts that a csv file has.
        if _ID.fullmatch(name) and self.takes_ids:
            if 0 <= int(name) < len(self.names):
                return int(name)
            raise ValueError(f"label: expected {self._expected()}, found the id {name}")
        raise ValueError(
            f"label: expected {self._expected()}, found {name!r}.{did_you_mean(name, self.names)}"
        )

    def _expected(self) -> str:
        ids = f" (ids 0 to {len(self.names) - 1})" if len(self.names) > 1 and self.takes_ids else ""
        return f"one of the {len(self.names)} labels {listed(self.names[:_SHOWN])}{ids}"


def learn_labels(
    values: Sequence[Any],
    options: ClassificationOptions,
    known: Labels | None,
    place: Callable[[int], str] = "row {}".format,
    declared: tuple[str, ...] = (),
) -> Labels:
    """The labels of a run from those of its training rows.

    Args:
        values: the label of each row, as the data has it.
        options: of the run.
        known: what the model that the run starts from tells apart, where it says so.
        place: what an error calls a row, counted from 0.
        declared: the labels that the data set itself names, which its rows have by name.

    Raises:
        UserError: labels contradict each other or the options; all faults, with the labels found.
    """
    problem = options.problem or problem_of(values, are_names=bool(declared))
    _check_kinds(values, problem, place)
    if options.problem is None and options.label_names is None and not declared:
        _refuse_doubtful(values)
    if problem == "regression":
        if options.label_names is not None or options.num_labels not in (None, 1):
            raise UserError("label_names, num_labels: scores (regression) have no labels; leave them out")
        return Labels(problem=problem, names=(), of_model=known is not None and known.problem == problem)
    flat = [entry for value in values for entry in (value if isinstance(value, list) else [value])]
    found = Counter(_name(value) for value in flat)
    names, of_model = _names(flat, found, options, known, problem, declared)
    labels = Labels(problem=problem, names=names, of_model=of_model)
    found = Counter(labels.spelled(value) for value in flat)  # told as the names have them
    counts = _counts(labels, values, found)
    faults = _faults(labels, counts, options, found, declared)
    if faults:
        raise UserError(*faults)
    return replace(labels, counts=tuple(counts), rows=len(values))


def _names(
    flat: Sequence[Any],
    found: Counter[str],
    options: ClassificationOptions,
    known: Labels | None,
    problem: Problem,
    declared: tuple[str, ...],
) -> tuple[tuple[str, ...], bool]:
    usable = known if known is not None and known.problem == problem else None
    if options.label_names is not None:
        names = tuple(map(str, options.label_names))
        return names, usable is not None and usable.may_go_by(names)
    if usable is not None and flat and _knows(usable, flat, found):
        return usable.names, True
    if declared:
        return declared, usable is not None and usable.may_go_by(declared)
    if all(_ID.fullmatch(name) for name in found):
        return tuple(sorted(found, key=int)), False
    if all(isinstance(value, bool) for value in flat):
        return ("false", "true"), False
    return tuple(sorted(found)), False


def _knows(known: Labels, flat: Sequence[Any], found: Counter[str]) -> bool:
    """Whether labels are names of a model's, or just the ids that it has."""
    ids = known.takes_ids and found.keys() == {str(place) for place in range(len(known.names))}
    return ids or all(known.place_of_name(value) is not None for value in flat)


def _counts(labels: Labels, values: Sequence[Any], found: Counter[str]) -> list[int]:
    counts = [0] * len(labels.names)
    unknown: dict[str, int] = {}
    for value in values:
        try:
            targets = labels.targets(value)
        except ValueError as error:
            unknown[str(error)] = unknown.get(str(error), 0) + 1
            continue
        for target in targets:
            counts[int(target)] += 1
    if unknown:
        rows = [f"label_names: {fault} in {count} rows" for fault, count in unknown.items()]
        raise UserError(*rows[:_SHOWN], _found(found))
    return counts


def _faults(
    labels: Labels,
    counts: Sequence[int],
    options: ClassificationOptions,
    found: Counter[str],
    declared: tuple[str, ...],
) -> list[str]:
    """What about the labels as a whole is wrong, with those found behind it."""
    faults, names = [], labels.names
    if len(set(names)) != len(names):
        faults.append(f"label_names: a name appears twice in {listed(names)}")
    if options.label_names is None and not declared and all(_ID.fullmatch(name) for name in names):
        faults += _id_faults([int(name) for name in names])
    if options.num_labels is not None and options.num_labels != len(names):
        faults.append(f"num_labels: expected {options.num_labels} labels, found {len(names)}")
    if labels.problem == "multi_label" and not names:
        faults.append("label: expected at least one label in some row, found none")
    if labels.problem == "single_label" and len(names) < 2:
        faults.append("label: expected at least 2 different labels, found " + (names[0] if names else "none"))
    missing = [name for name, count in zip(names, counts, strict=True) if count == 0]
    if missing and not labels.of_model:
        which = "remove them" if names != declared else "give the others, which the data set names too"
        faults.append(f"label_names: no training row has {listed(missing[:_SHOWN])}; {which}, or add rows")
    return [*faults, _found(found)] if faults else []


def look_alikes(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Names that differ in nothing that is seen: case, width, or characters without a glyph."""
    alike: dict[str, list[str]] = {}
    for name in names:
        seen = unicodedata.normalize("NFKC", name).casefold()
        seen = "".join(c for c in seen if unicodedata.category(c) not in ("Cf", "Cc", "Zs"))
        alike.setdefault(seen, []).append(name)
    return [tuple(group) for group in alike.values() if len(group) > 1]


def _id_faults(ids: list[int]) -> list[str]:
    if ids and ids[0] < 0:
        return [f"label: expected ids from 0 on, found the negative id {ids[0]}"]
    gaps = (range(before + 1, after) for before, after in pairwise(sorted(ids)))
    # No more than are told: between two numbers of a shop there may be millions.
    if missing := [str(n) for n in islice(chain.from_iterable(gaps), _SHOWN)]:
        return [
            f"label: no training row has the ids {listed(missing)}; "
            "ids go from 0 up; if the numbers are names, give them as label_names, if they are scores set "
            "problem=regression"
        ]
    return []


def _found(found: Counter[str]) -> str:
    shown = [f"{name} ({count:,})" for name, count in sorted(found.items())[:_SHOWN]]
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return f"labels found (rows): {', '.join(shown) or 'none'}{more}"


def problem_of(values: Iterable[Any], *, are_names: bool = False) -> Problem:
    """What is learned from these labels where nobody says it; numbers are no scores if they ``are_names``."""
    values = list(values)
    lists = sum(isinstance(value, list) for value in values)
    # One list among many names is told as what is wrong, and so is one name among many lists.
    if lists and lists * 2 >= len(values):
        return "multi_label"
    if are_names:
        return "single_label"
    # A csv file has numbers as texts.
    numbers = [_number(value) for value in values]
    fractions = any(number is not None and not number.is_integer() for number in numbers)
    return "regression" if fractions and (None not in numbers or _has_floats(values)) else "single_label"


def _refuse_doubtful(values: Sequence[Any]) -> None:
    """Refuse a column of scores, or of ids, in which something else stands here and there.

    Raises:
        UserError: most values are numbers, with a fraction somewhere, or one is a negative id, and others
            are none.
    """
    others = Counter(str(value) for value in values if not isinstance(value, list) and _number(value) is None)
    numbers = [number for value in values if (number := _number(value)) is not None]
    shown = listed([f"{name!r} ({count:,} rows)" for name, count in others.most_common(_SHOWN)])
    faults = []
    if others and any(not number.is_integer() for number in numbers) and len(numbers) > len(values) / 2:
        faults.append(
            f"label: expected scores, as most are, found {shown} among them; remove those rows, or set "
            "problem=single_label where the numbers are names"
        )
    if others and any(number < 0 and number.is_integer() for number in numbers):
        faults.append(
            f"label: found the negative id {min(numbers):.0f} beside names such as {shown}; remove those "
            "rows, or set label_names where it is a name"
        )
    if faults:
        raise UserError(*faults)


def _has_floats(values: Iterable[Any]) -> bool:
    return any(isinstance(value, float) for value in values)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not (isinstance(value, int | float) or _NUMBER.fullmatch(str(value))):
        return None
    return float(value)


def _check_kinds(values: Sequence[Any], problem: Problem, place: Callable[[int], str]) -> None:
    """Refuse values that can't be labels of this problem, each kind of fault once with its first row."""
    faults: dict[str, int] = {}
    for row, value in enumerate(values):
        try:
            _check_kind(value, problem)
        except ValueError as error:
            faults.setdefault(str(error), row)
    told = [f"{place(row)}: {fault}" for fault, row in faults.items()]
    # Longer vectors repeat an entry, which is refused where rows are read.
    if [1, 0] in values and all(value in ([0, 1], [1, 0]) for value in values):
        told.append(
            "label: expected the labels that each row has, found vectors of 0 and 1, [0, 1] and [1, 0] "
            "alone; as ids these are both labels in each row, so give [1] for [0, 1] and [0] for [1, 0]"
        )
    if told:
        raise UserError(*told[:_SHOWN])


def _check_kind(value: Any, problem: Problem) -> None:
    if problem == "regression":
        _score(value)
        return
    if isinstance(value, list) != (problem == "multi_label"):
        expected = "a list of labels" if problem == "multi_label" else "one label"
        raise ValueError(f"label: expected {expected} (problem={problem}), found {value!r}")
    for entry in value if isinstance(value, list) else [value]:
        _name(entry)


def _name(value: Any) -> str:
    """The name that a label goes by.

    Raises:
        ValueError: it is neither a text nor a whole number.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and value.strip():
        return _plain(value)
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return str(int(value))
    raise ValueError(f"label: expected a name or an id, found {value!r}")


def _plain(text: str) -> str:
    """A text without space around it; "1.0" is how a csv file may write the id 1."""
    number = _number(text)
    whole = number is not None and "." in text and number.is_integer()
    return str(int(number)) if whole and number is not None else text.strip()


def _score(value: Any) -> float:
    try:
        score = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError):
        score = math.nan
    if not math.isfinite(score):
        raise ValueError(f"label: expected a number (regression), found {value!r}")
    return score
