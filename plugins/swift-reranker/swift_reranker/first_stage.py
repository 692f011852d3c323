"""Candidates for queries: from a run file, by BM25, or from the index of an embedding model.

A reranker orders what a first stage found. Candidates are, for each query id, document ids with the first
stage's scores, best first.
"""

from __future__ import annotations

import importlib
import math
import re
import unicodedata
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import bm25s
import numpy as np

from swift_core.data.faults import Faults
from swift_core.data.jsonlines import decoded, lines_of, read_json_lines
from swift_core.data.values import described
from swift_core.errors import UserError

Candidates = dict[str, list[tuple[str, float]]]

_Line = tuple[str, str, list[tuple[str, float]]]
"""Its place, the query, and documents with scores."""

_EXPECTED = (
    "expected a TREC run (query Q0 document rank score tag), or JSON lines with query_id, doc_id and score, "
    "or with query_id and results (a list of objects with doc_id and score)"
)

# Scripts that put no spaces between words (Han, Kana, Bopomofo; Thai, Lao, Burmese, Khmer without their vowel
# signs), and Hangul, whose words take endings.
_UNSPACED = (
    "\u3005-\u3007\u3021-\u3029\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3105-\u312f\u31a0-\u31bf"
    "\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff"
    "\u0e01-\u0e30\u0e32\u0e33\u0e40-\u0e46\u0e81-\u0eb0\u0eb2\u0eb3\u0ebd-\u0ec6\u0edc-\u0edf"
    "\u1000-\u102a\u103f\u1050-\u1055\u105a-\u105d\u1061\u1065\u1066\u106e-\u1070\u1075-\u1081\u108e"
    "\u1780-\u17b3\u17d7\u17dc"
)
_RUNS = re.compile(rf"([{_UNSPACED}]+)|([^\W_{_UNSPACED}]+)")


