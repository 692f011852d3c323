"""Candidates from run files, from BM25 and from a bundle of swift-embedding."""

from __future__ import annotations

import gzip
import json
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from swift_core.errors import UserError
from swift_reranker.first_stage import (
    bm25_candidates,
    bundle_candidates,
    read_run_file,
    words_of,
)

EXPECTED = {"q1": [("d2", 2.5), ("d1", -1.0)], "查询": [("文档", 0.5), ("d1", 0.5)]}
TREC = "q1 Q0 d1 1 -1 bm25\nq1\tQ0\td2\t2\t2.5\tbm25\n\n查询 Q0 文档 1 5e-1 x\n查询 Q0 d1 2 0.5 x\n"


def written(path: Path, *lines: Any) -> Path:
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def test_trec_runs_are_read_by_score(tmp_path: Path) -> None:
    path = tmp_path / "bm25.run"
    path.write_text(TREC)
    assert read_run_file(path) == EXPECTED
    assert list(read_run_file(path)) == ["q1", "查询"]
    packed = tmp_path / "bm25.run.gz"
    packed.write_bytes(gzip.compress(b"\xef\xbb\xbf" + TREC.encode()))
    assert read_run_file(packed) == EXPECTED


def test_json_lines_are_read_in_both_forms(tmp_path: Path) -> None:
    flat = [
        {"query_id": query, "doc_id": document, "score": score}
        for query, found in EXPECTED.items()
        for document, score in reversed(found)
    ]
    expected = {"q1": EXPECTED["q1"], "查询": EXPECTED["查询"][::-1]}
    assert read_run_file(written(tmp_path / "flat.jsonl", *flat)) == expected
    nested = [
        {"query_id": query, "results": [{"doc_id": document, "score": score} for document, score in found]}
        for query, found in EXPECTED.items()
    ]
    assert read_run_file(written(tmp_path / "nested.jsonl", *nested, {"query_id": 7, "results": []})) == {
        **EXPECTED,
        "7": [],
    }


def faults_of(path: Path) -> UserError:
    with pytest.raises(UserError) as caught:
        read_run_file(path)
    return caught.value


def test_lines_of_a_run_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.run"
    path.write_bytes(
        b"q Q0 d 1 2.0 tag\nq Q0 d 1 2.0\nq Q0 e 1 much tag\nq Q0 e 1 nan tag\n"
        b"q Q0 d 2 1.0 tag\nq Q0 \xff 1 1 t\n"
    )
    columns = "expected six columns (query Q0 document rank score tag) with a finite number for score"
    assert faults_of(path).faults == (
        f'{path}:2: {columns}, found a string ("q Q0 d 1 2.0")',
        f'{path}:3: {columns}, found a string ("q Q0 e 1 much tag")',
        f'{path}:4: {columns}, found a string ("q Q0 e 1 nan tag")',
        f"{path}:5: query 'q' has document 'd' twice; keep one of them",
        f"{path}:6: not UTF-8 at byte 6 of the line (0xff); save the file as UTF-8",
    )


def test_json_lines_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    path = written(
        tmp_path / "x.jsonl",
        {"query_id": "q", "doc_id": "d", "score": 1},
        {"query_id": "q", "doc_id": "e", "score": True},
        {"query": "q"},
        {"query_id": "q", "results": [{"doc_id": "f", "score": 10**400}, "g", {"doc_id": "d", "score": 2}]},
        {"query_id": "q", "results": {"d": 1}},
        "{",
    )
    error = faults_of(path)
    starts = [
        f"{path}:2: expected doc_id, and a finite number for score, found an object",
        f"{path}:3: expected query_id, and doc_id and score or a list of results, found an object",
        f"{path}:4: results[0]: expected doc_id, and a finite number for score, found an object",
        f"{path}:4: results[1]: expected doc_id, and a finite number for score, found a string",
        f"{path}:4: query 'q' has document 'd' twice; keep one of them",
        f"{path}:5: expected query_id, and doc_id and score or a list of results, found an object",
        f"{path}:6: not valid JSON",
    ]
    assert len(error.faults) == len(starts)
    for fault, start in zip(error.faults, starts, strict=True):
        assert fault.startswith(start)


def test_at_most_20_faults_are_told_and_all_are_counted(tmp_path: Path) -> None:
    error = faults_of(written(tmp_path / "x.run", *["one two"] * 50))
    assert (len(error.faults), error.total) == (20, 50)
    assert "and 30 more like these" in str(error)


def test_no_file_and_an_empty_one_say_what_is_expected(tmp_path: Path) -> None:
    assert "there is no such file; expected a TREC run (query Q0" in str(faults_of(tmp_path / "none.run"))
    assert "the file is empty; expected a TREC run (query Q0" in str(
        faults_of(written(tmp_path / "x", "", " "))
    )


@pytest.mark.parametrize("end", [12, -12])
def test_a_damaged_file_is_named(tmp_path: Path, end: int) -> None:
    path = tmp_path / "x.run.gz"
    path.write_bytes(gzip.compress(TREC.encode())[:end])
    assert f"{path}: can't be read to its end (Compressed file ended" in str(faults_of(path))
    path.write_bytes(b"no gzip")
    assert f"{path}: can't be read to its end (Not a gzipped file" in str(faults_of(path))


