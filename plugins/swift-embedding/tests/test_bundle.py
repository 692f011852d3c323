"""The FAISS bundle: written, checked, loaded without a network, searched."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from swift_core.errors import SwiftError, UserError
from swift_embedding import load_bundle
from swift_embedding.bundle import Hit, write_bundle
from swift_embedding.encoding import TextEncoder

DOCUMENTS = [
    ("bread", "Bread is made of flour and water and baked in an oven."),
    ("reset", "To get a new password, open the settings."),
    ("桥", "Seven bridges cross the river.\u2028In the old town,\nthat is."),
    ("cell", "Mitochondria give the cell its energy."),
]


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
    (bundle_folder / "documents.jsonl").write_text('{"id": "a", "text": "x"}\n')
    with pytest.raises(UserError, match="the index has 4 vectors for 1 documents"):
        load_bundle(bundle_folder, verify=False)


def test_an_index_that_was_written_wrong_is_noticed(
    decoder: TextEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import faiss

    other = faiss.IndexFlatIP(32)
    other.add(np.zeros((4, 32), dtype=np.float32))
    monkeypatch.setattr("swift_embedding.bundle.faiss.read_index", lambda _: other)
    with pytest.raises(SwiftError, match="it holds other vectors than were written"):
        write_bundle(tmp_path, encoder=decoder, documents=DOCUMENTS)
    by_distance = faiss.IndexFlatL2(32)
    by_distance.add(decoder.encode_documents([text for _, text in DOCUMENTS]))
    monkeypatch.setattr("swift_embedding.bundle.faiss.read_index", lambda _: by_distance)
    with pytest.raises(SwiftError, match="it finds other documents than an exact search does"):
        write_bundle(tmp_path, encoder=decoder, documents=DOCUMENTS)


def test_an_export_does_not_wait_for_other_processes(
    decoder: TextEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask() -> tuple[int, int]:
        raise AssertionError("the other processes are not here: this would hang")

    monkeypatch.setattr("swift_embedding.encoding._rank_and_world", ask)
    finish(tmp_path, write_bundle(tmp_path, encoder=decoder, documents=DOCUMENTS))
    assert len(load_bundle(tmp_path).search("bread")) == 4


READER = """
import sys
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
