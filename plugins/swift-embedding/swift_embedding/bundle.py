"""The FAISS bundle: model, index, ids and texts in one folder that can be searched."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import faiss
import numpy as np

from swift_core.errors import SwiftError, UserError, listed
from swift_embedding.encoding import TextEncoder
from swift_embedding.retrieval import search
from swift_embedding.st_folder import check_st_folder, load_encoder, write_st_folder

_PROBES = 8
_NEEDED = ("model/config.json", "index.faiss", "documents.jsonl")


@dataclass(frozen=True)
class Hit:
    """One document that was found.

    Attributes:
        id: the document's id.
        text: the document.
        score: inner product of its vector and the query's; the cosine where vectors are normalised.
        rank: 1 for the best.
    """

    id: str
    text: str
    score: float
    rank: int


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A loaded bundle.

    Attributes:
        manifest: what ``manifest.json`` holds.
        encoder: turns texts into the vectors of this index.
        index: the FAISS index.
        documents: id and text, in the order of the index.
    """

    manifest: dict[str, Any]
    encoder: TextEncoder
    index: Any
    documents: Sequence[tuple[str, str]]

    @overload
    def search(self, query: str, k: int = 10) -> list[Hit]: ...
    @overload
    def search(self, query: list[str], k: int = 10) -> list[list[Hit]]: ...
    def search(self, query: str | list[str], k: int = 10) -> list[Hit] | list[list[Hit]]:
        """Find the ``k`` documents (all, where there are fewer) that are closest to ``query``.

        Returns:
            Hits, best first; for a list of queries one such list for each.

        Raises:
            UserError: ``k`` is below 1, or a query is empty.
        """
        if k < 1:
            raise UserError(f"k: expected 1 or more, found {k}")
        queries = [query] if isinstance(query, str) else query
        empty = [place for place, text in enumerate(queries) if not text.strip()]
        if empty:
            where = "it is empty" if isinstance(query, str) else f"number {empty[0]} of the list is empty"
            raise UserError(f"query: expected a text to search for, but {where}")
        if not queries:
            return []
        vectors = self.encoder.encode_queries(queries)  # [Q, D]
        scores, places = self.index.search(vectors, min(k, self.index.ntotal))  # [Q, K]
        hits = [self._hits(*found) for found in zip(places.tolist(), scores.tolist(), strict=True)]
        return hits[0] if isinstance(query, str) else hits

    def _hits(self, places: list[int], scores: list[float]) -> list[Hit]:
        pairs = enumerate(zip(places, scores, strict=True), start=1)
        return [Hit(*self.documents[place], score, rank) for rank, (place, score) in pairs]