def test_words_are_those_between_spaces_and_pairs_of_characters_where_there_are_none() -> None:
    assert words_of("The T-cell, in 2024: T细胞吗") == [
        *("the", "t", "cell", "in", "2024", "t"),
        *("细", "胞", "吗", "细胞", "胞吗"),
    ]
    assert words_of("Ｆｕｌｌ　snake_case École don't") == ["full", "snake", "case", "école", "don", "t"]
    assert words_of("カタカナ・ー") == ["カ", "タ", "カ", "ナ", "カタ", "タカ", "カナ", "ー"]
    assert words_of("한국") == ["한", "국", "한국"]
    assert words_of("𠀀") == ["𠀀"]
    assert words_of("… !\n") == []


def test_marks_belong_to_their_word() -> None:
    assert words_of("हिन्दी भाषा, தமிழ் মেঘ") == ["हिन्दी", "भाषा", "தமிழ்", "মেঘ"]
    assert words_of("الكِتَابُ في المَدْرَسَةِ.") == ["الكِتَابُ", "في", "المَدْرَسَةِ"]
    assert words_of("ශ්‍රී x̄ 𞤢𞤣𞤵𞥄") == ["ශ්‍රී", "x̄", "𞤢𞤣𞤵𞥄"]
    # Thai puts no spaces: a character is one with its marks.
    assert words_of("ที่นี่ ๒") == ["ที่", "นี่", "ที่นี่", "๒"]
    assert words_of("\u0301 葛\U000e0100 TM\ufe0f 1\ufe0f\u20e3") == ["葛", "tm", "1"]


CORPUS = {
    "bread": "Bread is baked from flour, and bread is eaten.",
    "river": "A river under seven bridges: a long text about the old town, its river and its ovens.",
    "桥": "七座桥跨过河。",
    "empty": "",
    "oven": "Ovens.",
}


def bm25(query: str, document: str, k1: float, b: float) -> float:
    """The formula of the paper with the idf of Lucene."""
    texts = {name: Counter(words_of(text)) for name, text in CORPUS.items()}
    average = sum(words.total() for words in texts.values()) / len(texts)
    score = 0.0
    for word in words_of(query):
        holders = sum(word in words for words in texts.values())
        idf = math.log(1 + (len(texts) - holders + 0.5) / (holders + 0.5))
        count, length = texts[document][word], texts[document].total()
        score += idf * count / (count + k1 * (1 - b + b * length / average))
    return score


@pytest.mark.parametrize("options", [{}, {"k1": 0.9, "b": 0.4}])
def test_bm25_scores_are_those_of_the_formula(options: dict[str, float]) -> None:
    queries = {"1": "River, oven, ovens! Bread bread", "2": "河上的桥", "3": "nothing here", "4": " "}
    found = bm25_candidates(CORPUS, queries, 10, **options)
    k1, b = options.get("k1", 1.5), options.get("b", 0.75)
    for query, text in queries.items():
        scores = {name: bm25(text, name, k1, b) for name in CORPUS}
        expected = sorted((name for name in CORPUS if scores[name] > 0), key=lambda name: -scores[name])
        assert [name for name, _ in found[query]] == expected
        assert [score for _, score in found[query]] == pytest.approx(
            [scores[name] for name in expected], rel=1e-5
        )
    assert [name for name, _ in found["2"]] == ["桥"]
    assert found["3"] == found["4"] == []


def test_only_the_best_are_candidates_and_ties_keep_the_order_of_the_corpus() -> None:
    corpus = {f"d{n}": "word" if n % 3 else "word word other" for n in range(50)}
    found = bm25_candidates(corpus, {"q": "word"}, 5)["q"]
    whole = bm25_candidates(corpus, {"q": "word"}, 100)["q"]
    assert len(whole) == 50 and found == whole[:5]
    order = {name: n for n, name in enumerate(corpus)}
    assert whole == sorted(whole, key=lambda entry: (-entry[1], order[entry[0]]))
    assert bm25_candidates({"d": " "}, {"q": "word"}, 5) == {"q": []}
    assert bm25_candidates({}, {"q": "word"}, 5) == {"q": []}


def test_bm25_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    bm25_candidates(CORPUS, {"q": "bread"}, 5)
    assert capfd.readouterr() == ("", "")


def test_a_bundle_is_searched_by_its_own_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Any] = []

    def search(queries: list[str], k: int) -> list[list[Any]]:
        asked.append((queries, k))
        return [[SimpleNamespace(id=f"{text}{rank}", score=1 / rank) for rank in (1, 2)] for text in queries]

    def load_bundle(folder: Path, *, device: str) -> Any:
        asked.append((folder, device))
        return SimpleNamespace(search=search)

    package = ModuleType("swift_embedding")
    package.load_bundle = load_bundle  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "swift_embedding", package)
    found = bundle_candidates(tmp_path, {"1": "a", "2": "b"}, 7, device="cuda")
    assert asked == [(tmp_path, "cuda"), (["a", "b"], 7)]
    assert found == {"1": [("a1", 1.0), ("a2", 0.5)], "2": [("b1", 1.0), ("b2", 0.5)]}


def test_without_that_package_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "swift_embedding", None)
    with pytest.raises(UserError, match="pip install swift-embedding"):
        bundle_candidates(tmp_path, {"1": "a"}, 7)


def test_importing_the_module_imports_no_other_task_package() -> None:
    code = (
        "import sys, swift_reranker.first_stage; "
        "print([name for name in ('swift_embedding', 'swift_cls', 'torch', 'faiss') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
