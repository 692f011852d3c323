"""The FAISS bundle: written, checked, loaded without a network, searched."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from swift_core.errors import SwiftError, UserError
from swift_embedding import bundle_files, load_bundle
from swift_embedding.bundle import Bundle, Hit, write_bundle
from swift_embedding.documents import Documents, write_documents
from swift_embedding.encoding import TextEncoder
from swift_embedding.golden import GoldenQuery, check_golden

TOPICS = ("bread and salt", "the password of", "rivers, bridges", "cells or energy in")
DOCUMENTS = [
    ("bread", "Bread is made of flour and water and baked in an oven."),
    ("reset", "To get a new password, open the settings."),
    ("桥", "Seven bridges cross the river.\u2028In the old town,\nthat is."),
    ("cell", "Mitochondria give the cell its energy."),
]
MANY = [(f"n{number}", f"{TOPICS[number % 4]} {number * 7919 % 997}") for number in range(200)]


def finish(folder: Path, details: dict[str, Any]) -> Path:
    """Add the manifest as the core does."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    sums = {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    manifest = {"format": "faiss", **details, "files": sums}
    (folder / "manifest.json").write_text(json.dumps(manifest, ensure_ascii=False))
    return folder


@pytest.fixture
def bundle_folder(minilm: TextEncoder, tmp_path: Path) -> Path:
    encoder = replace(minilm, query_prompt="question: ")
    return finish(tmp_path, write_bundle(tmp_path, encoder=encoder, documents=DOCUMENTS))


def test_what_is_searched_is_found(bundle_folder: Path, minilm: TextEncoder) -> None:
    bundle = load_bundle(bundle_folder)
    hits = bundle.search("I forgot my password", k=2)
    assert [(hit.id, hit.rank) for hit in hits] == [("reset", 1), (hits[1].id, 2)]
    query = minilm.encode_queries(["question: I forgot my password"])[0]
    scores = minilm.encode_documents([text for _, text in DOCUMENTS]) @ query
    assert hits[0] == Hit("reset", DOCUMENTS[1][1], pytest.approx(scores[1], abs=1e-5), 1)
    assert hits[1].score == pytest.approx(np.sort(scores)[-2], abs=1e-5)


def test_lists_and_depths(bundle_folder: Path) -> None:
    bundle = load_bundle(str(bundle_folder))
    queries = ["bridges over a river", "What is baked?"]
    found = bundle.search(queries, k=50)
    assert [hits[0].id for hits in found] == ["桥", "bread"]
    assert found[0][0].text == DOCUMENTS[2][1]
    assert [[hit.rank for hit in hits] for hits in found] == [[1, 2, 3, 4]] * 2
    assert [hit.id for hit in bundle.search(queries[0])] == [hit.id for hit in found[0]]
    assert bundle.search([]) == []


def test_searches_that_make_no_sense_are_refused(bundle_folder: Path) -> None:
    bundle = load_bundle(bundle_folder)
    with pytest.raises(UserError, match="k: expected 1 or more, found 0"):
        bundle.search("bread", k=0)
    with pytest.raises(UserError, match="query: expected a text to search for, but it is empty"):
        bundle.search(" \n")
    with pytest.raises(UserError, match="number 1 of the list is empty"):
        bundle.search(["bread", ""])


def test_manifest_details(bundle_folder: Path) -> None:
    manifest = load_bundle(bundle_folder).manifest
    import faiss

    del manifest["files"]
    assert manifest == {
        "format": "faiss",
        "dimension": 384,
        "metric": "cosine",
        "normalized": True,
        "pooling_method": "mean",
        "prompts": {"query": "question: ", "document": ""},
        "max_length": 256,
        "documents": 4,
        "index": "Flat",
        "index_bytes": (bundle_folder / "index.faiss").stat().st_size,
        "search_parameters": {},
        "recall": {"recall@10": 1.0, "target": 0.95, "queries": 4, "queries_from": "documents"},
        "faiss": faiss.__version__,
    }


def test_inner_product_of_a_decoder(decoder: TextEncoder, tmp_path: Path, texts: list[str]) -> None:
    encoder = replace(decoder, normalize_embeddings=False)
    documents = [(str(n), text) for n, text in enumerate(texts)]
    finish(tmp_path, write_bundle(tmp_path, encoder=encoder, documents=documents))
    bundle = load_bundle(tmp_path)
    assert bundle.manifest["metric"] == "inner_product"
    scores = encoder.encode_documents(texts) @ encoder.encode_queries(["salt"])[0]
    assert [int(hit.id) for hit in bundle.search("salt", k=8)] == np.argsort(-scores).tolist()


