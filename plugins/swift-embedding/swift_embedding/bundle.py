"""The FAISS bundle: model, index, ids and texts in one folder that can be searched."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import faiss
import numpy as np

from swift_core.errors import UserError
from swift_core.runs.atomic import replaced_folder
from swift_core.runs.stored import sole_taker
from swift_embedding import bundle_files as files
from swift_embedding.documents import Documents, check_documents, write_documents
from swift_embedding.encoding import TextEncoder
from swift_embedding.golden import GOLDEN_QUERIES, check_golden, read_golden, write_golden
from swift_embedding.index import (
    TunedIndex,
    add_vectors,
    check_index,
    missed_target,
    open_index,
    tune,
    write_index,
)
from swift_embedding.recall import RECALL_AT, ExactHits, choose_queries
from swift_embedding.st_folder import check_st_folder, load_encoder, write_st_folder

_PROBES = 8
_ENCODED_AT_ONCE = 16_384


@dataclass(frozen=True)
class Hit:
    """One document that was found.

    Attributes:
        id: the document's id.
        text: the document.
        score: inner product of its vector and the query's; the cosine where vectors are normalised. An index
            that stores fewer bits gives it as exactly as these tell.
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
        documents: id and text, in the order of the index; read from the disk when asked for.
        folder: where it was loaded from.
        mmap: see :func:`load_bundle`.
        device: see :func:`load_bundle`.
    """

    manifest: dict[str, Any]
    encoder: TextEncoder
    index: Any
    documents: Sequence[tuple[str, str]]
    folder: Path
    mmap: bool = False
    device: str = "cpu"

    @overload
    def search(self, query: str, k: int = 10) -> list[Hit]: ...
    @overload
    def search(self, query: list[str], k: int = 10) -> list[list[Hit]]: ...
    def search(self, query: str | list[str], k: int = 10) -> list[Hit] | list[list[Hit]]:
        """Find the ``k`` documents that are closest to ``query``.

        Fewer where there are fewer, or where an index of clusters looked at no more.

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

    def add(self, documents: Sequence[tuple[str, str]], *, progress: bool = False) -> Bundle:
        """Encode further documents, and put the larger bundle in the place of the one on the disk.

        Recall is measured again, exactly, and search parameters are raised where it fell. Files are written
        beside the bundle and take its place at the end: a crash leaves the old one. This object stays as it
        is. The index is read anew for it, so it does not matter how this bundle was loaded.

        Args:
            documents: ids and texts; the ids are new.
            progress: show a bar where a person is watching.

        Returns:
            The larger bundle.

        Raises:
            UserError: see :func:`write_bundle`; an id is in the bundle; the bundle on the disk was changed
                since; or the index, trained for fewer documents, misses its target with them.
        """
        self._check_unchanged()
        with sole_taker(self.folder):
            # Another process may have added while this one waited.
            self._check_unchanged()
            files.verify_files(self.folder, self.manifest["files"])
            check_documents(documents, self.documents)
            vectors = self.encoder.encode_documents([text for _, text in documents], progress)  # [N, D]
            exact = ExactHits.load(self.folder / files.RECALL).with_more(vectors, len(self.documents))
            with replaced_folder(self.folder) as fresh:
                manifest = self._write_larger(fresh, documents, vectors, exact)
        return _open(self.folder, manifest, self.encoder, mmap=self.mmap, device=self.device)

    def _check_unchanged(self) -> None:
        if files.read_manifest(self.folder) != self.manifest:
            raise UserError(f"{self.folder}: it was changed after it was loaded; load it again before adding")

    def _write_larger(
        self, fresh: Path, documents: Sequence[tuple[str, str]], vectors: np.ndarray, exact: ExactHits
    ) -> dict[str, Any]:
        files.copy_model(self.folder, fresh)
        write_documents(fresh, documents, before=self.folder)
        factory, target = self.manifest["index"], self.manifest["recall"]["target"]
        index = faiss.read_index(str(self.folder / files.INDEX))
        add_vectors(index, vectors, factory)
        faiss.write_index(index, str(fresh / files.INDEX))
        del index
        index = faiss.read_index(str(fresh / files.INDEX))
        parameters, recall = tune(index, exact, target)
        if recall < target:
            raise UserError(
                missed_target(factory, parameters, recall, target),
                f"{self.folder}: it was trained for {len(self.documents):,} documents; export all anew",
            )
        tuned = TunedIndex(index=index, factory=factory, parameters=parameters, recall=recall)
        golden = [row["query"] for row in read_golden(self.folder)]
        details = _write_answers(fresh, self.encoder, tuned, exact, golden)
        details["recall"] = {**self.manifest["recall"], **details["recall"]}
        return files.write_manifest(fresh, self.manifest, details)

    def _hits(self, places: list[int], scores: list[float]) -> list[Hit]:
        # faiss fills up with -1 where it found fewer.
        found = [(place, score) for place, score in zip(places, scores, strict=True) if place >= 0]
        return [
            Hit(*self.documents[place], score, rank) for rank, (place, score) in enumerate(found, start=1)
        ]


