"""Tasks of MTEB, made up in memory, on a saved model: the same figures as our own evaluation. Needs mteb."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from swift_core.data.beir import Retrieval, load_retrieval
from swift_core.errors import UserError
from swift_embedding.encoding import TextEncoder
from swift_embedding.mteb_model import load_mteb_model
from swift_embedding.retrieval import evaluate_retrieval
from swift_embedding.similarity import evaluate_sts
from swift_embedding.st_folder import write_st_folder

PAIRS = [
    ("A fish swims in the sea.", "Rain fills the lake where ducks swim.", 3.0),
    ("A fish swims in the sea.", "Snow falls in winter.", 0.5),
    ("what swims", "a swimmer", 4.0),
    ("A bird flies over the forest.", "The court heard the appeal.", 1.0),
]


def saved(encoder: TextEncoder, folder: Path) -> Path:
    write_st_folder(folder, encoder)
    return folder


@pytest.fixture
def chinese() -> Retrieval:
    """Hard for an English model, so that small differences of the vectors show in the ranks."""
    whole = load_retrieval(Path(__file__).parents[1] / "examples" / "cmrc2018", "test")
    queries = dict(list(whole.queries.items())[:40])
    qrels = {query: dict(whole.qrels[query]) for query in queries}
    corpus = {document: whole.corpus[document][:40] for judged in qrels.values() for document in judged}
    return Retrieval(corpus=corpus, queries=queries, qrels=qrels)


@pytest.fixture
def prompted(minilm: TextEncoder) -> TextEncoder:
    """An encoder whose two sides differ, so that a wrong prompt shows."""
    return replace(minilm, query_prompt="a question about baking: ", document_prompt="an answer: ")


@pytest.fixture
def model(prompted: TextEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The model as mteb gets it; a look at the network fails."""
    pytest.importorskip("mteb")

    def refuse(*address: Any, **named: Any) -> Any:
        raise AssertionError(f"somebody asked the network: {address}")

    run = tmp_path / "20261124-120000-animals"
    run.mkdir()
    (run / "run.json").write_text("{}")
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return load_mteb_model(saved(prompted, run / "model"), device="cpu")


def metadata(name: str, kind: str, score: str) -> Any:
    from mteb.abstasks.task_metadata import TaskMetadata

    return TaskMetadata(
        name=name,
        description="made up",
        reference=None,
        type=kind,
        category="t2t",
        modalities=["text"],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score=score,
        dataset={"path": "nowhere/nothing", "revision": "1"},
        date=None,
        domains=None,
        task_subtypes=None,
        license=None,
        annotations_creators=None,
        dialect=None,
        sample_creation=None,
        bibtex_citation=None,
    )


def figures(model: Any, task: Any) -> dict[str, float]:
    import mteb

    found = mteb.evaluate(model, task, cache=None, co2_tracker=False, show_progress_bar=False)
    assert found.model_name == "swift/20261124-120000-animals"
    return dict(found.task_results[0].scores["test"][0])


def test_retrieval_of_mteb_equals_ours(model: Any, prompted: TextEncoder, chinese: Retrieval) -> None:
    from mteb.abstasks.retrieval import AbsTaskRetrieval

    class MadeUpRetrieval(AbsTaskRetrieval):  # type: ignore[misc]
        metadata = metadata("MadeUpRetrieval", "Retrieval", "ndcg_at_10")

        def load_data(self, **unused: Any) -> None:
            corpus = [{"id": n, "title": "", "text": text} for n, text in chinese.corpus.items()]
            queries = [{"id": n, "text": text} for n, text in chinese.queries.items()]
            self.dataset = {
                "default": {
                    "test": {
                        "corpus": Dataset.from_list(corpus),
                        "queries": Dataset.from_list(queries),
                        "relevant_docs": dict(chinese.qrels),
                        "top_ranked": None,
                    }
                }
            }
            self.data_loaded = True

    found = figures(model, MadeUpRetrieval())
    ours, _ = evaluate_retrieval(chinese, prompted, {1, 10})
    # MTEB rounds to five digits.
    for name, k in (("ndcg", 10), ("map", 10), ("recall", 1), ("precision", 1), ("mrr", 10)):
        assert found[f"{name}_at_{k}"] == pytest.approx(ours[f"{name}@{k}"], abs=1e-5), name
    plain, _ = evaluate_retrieval(chinese, replace(prompted, query_prompt="", document_prompt=""), {1, 10})
    assert plain["ndcg@10"] != pytest.approx(ours["ndcg@10"], abs=1e-3), "the prompts change nothing here"