def write_bundle(
    folder: Path, *, encoder: TextEncoder, documents: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """Encode ``documents`` and write a bundle: ``model/``, ``index.faiss`` and ``documents.jsonl``.

    Args:
        folder: an empty folder.
        encoder: the trained model and how its vectors are made.
        documents: ids and texts.

    Returns:
        Details for ``manifest.json``.

    Raises:
        UserError: there are no documents, an id appears twice, or a text is empty.
        SwiftError: what was written does not give the vectors of the model in memory.
    """
    _check_documents(documents)
    encoder = replace(encoder, share_batches=False)
    prompts = {"query": encoder.query_prompt, "document": encoder.document_prompt}
    write_st_folder(
        folder / "model",
        model=encoder.model,
        tokenizer=encoder.tokenizer,
        pooling_method=encoder.pooling_method,
        normalize=encoder.normalize_embeddings,
        max_length=encoder.max_length,
        prompts=prompts,
    )
    check_st_folder(folder / "model", encoder, [text for _, text in documents[:_PROBES]])
    vectors = encoder.encode_documents([text for _, text in documents])  # [N, D]
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    faiss.write_index(index, str(folder / "index.faiss"))
    with (folder / "documents.jsonl").open("w", encoding="utf-8", newline="\n") as file:
        for name, text in documents:
            file.write(json.dumps({"id": name, "text": text}, ensure_ascii=False) + "\n")
    _check_index(folder / "index.faiss", vectors)
    return {
        "dimension": vectors.shape[1],
        "metric": "cosine" if encoder.normalize_embeddings else "inner_product",
        "normalized": encoder.normalize_embeddings,
        "pooling_method": encoder.pooling_method,
        "prompts": prompts,
        "max_length": encoder.max_length,
        "documents": len(documents),
        "index": "Flat",
        "faiss": faiss.__version__,
    }


def load_bundle(path: str | Path, *, verify: bool = True) -> Bundle:
    """Load a bundle with plain transformers: no network, no pickle, no remote code.

    Args:
        path: the bundle's folder.
        verify: compare every file with its SHA-256 in ``manifest.json`` first.

    Raises:
        UserError: the folder holds no bundle, or a file is missing or was changed.
    """
    folder = Path(path)
    manifest = _read_manifest(folder)
    if verify:
        _verify_files(folder, manifest["files"])
    lines = (folder / "documents.jsonl").read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line]
    index = faiss.read_index(str(folder / "index.faiss"))
    if index.ntotal != len(rows):
        raise UserError(f"{folder}: the index has {index.ntotal:,} vectors for {len(rows):,} documents")
    return Bundle(
        manifest=manifest,
        encoder=load_encoder(folder / "model"),
        index=index,
        documents=[(row["id"], row["text"]) for row in rows],
    )


def _check_documents(documents: Sequence[tuple[str, str]]) -> None:
    if not documents:
        raise UserError("documents: expected at least one to put into the index, found none")
    faults = []
    twice = [name for name, count in Counter(name for name, _ in documents).items() if count > 1]
    if twice:
        faults.append(f"documents: ids must differ; {len(twice)} appear more than once: {listed(twice[:5])}")
    empty = [name for name, text in documents if not text.strip()]
    if empty:
        faults.append(f"documents: {len(empty)} have no text, such as {listed(empty[:5])}; leave them out")
    if faults:
        raise UserError(*faults)


def _check_index(path: Path, vectors: np.ndarray) -> None:
    """Reload the index and compare it with exact inner products; ``vectors`` [N, D] are the documents'."""
    index = faiss.read_index(str(path))
    if not np.array_equal(index.reconstruct_n(0, index.ntotal), vectors):
        raise SwiftError(f"{path}: reloaded, it holds other vectors than were written; it must not be used")
    probes = vectors[:_PROBES]
    expected, _ = search(probes, vectors, 10)  # [Q, K]
    found, _ = index.search(probes, expected.shape[1])  # [Q, K]
    # Sums in another order differ by rounding; places are not compared, because equal documents may swap.
    if not np.allclose(found, expected, rtol=1e-4, atol=1e-5):
        raise SwiftError(f"{path}: it finds other documents than an exact search does; it must not be used")


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        kind, files = manifest["format"], manifest["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: expected the manifest of an export (faiss), found "
            f"{'no such file' if isinstance(error, OSError) else 'something else'}; name the folder "
            "exports/faiss of a run"
        ) from error
    if kind != "faiss":
        raise UserError(f"{path}: expected an export in the format faiss, found {kind!r}; export with faiss")
    unlisted = [name for name in _NEEDED if name not in files]
    if unlisted:
        raise UserError(f"{path}: files: expected a SHA-256 of {listed(unlisted)} too; export again")
    return dict(manifest)


def _verify_files(folder: Path, files: dict[str, str]) -> None:
    faults = []
    for name, expected in sorted(files.items()):
        path = folder / name
        if not path.is_file():
            faults.append(f"{path}: manifest.json lists this file, but it is gone; copy the bundle again")
            continue
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != expected:
            faults.append(
                f"{path}: it was changed after the export (SHA-256 {found[:12]}..., manifest.json has "
                f"{expected[:12]}...); copy the bundle again, or load it with verify=False if you changed it"
            )
    if faults:
        raise UserError(*faults)