def write_bundle(
    folder: Path,
    *,
    encoder: TextEncoder,
    documents: Sequence[tuple[str, str]],
    queries: Sequence[str | None] = (),
    index: str = "auto",
    target_recall: float = 0.95,
    progress: bool = False,
) -> dict[str, Any]:
    """Encode ``documents`` and write a bundle.

    The vectors wait in a file without a name in ``folder`` and never all in memory, unless the index does.

    Args:
        folder: an empty folder.
        encoder: the trained model and how its vectors are made.
        documents: ids and texts.
        queries: real queries, to measure recall with; see :func:`swift_embedding.recall.choose_queries`.
        index: ``auto``, ``int8``, ``binary`` or a faiss factory string, see :mod:`swift_embedding.index`.
        target_recall: recall@10 against exact search that the index must reach.
        progress: show a bar where a person is watching.

    Returns:
        Details for ``manifest.json``.

    Raises:
        UserError: there are no documents, an id appears twice, a text is empty, or the index asked for can't
            be made or misses the target.
        SwiftError: what was written does not give the vectors of the model in memory.
    """
    check_documents(documents)
    encoder = replace(encoder, share_batches=False)
    probes = [text for _, text in documents[:_PROBES]]
    shape = (len(documents), encoder.encode_documents(probes).shape[1])
    check_index(index, *shape, target_recall)
    written = _write_model(folder / files.MODEL, encoder, probes)
    chosen = choose_queries(queries, documents)
    with tempfile.TemporaryFile(dir=folder) as file:
        vectors = np.memmap(file, dtype=np.float32, mode="w+", shape=shape)  # [N, D]
        for start in range(0, len(documents), _ENCODED_AT_ONCE):
            texts = [text for _, text in documents[start : start + _ENCODED_AT_ONCE]]
            vectors[start : start + len(texts)] = encoder.encode_documents(texts, progress)
        exact = ExactHits.of(written.encode_queries(chosen.texts), chosen.own, vectors)
        tuned = write_index(folder / files.INDEX, vectors, exact, index=index, target_recall=target_recall)
        del vectors
    write_documents(folder, documents)
    details = _write_answers(folder, written, tuned, exact, chosen.texts[:GOLDEN_QUERIES])
    details["recall"].update(target=target_recall, queries=len(chosen.texts), queries_from=chosen.source)
    return {
        "dimension": shape[1],
        "metric": "cosine" if encoder.normalize_embeddings else "inner_product",
        "normalized": encoder.normalize_embeddings,
        "pooling_method": encoder.pooling_method,
        "prompts": encoder.prompts,
        "max_length": encoder.max_length,
        **details,
        "faiss": faiss.__version__,
    }


def load_bundle(
    path: str | Path, *, verify: bool = True, check: bool = True, mmap: bool = False, device: str = "cpu"
) -> Bundle:
    """Load a bundle with plain transformers: no network, no pickle, no remote code.

    Args:
        path: the bundle's folder.
        verify: compare every file with its SHA-256 in ``manifest.json`` first.
        check: search for the golden queries and compare with the golden hits, see
            :func:`swift_embedding.golden.check_golden`.
        mmap: leave the index on the disk and read what a search looks at, for one that is larger than memory
            or shared by processes.
        device: ``cpu`` or ``cuda``, of the model; with ``cuda`` the index moves too where faiss-gpu is there
            and knows its kind.

    Raises:
        UserError: the folder holds no bundle, a file is missing or was changed, or the bundle does not find
            its golden hits.
    """
    folder = Path(path)
    manifest = files.read_manifest(folder)
    if verify:
        files.verify_files(folder, manifest["files"])
    encoder = load_encoder(folder / files.MODEL, device=device)
    bundle = _open(folder, manifest, encoder, mmap=mmap, device=device)
    if check:
        golden = read_golden(folder)
        found = bundle.search([row["query"] for row in golden], RECALL_AT)
        check_golden(folder, golden, found, next(encoder.model.parameters()).dtype)
    return bundle


def _write_model(folder: Path, encoder: TextEncoder, probes: Sequence[str]) -> TextEncoder:
    """Write the model; returns it as it was read again."""
    write_st_folder(folder, encoder)
    check_st_folder(folder, encoder, probes)
    weight = next(encoder.model.parameters())
    return load_encoder(folder, dtype=weight.dtype, device=weight.device)


def _open(folder: Path, manifest: dict[str, Any], encoder: TextEncoder, *, mmap: bool, device: str) -> Bundle:
    documents = Documents(folder)
    index = open_index(folder / files.INDEX, manifest["search_parameters"], mmap=mmap, device=device)
    if index.ntotal != len(documents):
        raise UserError(f"{folder}: the index has {index.ntotal:,} vectors for {len(documents):,} documents")
    return Bundle(
        manifest=manifest,
        encoder=encoder,
        index=index,
        documents=documents,
        folder=folder,
        mmap=mmap,
        device=device,
    )


def _write_answers(
    folder: Path, encoder: TextEncoder, tuned: TunedIndex, exact: ExactHits, golden: Sequence[str]
) -> dict[str, Any]:
    """Write the queries of recall and the golden ones; returns what the manifest says about the index."""
    exact.save(folder / files.RECALL)
    documents = Documents(folder)
    bundle = Bundle(manifest={}, encoder=encoder, index=tuned.index, documents=documents, folder=folder)
    write_golden(folder, golden, bundle.search(list(golden), RECALL_AT))
    return {
        "documents": len(documents),
        "index": tuned.factory,
        "index_bytes": (folder / files.INDEX).stat().st_size,
        "search_parameters": tuned.parameters,
        "recall": {f"recall@{RECALL_AT}": round(tuned.recall, 4)},
    }