def test_documents_that_can_not_be_told_apart_or_found(decoder: TextEncoder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected at least one to put into the index, found none"):
        write_bundle(tmp_path, encoder=decoder, documents=[])
    with pytest.raises(UserError) as caught:
        write_bundle(tmp_path, encoder=decoder, documents=[("a", "x"), ("a", "y"), ("b", " ")])
    assert "1 appear more than once: a" in caught.value.faults[0]
    assert "1 have no text, such as b" in caught.value.faults[1]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["model/model.safetensors", "index.faiss", "documents.jsonl"])
def test_changed_and_missing_files_are_named(bundle_folder: Path, name: str) -> None:
    path = bundle_folder / name
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: it was changed after the export"):
        load_bundle(bundle_folder)
    path.unlink()
    with pytest.raises(UserError, match=f"{name}: manifest.json lists this file, but it is gone"):
        load_bundle(bundle_folder)


def test_verify_can_be_left_out(bundle_folder: Path) -> None:
    (bundle_folder / "model" / "README.md").write_text("our own card")
    assert load_bundle(bundle_folder, verify=False).search("bread", k=1)[0].id == "bread"
    with pytest.raises(UserError, match=r"README\.md: it was changed"):
        load_bundle(bundle_folder)


def test_only_a_faiss_export_is_loaded(bundle_folder: Path, tmp_path: Path) -> None:
    path = bundle_folder / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "format": "hf"}))
    with pytest.raises(UserError, match="expected an export in the format faiss, found 'hf'"):
        load_bundle(bundle_folder)
    del manifest["files"]["index.faiss"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"expected a SHA-256 of index\.faiss too"):
        load_bundle(bundle_folder)
    path.write_text("[]")
    with pytest.raises(UserError, match=r"manifest\.json: expected the manifest .* found something else"):
        load_bundle(bundle_folder)
    with pytest.raises(UserError, match="found no such file"):
        load_bundle(tmp_path / "nowhere")


def test_index_and_documents_must_fit(bundle_folder: Path) -> None:
    write_documents(bundle_folder, [("a", "x")])
    with pytest.raises(UserError, match=r"documents.jsonl: \d+ bytes, but documents.offsets.npy tells of"):
        load_bundle(bundle_folder, verify=False)
    (bundle_folder / "documents.jsonl").unlink()
    write_documents(bundle_folder, [("a", "x")])
    with pytest.raises(UserError, match="the index has 4 vectors for 1 documents"):
        load_bundle(bundle_folder, verify=False)


