"""Evaluation texts that are in the training data too, equal or nearly so."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from swift_core.data.dataset import TaskData

_NEAR = 0.8
_GRAM = 5
_CHUNK = 256
_MOST_CHARACTERS = 5_000_000
"""Beyond so many only equal texts are looked for: near ones would take longer than a user waits."""
_CHARACTERS = 5_000
"""Of a long text so much is compared."""
_SHOWN = 3


@dataclass(frozen=True)
class Duplicate:
    """An evaluation row and the training row that is most like it.

    Attributes:
        similarity: Jaccard index of their 5-grams of characters; 1 for equal texts.
        equal: whether they are, but for case, space and punctuation.
    """

    evaluation_row: int
    training_row: int
    similarity: float
    equal: bool


def find_duplicates(train: Sequence[str], evaluation: Sequence[str]) -> list[Duplicate]:
    """Rows of ``evaluation`` with a training text that is equal, or alike by at least 0.8.

    Texts are compared in lower case, without space and punctuation. Likeness is the Jaccard index of their
    sets of 5-grams of characters (Broder 1997), computed exactly, of long texts those of beginning and end;
    with more than 5 million characters only equal ones are found.
    """
    own, others = [normalised(text) for text in evaluation], [normalised(text) for text in train]
    place = {text: row for row, text in reversed(list(enumerate(others)))}
    found = [Duplicate(row, place[text], 1.0, True) for row, text in enumerate(own) if text and text in place]
    if not near_are_sought(train, evaluation):
        return found
    own_ends, others_ends = list(map(_ends, own)), list(map(_ends, others))
    equal = {duplicate.evaluation_row for duplicate in found}
    rest = [row for row, text in enumerate(own) if row not in equal and len(text) >= _GRAM]
    found += [
        Duplicate(rest[row], other, likeness, False)
        for row, other, likeness in _near([own_ends[n] for n in rest], others_ends)
    ]
    return sorted(found, key=lambda duplicate: duplicate.evaluation_row)


def near_are_sought(train: Sequence[str], evaluation: Sequence[str]) -> bool:
    """Whether there are few enough characters for it."""
    return sum(min(len(text), _CHARACTERS) for text in (*train, *evaluation)) <= _MOST_CHARACTERS


def _near(own: Sequence[str], others: Sequence[str]) -> list[tuple[int, int, float]]:
    from sklearn.feature_extraction.text import HashingVectorizer

    if not own or not others:
        return []
    grams = HashingVectorizer(
        analyzer="char", ngram_range=(_GRAM, _GRAM), n_features=2**20, binary=True, norm=None, lowercase=False
    )
    left, right = grams.transform(own).astype(np.float32), grams.transform(others).astype(np.float32)
    left.data[:], right.data[:] = 1.0, 1.0  # signs of the hash
    sizes = np.asarray(right.sum(1)).ravel()  # [N]
    found = []
    for start in range(0, left.shape[0], _CHUNK):
        part = left[start : start + _CHUNK]
        shared = (part @ right.T).tocsr()
        size = np.asarray(part.sum(1)).ravel()
        for row in range(part.shape[0]):
            begin, end = shared.indptr[row], shared.indptr[row + 1]
            if begin == end:
                continue
            columns, both = shared.indices[begin:end], shared.data[begin:end]
            likeness = both / (size[row] + sizes[columns] - both)
            best = int(likeness.argmax())
            if likeness[best] >= _NEAR:
                found.append((start + row, int(columns[best]), float(likeness[best])))
    return found


def _ends(text: str) -> str:
    # Not the beginning alone: documents may share that, and pairs their first text.
    return text if len(text) <= _CHARACTERS else text[: _CHARACTERS // 2] + text[-_CHARACTERS // 2 :]


def normalised(text: str) -> str:
    """``text`` in lower case, without space and punctuation."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    # Marks are vowels in many scripts; symbols tell "C++" from "C", and may be all of a text.
    return "".join(letter for letter in folded if letter.isalnum() or unicodedata.category(letter)[0] in "MS")


def tell_duplicates(train: TaskData, evaluation: TaskData) -> None:
    """Say in a few lines which evaluation rows are in the training data too."""
    first, second = _texts(train.records), _texts(evaluation.records)
    found = find_duplicates(first, second)
    sought = near_are_sought(first, second)
    if not sought:
        print(
            "overlap   only equal texts are looked for, near copies where there are up to "
            f"{_MOST_CHARACTERS:,} characters",
            flush=True,
        )
    if not found:
        return
    equal = sum(duplicate.equal for duplicate in found)
    nearly = f", {len(found) - equal:,} nearly" if sought else ""
    print(
        f"overlap   {len(found):,} of {len(second):,} evaluation texts are in the training data too "
        f"({equal:,} equal{nearly}): figures on them say little"
    )
    labels = train.records["label"], evaluation.records["label"]
    for entry in found[:_SHOWN]:
        agree = "" if labels[0][entry.training_row] == labels[1][entry.evaluation_row] else ", other label"
        text = second[entry.evaluation_row][:60]
        print(
            f"          evaluation row {entry.evaluation_row + 1} = training row {entry.training_row + 1} "
            f"({entry.similarity:.2f}{agree}): {text!r}",
            flush=True,
        )


def _texts(records: Any) -> list[str]:
    return [_text(record) for record in records]


def _text(record: Mapping[str, Any]) -> str:
    if record["messages"] is not None:
        spoken = [message.get("content") for message in record["messages"] if isinstance(message, Mapping)]
        return "\n".join(map(str, spoken))
    return "\n".join(filter(None, (record["text"], record["text_pair"])))