def read_run_file(path: Path) -> Candidates:
    """Read what a first stage found.

    Either a TREC run, six columns a line: query, ``Q0``, document, rank, score and tag; of these the second,
    the rank and the tag are not used, as trec_eval does it. Or JSON lines, each with ``query_id``, ``doc_id``
    and ``score``, or with ``query_id`` and ``results``, a list of objects with ``doc_id`` and ``score``. The
    first line tells which. The file may be compressed (``.gz``).

    Returns:
        Candidates by score, largest first; equal scores keep the order of the file.

    Raises:
        UserError: the file is missing, empty or can't be read to its end, or lines can't be used; each is
            named by file and line.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; {_EXPECTED}")
    faults = Faults()
    found: dict[str, dict[str, float]] = {}
    try:
        for place, query, entries in _lines(path, faults):
            documents = found.setdefault(query, {})
            for document, score in entries:
                if document in documents:
                    faults.add(f"{place}: query {query!r} has document {document!r} twice; keep one of them")
                documents[document] = score
    except (OSError, EOFError, zlib.error) as error:
        faults.add(f"{path}: can't be read to its end ({error}); copy or make the file again")
    faults.raise_if_any()
    if not found:
        raise UserError(f"{path}: the file is empty; {_EXPECTED}")
    return {
        query: sorted(documents.items(), key=lambda entry: -entry[1]) for query, documents in found.items()
    }


def bm25_candidates(
    corpus: Mapping[str, str], queries: Mapping[str, str], depth: int, *, k1: float = 1.5, b: float = 0.75
) -> Candidates:
    """Search with BM25 (Robertson et al. 1994, with the idf of Lucene, which is never below 0).

    Words are those of :func:`words_of`; no word is left out or stemmed. A document that shares no word with a
    query is no candidate, so a query may have fewer than ``depth``, or none. Equal scores keep the order of
    the corpus.

    Args:
        corpus: texts by document id.
        queries: texts by query id.
        depth: most candidates of a query.
        k1: how much a word counts that comes again.
        b: how much long documents are marked down, from 0 to 1.
    """
    tokens = [words_of(text) for text in corpus.values()]
    if not any(tokens):
        return {query: [] for query in queries}
    index = bm25s.BM25(k1=k1, b=b, method="lucene")
    index.index(tokens, show_progress=False)
    document_ids = list(corpus)
    found: Candidates = {}
    for query, text in queries.items():
        # The library's own search leaves open which of equal scores it takes.
        scores = index.get_scores_from_ids(index.get_tokens_ids(words_of(text)))  # [N]
        found[query] = [(document_ids[place], float(scores[place])) for place in _best(scores, depth)]
    return found


def bundle_candidates(
    folder: Path, queries: Mapping[str, str], depth: int, *, device: str = "cpu"
) -> Candidates:
    """Search a FAISS bundle that swift-embedding exported, with its model.

    Args:
        folder: the bundle.
        queries: texts by query id.
        depth: most candidates of a query.
        device: ``cpu`` or ``cuda``.

    Raises:
        UserError: swift-embedding is not installed, ``folder`` is no whole bundle, or a query is empty.
    """
    bundle = _embedding_package(folder).load_bundle(folder, device=device)
    hits = bundle.search(list(queries.values()), depth)
    return {
        query: [(hit.id, hit.score) for hit in of_query]
        for query, of_query in zip(queries, hits, strict=True)
    }


def words_of(text: str) -> list[str]:
    """Split a text for BM25: words in small letters; characters and their pairs where no spaces part words.

    Vowel signs and other marks belong to the character before them.

    >>> words_of("The T-cell, in 2024: T细胞吗")
    ['the', 't', 'cell', 'in', '2024', 't', '细', '胞', '吗', '细胞', '胞吗']
    """
    words: list[str] = []
    # NFKC: full-width and half-width forms are the same word.
    text = unicodedata.normalize("NFKC", text).lower()
    patterns = _with_marks()
    # Few texts have marks once they are normalised, and looking for them in each place takes twice as long.
    if patterns.mark.search(text) is None:
        for unspaced, word in _RUNS.findall(text):
            words += _with_pairs(unspaced) if unspaced else [word]
        return words
    for unspaced, word in patterns.runs.findall(text):
        words += _with_pairs(patterns.characters.findall(unspaced)) if unspaced else [word]
    return words


class _Patterns(NamedTuple):
    mark: re.Pattern[str]
    runs: re.Pattern[str]
    characters: re.Pattern[str]


@lru_cache(maxsize=1)
def _with_marks() -> _Patterns:
    r"""Patterns for texts with combining marks, which ``\w`` leaves out."""
    # Selectors only choose between pictures of a character; the joiner stands in words of Sinhala.
    codes = [
        code
        for code in range(0x300, 0x1F000)
        if (unicodedata.category(chr(code)) in ("Mn", "Mc") or code == 0x200D)
        and not 0xFE00 <= code <= 0xFE0F
    ]
    marks = _ranges(codes)
    # Beyond 16 bits a pattern tries one range of a set after another, so the first look takes them as one.
    coarse = _ranges([code for code in codes if code < 0x10000]) + "\U00010000-\U0001efff"
    return _Patterns(
        mark=re.compile(f"[{coarse}]"),
        runs=re.compile(
            rf"([{_UNSPACED}][{_UNSPACED}{marks}]*)|([^\W_{_UNSPACED}]+(?:[{marks}][^\W_{_UNSPACED}]*)*)"
        ),
        characters=re.compile(rf"[{_UNSPACED}][{marks}]*"),
    )


def _ranges(codes: Sequence[int]) -> str:
    """Characters as a set of a pattern names them; neighbours have equal distances to their places."""
    runs = [list(run) for _, run in groupby(enumerate(codes), key=lambda entry: entry[1] - entry[0])]
    return "".join(f"{chr(run[0][1])}-{chr(run[-1][1])}" for run in runs)


def _with_pairs(characters: Sequence[str]) -> list[str]:
    return [*characters, *(a + b for a, b in pairwise(characters))]


def _best(scores: np.ndarray, depth: int) -> Sequence[int]:
    """Places of the ``depth`` largest scores above 0, the largest first, of equal ones the first."""
    places = np.flatnonzero(scores > 0)
    if len(places) > depth:
        least = np.partition(scores[places], -depth)[-depth]
        places = places[scores[places] >= least]
    best: list[int] = places[np.argsort(-scores[places], kind="stable")][:depth].tolist()
    return best


def _embedding_package(folder: Path) -> Any:
    # By its name only when it is asked for: task packages do not depend on each other.
    try:
        return importlib.import_module("swift_embedding")
    except ModuleNotFoundError as error:
        if error.name != "swift_embedding":
            raise
        raise UserError(
            f"{folder}: searching a FAISS bundle takes the package that made it: pip install swift-embedding"
        ) from None


def _lines(path: Path, faults: Faults) -> Iterator[_Line]:
    first = next((raw.strip() for _, raw in lines_of(path) if raw.strip()), b"")
    return _json_lines(path, faults) if first.startswith(b"{") else _trec_lines(path, faults)


def _trec_lines(path: Path, faults: Faults) -> Iterator[_Line]:
    for number, raw in lines_of(path):
        place = f"{path}:{number}"
        cells = (decoded(raw, place, faults) or "").split()
        score = _score(cells[4]) if len(cells) == 6 else None
        if score is not None:
            yield place, cells[0], [(cells[2], score)]
        elif cells:
            faults.add(
                f"{place}: expected six columns (query Q0 document rank score tag) with a finite number for "
                f"score, found {described(' '.join(cells))}"
            )


def _json_lines(path: Path, faults: Faults) -> Iterator[_Line]:
    for place, row in read_json_lines(path, str(path), faults):
        query, results = _id(row.get("query_id")), row.get("results", [row])
        if query is None or not isinstance(results, list):
            faults.add(
                f"{place}: expected query_id, and doc_id and score or a list of results, "
                f"found {described(row)}"
            )
            continue
        entries = []
        for n, result in enumerate(results):
            fields = result if isinstance(result, dict) else {}
            document, score = _id(fields.get("doc_id")), _score(fields.get("score"))
            if document is not None and score is not None:
                entries.append((document, score))
                continue
            where = f"results[{n}]: " if "results" in row else ""
            faults.add(
                f"{place}: {where}expected doc_id, and a finite number for score, found {described(result)}"
            )
        yield place, query, entries


def _id(value: object) -> str | None:
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        return None
    return str(value)


def _score(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