def test_an_index_that_was_written_wrong_is_noticed(
    decoder: TextEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import faiss

    by_distance = faiss.IndexFlatL2(32)
    # Twice as long: the nearest is not the one with the largest product.
    vectors = decoder.encode_documents([text for _, text in MANY])
    by_distance.add(vectors * np.linspace(1, 3, len(MANY), dtype=np.float32)[:, None])
    monkeypatch.setattr("swift_embedding.index.faiss.read_index", lambda _: by_distance)
    with pytest.raises(SwiftError, match="it finds other documents than an exact search does"):
        write_bundle(tmp_path, encoder=decoder, documents=MANY)


def test_an_export_does_not_wait_for_other_processes(
    decoder: TextEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask() -> tuple[int, int]:
        raise AssertionError("the other processes are not here: this would hang")

    monkeypatch.setattr("swift_embedding.encoding.rank_and_world", ask)
    finish(tmp_path, write_bundle(tmp_path, encoder=decoder, documents=DOCUMENTS))
    assert len(load_bundle(tmp_path).search("bread")) == 4


READER = """
import sys
import threading
import faiss  # before torch: both bring an OpenMP runtime
import swift_embedding
assert "torch" not in sys.modules
import socket
def refuse(*_, **__):
    raise OSError("no network here")
socket.socket.connect = refuse
hits = swift_embedding.load_bundle(sys.argv[1]).search(["bread"] * 200, k=3)
print(hits[0][0].id)
"""


def test_loads_in_a_fresh_process_without_a_network(bundle_folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", READER, str(bundle_folder)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "bread\n"), done.stderr


@pytest.fixture
def many(decoder: TextEncoder, tmp_path: Path) -> Callable[..., Path]:
    """Write a bundle of 200 documents with an index of a factory string."""

    def write(index: str, target_recall: float = 0.9, **settings: Any) -> Path:
        folder = tmp_path / "bundle"
        folder.mkdir()
        details = write_bundle(
            folder, encoder=decoder, documents=MANY, index=index, target_recall=target_recall, **settings
        )
        return finish(folder, details)

    return write


def test_search_parameters_are_applied_on_load(many: Callable[..., Path]) -> None:
    folder = many("IVF16,SQ8", queries=[f"{topic} {number}" for topic in TOPICS for number in range(25)])
    for mmap in (False, True):
        bundle = load_bundle(folder, mmap=mmap)
        probes = bundle.manifest["search_parameters"]["nprobe"]
        assert probes > 1 and bundle.index.nprobe == probes
    assert bundle.manifest["index"] == "IVF16,SQ8"
    assert bundle.manifest["recall"]["recall@10"] >= bundle.manifest["recall"]["target"] == 0.9
    assert bundle.manifest["recall"]["queries_from"] == "queries"
    assert bundle.manifest["recall"]["queries"] == 100


def test_clusters_with_few_documents_give_few_hits(many: Callable[..., Path]) -> None:
    bundle = load_bundle(many("IVF16,Flat", 0.1))
    bundle.index.nprobe = 1
    hits = bundle.search("bread", k=150)
    assert 0 < len(hits) < 150
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
    assert len({hit.id for hit in hits}) == len(hits)


def test_an_index_that_can_not_be_made_is_told_before_the_model_is_written(
    decoder: TextEncoder, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="found 'IVF,SQ9'"):
        write_bundle(tmp_path, encoder=decoder, documents=DOCUMENTS, index="IVF,SQ9")
    assert not list(tmp_path.iterdir())


def test_nothing_but_the_bundle_is_left_behind(bundle_folder: Path) -> None:
    names = {"model", "index.faiss", "documents.jsonl", "documents.offsets.npy"}
    assert {path.name for path in bundle_folder.iterdir()} == names | {
        "recall.npz",
        "golden.json",
        "manifest.json",
    }


def test_golden_queries_notice_another_model(bundle_folder: Path) -> None:
    path = bundle_folder / "model" / "config_sentence_transformers.json"
    settings = json.loads(path.read_text())
    settings["prompts"]["query"] = "passage: "
    path.write_text(json.dumps(settings))
    with pytest.raises(UserError, match=r"golden hits are not found again \('Bread is made .* now 0\.\d"):
        load_bundle(bundle_folder, verify=False)
    assert load_bundle(bundle_folder, verify=False, check=False).search("bread")


def test_golden_queries_notice_another_index(bundle_folder: Path) -> None:
    import faiss

    path = str(bundle_folder / "index.faiss")
    index = faiss.read_index(path)
    turned = faiss.IndexFlatIP(384)
    turned.add(index.reconstruct_n(0, 4)[::-1].copy())
    faiss.write_index(turned, path)
    with pytest.raises(UserError, match="16 of 16 golden hits are not found again"):
        load_bundle(bundle_folder, verify=False)


def found(*pairs: tuple[str, float]) -> list[Hit]:
    return [Hit(name, "", score, rank) for rank, (name, score) in enumerate(pairs, start=1)]


GOLDEN: list[GoldenQuery] = [{"query": "q", "hits": [{"id": "a", "score": 0.9}, {"id": "b", "score": 0.5}]}]


@pytest.mark.parametrize(
    ("hits", "dtype", "same"),
    [
        (found(("a", 0.9), ("b", 0.5)), torch.float32, True),
        (found(("a", 0.9004), ("c", 0.5001)), torch.float32, True),  # as good as b
        (found(("b", 0.9), ("a", 0.5)), torch.float32, False),
        (found(("a", 0.9), ("c", 0.7)), torch.float32, False),
        (found(("c", 0.9), ("b", 0.5)), torch.float32, False),  # a is no tie of the last
        (found(("a", 0.9)), torch.float32, False),
        (found(("a", 0.88), ("b", 0.51)), torch.float32, False),
        (found(("a", 0.88), ("b", 0.51)), torch.bfloat16, True),
    ],
)
def test_what_counts_as_the_golden_hits(hits: list[Hit], dtype: torch.dtype, same: bool) -> None:
    if same:
        check_golden(Path("x"), GOLDEN, [hits], dtype)
    else:
        with pytest.raises(UserError, match="golden hits are not found again"):
            check_golden(Path("x"), GOLDEN, [hits], dtype)


NEW = [(f"new{number}", f"a text of its own, {number * 31} times salt") for number in range(30)]


@pytest.mark.parametrize("index", ["Flat", "SQ8", "HNSW16", "IVF16,SQ8", "RaBitQ,Refine(SQ8)"])
def test_documents_are_added(index: str, many: Callable[..., Path], decoder: TextEncoder) -> None:
    folder = many(index)
    before = load_bundle(folder, mmap=index == "SQ8")
    after = before.add(NEW)
    hits = before.search("bread", k=3)
    assert len(before.documents) == before.index.ntotal == 200
    for bundle in (after, load_bundle(folder)):
        assert len(bundle.documents) == bundle.index.ntotal == bundle.manifest["documents"] == 230
        # The vectors of a random model lie close together: the first place is not sure.
        assert "new7" in {hit.id for hit in bundle.search(NEW[7][1], k=20)}
        assert bundle.documents[3] == MANY[3] and bundle.documents[-1] == NEW[-1]
        recall = bundle.manifest["recall"]
        texts = [text for _, text in [*MANY, *NEW]]
        assert recall["recall@10"] == pytest.approx(
            recall_by_hand(bundle, decoder.encode_documents(texts)), abs=1e-3
        )
    assert [hit.id for hit in before.search("bread", k=3)] == [hit.id for hit in hits]
    assert after.add([("last", "one more")]).manifest["documents"] == 231
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]


def recall_by_hand(bundle: Bundle, vectors: np.ndarray) -> float:
    """As the manifest's, in float64: queries are the beginnings of the first 200 documents."""
    queries = bundle.encoder.encode_queries([text for _, text in MANY])
    products = queries.astype(np.float64) @ vectors.T.astype(np.float64)
    own = np.arange(200)
    products[own, own] = -9
    best = -np.sort(-products, axis=1)[:, 9:10] - 1e-5
    _, places = bundle.index.search(queries, 11)
    hits = 0
    for query, row in enumerate(places):
        others = [place for place in row if place not in (query, -1)][:10]
        hits += sum(products[query, place] >= best[query, 0] for place in others)
    return hits / 2000


def test_what_can_not_be_added(many: Callable[..., Path]) -> None:
    folder = many("Flat")
    bundle = load_bundle(folder)
    with pytest.raises(UserError, match="ids must be new; 2 are in the bundle: n0, n1"):
        bundle.add([*MANY[:2], *NEW])
    with pytest.raises(UserError, match="1 have no text, such as x"):
        bundle.add([("x", " ")])
    bundle.add(NEW)
    with pytest.raises(UserError, match="it was changed after it was loaded; load it again"):
        bundle.add([("x", "y")])
    bundle = load_bundle(folder)
    (folder / "documents.jsonl").write_text("")
    with pytest.raises(UserError, match=r"documents\.jsonl: it was changed after the export"):
        bundle.add([("x", "y")])


def test_a_crash_while_adding_leaves_the_old_bundle(
    many: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = many("IVF16,SQ8")
    content = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    bundle = load_bundle(folder)

    def crash(*_: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr("swift_embedding.bundle.files.write_manifest", crash)
        with pytest.raises(OSError, match="disk full"):
            bundle.add(NEW)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == content
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]
    assert bundle.add(NEW).manifest["documents"] == 230


def test_two_that_add_at_once_do_not_lose_documents(
    many: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = many("Flat")
    first, second = load_bundle(folder), load_bundle(folder)
    looked, check, verify = threading.Event(), Bundle._check_unchanged, bundle_files.verify_files

    def checked(bundle: Bundle) -> None:
        check(bundle)
        if bundle is second:
            looked.set()

    with ThreadPoolExecutor(1) as pool:
        others: list[Future[Bundle]] = []

        def overtaken(*inputs: Any) -> None:
            if not others:
                others.append(pool.submit(second.add, [("other", "of another process")]))
                assert looked.wait(timeout=60)
            verify(*inputs)

        monkeypatch.setattr(Bundle, "_check_unchanged", checked)
        monkeypatch.setattr(bundle_files, "verify_files", overtaken)
        first.add(NEW)
        with pytest.raises(UserError, match="it was changed after it was loaded; load it again"):
            others[0].result()
    assert len(load_bundle(folder).documents) == 230


def test_an_index_that_the_new_documents_do_not_fit_is_refused(
    many: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = many("IVF16,SQ8")
    bundle = load_bundle(folder)
    monkeypatch.setattr("swift_embedding.bundle.tune", lambda *_: ({"nprobe": 16}, 0.5))
    with pytest.raises(UserError, match="it was trained for 200 documents; export all anew"):
        bundle.add(NEW)
    assert len(load_bundle(folder).documents) == 200


def test_the_same_corpus_gives_the_same_bundle(many: Callable[..., Path], tmp_path: Path) -> None:
    folder = many("IVF16,SQ8")
    first = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    folder.rename(tmp_path / "first")
    again = many("IVF16,SQ8")
    assert first == {path.name: path.read_bytes() for path in again.iterdir() if path.is_file()}


def test_documents_stay_on_the_disk(tmp_path: Path) -> None:
    write_documents(tmp_path, DOCUMENTS)
    documents = Documents(tmp_path)
    assert list(documents) == DOCUMENTS
    assert documents[1:3] == DOCUMENTS[1:3] and documents[-1] == DOCUMENTS[-1]
    with pytest.raises(IndexError):
        documents[4]
