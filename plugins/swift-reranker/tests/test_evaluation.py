"""Figures of rankings: of lists, and of a first stage before and after."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pytest
from ir_measures import AP, RR, nDCG

from swift_core import TrainingArguments
from swift_core.data.dataset import load_data
from swift_core.data.encoding import encode_data
from swift_core.errors import SwiftError, UserError
from swift_reranker import hooks
from swift_reranker.evaluation import check_retrieval, evaluate_model, load_candidates
from swift_reranker.first_stage import read_run_file
from swift_reranker.scoring import score_lists
from swift_reranker.spec import SPEC

Build = Callable[..., tuple[Any, Any, TrainingArguments]]
Make = Callable[..., TrainingArguments]

CORPUS = {
    "d1": "a cat is a small animal",
    "d2": "the red team won the match",
    "d3": "the moon is far away",
    "d4": "a cat and the moon",
    "d5": "zzz",
}
QUERIES = {"q1": "what is a cat", "q2": "how far is the moon", "q3": "qqq"}
QRELS = {"q1": {"d1": 2, "d4": 1}, "q2": {"d3": 1, "d5": 1}, "q3": {"d5": 1}}


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    for name, texts in (("corpus", CORPUS), ("queries", QUERIES)):
        lines = [json.dumps({"_id": key, "text": text}) for key, text in texts.items()]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    rows = [f"{query}\t{name}\t{grade}" for query, grades in QRELS.items() for name, grade in grades.items()]
    (folder / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *rows]))
    return folder


def data_of(lists: list[dict[str, Any]], collator: Any, folder: Path) -> Any:
    data = load_data(lists, name="eval", spec=SPEC, columns={}, split="train", config=None)
    return encode_data(data, collator, key="x", cache_dir=folder, progress=False)


def test_lists_are_measured_as_trec_eval_does(
    build: Build, bert: Path, lists: list[Any], tmp_path: Path
) -> None:
    model, collator, args = build(bert, eval_k=[2])
    data = data_of(lists, collator, tmp_path)
    evaluation = evaluate_model(model, collator, data, args)
    scores = score_lists(model, collator, data.features)
    qrels = {str(n): {str(d): int(v) for d, v in enumerate(row["labels"])} for n, row in enumerate(lists)}
    run = {str(n): {str(d): float(v) for d, v in enumerate(row)} for n, row in enumerate(scores)}
    expected = ir_measures.calc_aggregate([nDCG @ 10, nDCG @ 2, RR @ 10, RR @ 2, AP], qrels, run)
    found = evaluation.metrics
    assert found["ndcg@10"] == pytest.approx(expected[nDCG @ 10])
    assert found["ndcg@2"] == pytest.approx(expected[nDCG @ 2])
    assert found["mrr@10"] == pytest.approx(expected[RR @ 10])
    assert found["mrr@2"] == pytest.approx(expected[RR @ 2])
    assert found["map"] == pytest.approx(expected[AP])
    assert found["score_spread"] == pytest.approx(np.mean([row.std() for row in scores]), rel=1e-5)
    rows = evaluation.tables["per_query"]
    assert [row["query_id"] for row in rows] == [row["query"] for row in lists]
    assert np.mean([row["ndcg@10"] for row in rows]) == pytest.approx(found["ndcg@10"])


def test_a_model_that_says_the_same_of_everything_gets_what_chance_gets(
    build: Build, bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, collator, args = build(bert)
    model.classifier.weight.data.zero_()
    lists = [{"query": "q", "documents": list("abcd"), "labels": [1, 0, 0, 0]}]
    evaluation = evaluate_model(model, collator, data_of(lists, collator, tmp_path), args)
    assert evaluation.metrics["mrr@10"] == pytest.approx(np.mean([1, 1 / 2, 1 / 3, 1 / 4]))
    assert "warning: all scores lie within 0.01 of each other in 100%" in capsys.readouterr().out


def test_a_model_that_tells_documents_apart_gets_no_warning(
    build: Build, bert: Path, lists: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, collator, args = build(bert)
    evaluate_model(model, collator, data_of(lists, collator, tmp_path), args)
    assert "warning" not in capsys.readouterr().out


def test_scores_that_are_no_numbers_are_an_error(
    build: Build, bert: Path, lists: list[Any], tmp_path: Path
) -> None:
    model, collator, args = build(bert)
    model.classifier.bias.data.fill_(float("nan"))
    with pytest.raises(SwiftError, match="NaN"):
        evaluate_model(model, collator, data_of(lists, collator, tmp_path), args)


def test_lists_without_anything_relevant_are_left_out(build: Build, bert: Path, tmp_path: Path) -> None:
    model, collator, args = build(bert)
    lists = [
        {"query": "a", "documents": ["x", "y"], "labels": [0, 0]},
        {"query": "b", "documents": ["x", "y"], "labels": [0, 1]},
    ]
    rows = evaluate_model(model, collator, data_of(lists, collator, tmp_path), args).tables["per_query"]
    assert [row["query_id"] for row in rows] == ["b"]
    nothing = data_of(lists[:1], collator, tmp_path)
    with pytest.raises(UserError, match="a label above 0"):
        collator.check_evaluation(nothing)
    alone = data_of([{"query": "c", "documents": ["x"], "labels": [1]}, lists[0]], collator, tmp_path)
    with pytest.raises(UserError, match="found one document in each"):
        collator.check_evaluation(alone)
    with pytest.raises(UserError, match="first_stage_depth"):
        evaluate_model(model, collator, alone, args)


@pytest.mark.parametrize("stage", ["bm25", "run"])
def test_a_first_stage_is_reranked_and_the_gain_is_told(
    build: Build, bert: Path, beir: Path, tmp_path: Path, stage: str
) -> None:
    run_file = tmp_path / "first.trec"
    first = {"q1": {"d4": 3.0, "d1": 2.0}, "q2": {"d3": 5.0, "d4": 4.0, "d1": 1.0}}
    run_file.write_text(
        "\n".join(f"{q} Q0 {d} 1 {s} x" for q, found in first.items() for d, s in found.items())
    )
    options = {"eval_retrieval": str(beir), "first_stage": "bm25" if stage == "bm25" else str(run_file)}
    model, collator, args = build(bert, **options)
    check_retrieval(collator, args)
    evaluation = evaluate_model(model, collator, None, args)
    found = evaluation.metrics
    table = tmp_path / "reranked.jsonl"
    table.write_text("\n".join(json.dumps(row) for row in evaluation.tables["run"] if row["results"]))
    reranked = {query: dict(rows) for query, rows in read_run_file(table).items()}
    expected = ir_measures.calc_aggregate([nDCG @ 10, AP, RR @ 10], QRELS, reranked)
    # A query that found nothing counts as 0, which the reference leaves out.
    assert found["ndcg@10"] == pytest.approx(expected[nDCG @ 10])
    assert found["map"] == pytest.approx(expected[AP])
    if stage == "run":
        before = ir_measures.calc_aggregate([nDCG @ 10], QRELS, first)[nDCG @ 10]
        assert found["first_stage_ndcg@10"] == pytest.approx(before)
        assert {query: set(rows) for query, rows in reranked.items()} == {q: set(d) for q, d in first.items()}
    assert found["gain_ndcg@10"] == pytest.approx(found["ndcg@10"] - found["first_stage_ndcg@10"])
    assert found["gain_ndcg@10_low"] <= found["gain_ndcg@10"] <= found["gain_ndcg@10_high"]
    rows = evaluation.tables["per_query"]
    assert [row["query_id"] for row in rows] == ["q1", "q2", "q3"]
    assert rows[2]["ndcg@10"] == 0.0


@pytest.mark.parametrize("stage", ["bm25", "run"])
def test_a_query_is_no_candidate_for_itself(make_args: Make, bert: Path, tmp_path: Path, stage: str) -> None:
    texts = {"a": "cats are small", "b": "cats sleep", "c": "cats are small animals", "1": "small and cats"}
    asked = {"a": texts["a"], "b": texts["b"], "1": "are cats small"}
    folder = tmp_path / "arguana"
    (folder / "qrels").mkdir(parents=True)
    titled = [
        {"_id": name, "text": text, "title": "pets" if name == "b" else ""} for name, text in texts.items()
    ]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, titled)))
    queries = [{"_id": name, "text": text} for name, text in asked.items()]
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    judged = [f"{query}\tc\t1" for query in asked]
    (folder / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]))
    run = tmp_path / "run.trec"
    run.write_text("\n".join(f"{q} Q0 {d} 1 {1 + (q == d)} x" for q in asked for d in texts))
    first = "bm25" if stage == "bm25" else str(run)
    args = make_args(bert, eval_retrieval=str(folder), first_stage=first, first_stage_depth=3)
    found = {query: {name for name, _ in rows} for query, rows in load_candidates(args)[1].items()}
    assert found["a"] == {"b", "c", "1"} and found["b"] == {"a", "c", "1"}
    # Another text of the same id is a candidate, and three are three.
    assert "1" in found["1"] and len(found["1"]) == 3


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ("nowhere.trec", "there is no such file"),
        ("q1 Q0 d9 1 2.0 x", r"names 1 documents that are not in the corpus .* the first is 'd9'"),
        ("q9 Q0 d1 1 2.0 x", "has candidates for none of the 3 queries"),
    ],
)
def test_a_first_stage_that_does_not_fit_is_told_before_training(
    make_args: Make, bert: Path, beir: Path, tmp_path: Path, stage: str, message: str
) -> None:
    path = tmp_path / "nowhere.trec"
    if " " in stage:
        path = tmp_path / "run.trec"
        path.write_text(stage)
    args = make_args(bert, eval_retrieval=str(beir), first_stage=str(path))
    with pytest.raises(UserError, match=message):
        check_retrieval(hooks.make_collator(args), args)


def test_a_first_stage_that_knows_few_queries_and_a_query_that_is_too_long_are_told(
    build: Build, make_args: Make, bert: Path, beir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run.trec"
    run.write_text("q1 Q0 d1 1 2.0 x")
    args = make_args(bert, eval_retrieval=str(beir), first_stage=str(run))
    check_retrieval(hooks.make_collator(args), args)
    assert "has candidates for 1 of 3 queries; the others count as 0" in capsys.readouterr().out
    short = args.replace(max_length=12)
    told = "eval_retrieval: query 'q2': query: 'how far is the moon' and what"
    with pytest.raises(UserError, match=told):
        check_retrieval(hooks.make_collator(short), short)
    # `swift evaluate` asks for no check before.
    with pytest.raises(UserError, match=told):
        evaluate_model(build(bert)[0], hooks.make_collator(short), None, short)
