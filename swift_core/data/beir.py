"""Folders in the layout of BEIR: documents, queries, and which documents answer which query."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swift_core.data.faults import Faults
from swift_core.data.jsonlines import decoded, lines_of, read_json_lines
from swift_core.errors import UserError, listed

Qrels = dict[str, dict[str, int]]
"""Relevance by query id and document id."""


@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """What to search, what to search for, and what should be found.

    Attributes:
        corpus: text by document id.
        queries: text by query id.
        qrels: relevance (0: not relevant) by query id and document id; every query has a relevant document.
    """

    corpus: Mapping[str, str]
    queries: Mapping[str, str]
    qrels: Mapping[str, Mapping[str, int]]


def load_retrieval(folder: Path, split: str) -> Retrieval:
    """Read a folder in the layout of BEIR (Thakur et al. 2021).

    ``corpus.jsonl`` (``_id``, ``text``, perhaps ``title``; title and text are encoded together, as BEIR and
    MTEB do), ``queries.jsonl`` (``_id``, ``text``) and ``qrels/<split>.tsv`` or ``.jsonl`` (``query-id``,
    ``corpus-id``, ``score``). Queries without a relevant document are left out.

    Raises:
        UserError: a file is missing, or lines can't be used; each is named by file and line.
    """
    qrels_path = _find_files(folder, split)
    faults = Faults()
    corpus = _read_texts(folder / "corpus.jsonl", faults)
    queries = _read_texts(folder / "queries.jsonl", faults)
    # An id may be unknown only because its line can't be used.
    known = None if faults.total else (queries, corpus)
    qrels = _read_qrels(qrels_path, known, faults)
    faults.raise_if_any()
    judged = {query: documents for query, documents in qrels.items() if any(documents.values())}
    if not judged:
        raise UserError(f"{qrels_path}: expected a query with a relevant document (score > 0), found none")
    return Retrieval(corpus=corpus, queries={query: queries[query] for query in judged}, qrels=judged)


def read_corpus(path: Path) -> dict[str, str]:
    """Read documents from a jsonl file in the layout of a BEIR ``corpus.jsonl``: texts by id, in its order.

    Raises:
        UserError: the file is missing or empty, or lines can't be used; each is named by file and line.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; expected documents as JSON lines with _id and text")
    faults = Faults()
    corpus = _read_texts(path, faults)
    faults.raise_if_any()
    if not corpus:
        raise UserError(f"{path}: expected documents as JSON lines with _id and text, found none")
    return corpus


def _find_files(folder: Path, split: str) -> Path:
    """The file of judgements of ``split``, after a look whether all three files are there."""
    faults = [
        f"{folder / name}: there is no such file; expected a BEIR folder with corpus.jsonl, "
        f"queries.jsonl and qrels/{split}.tsv or .jsonl"
        for name in ("corpus.jsonl", "queries.jsonl")
        if not (folder / name).is_file()
    ]
    there = [path for path in sorted(folder.glob("qrels/*")) if path.suffix in {".tsv", ".jsonl"}]
    found = [path for path in there if path.stem == split]
    if not found:
        splits = listed(sorted({path.stem for path in there}))
        faults.append(f"{folder / 'qrels'}: there is no {split}.tsv or {split}.jsonl; splits found: {splits}")
    elif len(found) > 1:
        faults.append(f"{folder / 'qrels'}: both {found[0].name} and {found[1].name} are there; remove one")
    if faults:
        raise UserError(*faults)
    return found[0]


def _read_texts(path: Path, faults: Faults) -> dict[str, str]:
    texts: dict[str, str] = {}
    for place, row in read_json_lines(path, str(path), faults):
        name = _id(row.get("_id"))
        title, text = row.get("title") or "", row.get("text")
        if name is None or not isinstance(text, str) or not isinstance(title, str):
            faults.add(f"{place}: expected _id and text, found {_shortly(row)}")
        elif name in texts:
            faults.add(f"{place}: the _id {name!r} was there before; ids must differ")
        else:
            texts[name] = f"{title} {text}".strip()
    return texts


def _read_qrels(path: Path, known: tuple[Collection[str], Collection[str]] | None, faults: Faults) -> Qrels:
    """Relevance by query and document; ids are compared with those ``known``, unless those are incomplete."""
    qrels: Qrels = {}
    rows = _read_tsv(path, faults) if path.suffix == ".tsv" else read_json_lines(path, str(path), faults)
    for place, row in rows:
        query, document = _id(row.get("query-id")), _id(row.get("corpus-id"))
        score = _relevance(row.get("score"))
        if query is None or document is None or score is None:
            faults.add(
                f"{place}: expected query-id, corpus-id and score (0, 1, 2, ...), found {_shortly(row)}"
            )
            continue
        if known is not None and query not in known[0]:
            faults.add(f"{place}: queries.jsonl has no query {query!r}")
        if known is not None and document not in known[1]:
            faults.add(f"{place}: corpus.jsonl has no document {document!r}")
        if qrels.setdefault(query, {}).setdefault(document, score) != score:
            faults.add(f"{place}: query {query!r} and document {document!r} had another score before")
    return qrels


def _read_tsv(path: Path, faults: Faults) -> Iterator[tuple[str, dict[str, Any]]]:
    header: list[str] | None = None
    for number, raw in lines_of(path):
        place = f"{path}:{number}"
        line = (decoded(raw, place, faults) or "").rstrip("\r\n")
        if not line:
            continue
        cells = line.split("\t")
        if header is not None:
            yield place, dict(zip(header, cells, strict=False))
            continue
        header = cells
        if not {"query-id", "corpus-id", "score"} <= set(header):
            faults.add(
                f"{place}: expected a header with query-id, corpus-id, score and tabs, found {_shortly(line)}"
            )
            return


def _id(value: object) -> str | None:
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        return None
    return str(value)


def _relevance(value: object) -> int | None:
    try:
        number = float(value)  # type: ignore[arg-type]  # what float() does not take is the fault we look for
    except (TypeError, ValueError):
        return None
    return int(number) if number >= 0 and number.is_integer() else None


def _shortly(value: object) -> str:
    text = value.strip() if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else f"{text[:100]}..."