def test_sts_of_mteb_equals_ours(model: Any, prompted: TextEncoder) -> None:
    from mteb.abstasks.sts import AbsTaskSTS

    class MadeUpSTS(AbsTaskSTS):  # type: ignore[misc]
        metadata = metadata("MadeUpSTS", "STS", "cosine_spearman")

        def load_data(self, **unused: Any) -> None:
            rows = [{"sentence1": a, "sentence2": b, "score": s} for a, b, s in PAIRS]
            self.dataset = {"test": Dataset.from_list(rows)}
            self.data_loaded = True

    found = figures(model, MadeUpSTS())
    rows = [{"text1": a, "text2": b, "score": s} for a, b, s in PAIRS]
    ours, _ = evaluate_sts(rows, prompted)
    for name in ("cosine_spearman", "spearman"):
        assert found[name] == pytest.approx(ours["spearman"], abs=1e-6)
    for name in ("cosine_pearson", "pearson"):
        assert found[name] == pytest.approx(ours["pearson"], abs=1e-6)


def test_mteb_knows_the_protocol_and_what_the_model_is(model: Any) -> None:
    from mteb.models import EncoderProtocol
    from mteb.models.model_meta import ScoringFunction

    assert isinstance(model, EncoderProtocol)
    meta = model.mteb_model_meta
    assert (meta.name, meta.embed_dim, meta.max_tokens) == ("swift/20261124-120000-animals", 384, 256)
    assert meta.similarity_fn_name is ScoringFunction.COSINE and meta.use_instructions


def test_sides_get_their_prompts_and_the_rest_the_query_prompt(model: Any, prompted: TextEncoder) -> None:
    from mteb.types import PromptType

    batches = [{"text": ["one", "two"], "id": ["a", "b"]}, {"text": ["three"], "id": ["c"]}]
    queries, documents = (
        encode(["one", "two", "three"]) for encode in (prompted.encode_queries, prompted.encode_documents)
    )
    asked = {"task_metadata": None, "hf_split": "test", "hf_subset": "default", "batch_size": 2}
    for prompt_type, expected in (
        (PromptType.query, queries),
        (PromptType.document, documents),
        (None, queries),
    ):
        np.testing.assert_allclose(
            model.encode(batches, prompt_type=prompt_type, **asked), expected, atol=1e-6
        )
    similarity = model.similarity(queries, documents)
    np.testing.assert_allclose(similarity, queries @ documents.T, atol=1e-6)
    np.testing.assert_allclose(model.similarity_pairwise(queries, documents), np.diag(similarity), atol=1e-6)
    with pytest.raises(UserError, match="expected float32, found 'int8'"):
        model.encode(batches, precision="int8", **asked)
    with pytest.raises(UserError, match="expected a task with texts, found one with image"):
        model.encode([{"image": [1]}], **asked)


def test_a_folder_without_a_model_is_told(tmp_path: Path) -> None:
    pytest.importorskip("mteb")
    with pytest.raises(UserError, match=r"found no config\.json in it"):
        load_mteb_model(tmp_path)


def test_without_mteb_it_is_said_what_to_install(
    prompted: TextEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mteb.models", None)
    with pytest.raises(UserError, match=r"pip install 'swift-embedding\[mteb\]'"):
        load_mteb_model(tmp_path)
