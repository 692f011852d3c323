"""Hard negatives: the same as sentence-transformers', never an answer, as the margins say."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from sentence_transformers import CrossEncoder as PeerCrossEncoder
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import mine_hard_negatives

from swift_core.errors import UserError
from swift_embedding.encoding import TextEncoder
from swift_embedding.mining import Mined, MiningSettings, choose, mine_negatives, remaining
from swift_embedding.shards import ShardCache

_ROWS = Path(__file__).parent.parent / "examples/cmrc2018/train.jsonl"
_MAX_LENGTH = 24


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    """Real rows; every eighth query has a second answer."""
    lines = _ROWS.read_text(encoding="utf-8").splitlines()[:40]
    rows = [json.loads(line) for line in lines]
    more = [{"query": row["query"], "positive": f"另一个答案：{row['positive'][:40]}"} for row in rows[::8]]
    return [*rows, *more]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which both sides keep their vectors, so that each encodes once for all settings."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def short(minilm: TextEncoder) -> TextEncoder:
    """MiniLM on the first tokens of each text only, for speed."""
    return replace(minilm, max_length=_MAX_LENGTH)


def mined(
    encoder: TextEncoder, rows: Sequence[dict[str, Any]], corpus: Sequence[str], **settings: Any
) -> Mined:
    """Mine for ``rows``; other arguments of :func:`mine_negatives` may be among the settings."""
    more = {name: settings.pop(name) for name in ("reranker", "cache", "known") if name in settings}
    positives = [[row["positive"]] for row in rows]
    return mine_negatives(
        encoder, [row["query"] for row in rows], positives, corpus, MiningSettings(**settings), **more
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"num_negatives": 4},
        {"num_negatives": 3, "range_min": 5, "range_max": 20},
        {"num_negatives": 5, "relative_margin": 0.05, "range_max": 30},
        {"num_negatives": 5, "absolute_margin": 0.1, "range_min": 2, "range_max": 40},
        {"num_negatives": 3, "max_score": 0.6, "min_score": 0.5, "range_max": 25},
        {"num_negatives": 2, "relative_margin": 0.1, "absolute_margin": 0.02, "max_score": 0.6},
        {"num_negatives": 60, "range_max": 70},  # more than there are
    ],
)
def test_finds_what_sentence_transformers_finds(settings, rows, short, minilm_folder, kept):
    peer = SentenceTransformer(str(minilm_folder), device="cpu", local_files_only=True)
    peer.max_seq_length = _MAX_LENGTH
    corpus = [row["positive"][60:120] for row in rows]
    expected = _peers(peer, rows, corpus, cache_folder=str(kept / "peer"), **settings)
    found = mined(short, rows, corpus, cache=ShardCache(folder=kept / "ours"), **settings)
    assert sum(len(texts) for texts in expected.values()) > 40
    for number, row in enumerate(rows):
        theirs = expected.get((row["query"], row["positive"]), [])
        assert found.negatives[number] == [text for text, _ in theirs]
        scores = [score for _, score in theirs]
        np.testing.assert_allclose(found.negative_scores[number], scores, atol=1e-5)


def _peers(
    peer: SentenceTransformer, rows: Sequence[dict[str, Any]], corpus: Sequence[str], **settings: Any
) -> dict[tuple[str, str], list[tuple[str, float]]]:
    """Negatives and their scores by query and positive, as sentence-transformers finds them."""
    pairs = datasets.Dataset.from_list([{n: row[n] for n in ("query", "positive")} for row in rows])
    triplets = mine_hard_negatives(
        pairs,
        peer,
        corpus=list(corpus),
        use_faiss=True,
        output_format="triplet",
        output_scores=True,
        verbose=False,
        **settings,
    )
    found: dict[tuple[str, str], list[tuple[str, float]]] = {}
    for row in triplets:
        found.setdefault((row["query"], row["positive"]), []).append((row["negative"], row["scores"][1]))
    return found


def test_a_reranker_scores_as_in_sentence_transformers(rows, short, minilm_folder, cross_encoder):
    peer = SentenceTransformer(str(minilm_folder), device="cpu", local_files_only=True)
    peer.max_seq_length = _MAX_LENGTH
    peers_judge = PeerCrossEncoder(str(cross_encoder.folder), device="cpu", local_files_only=True)
    settings = {"num_negatives": 3, "range_max": 10, "relative_margin": 0.01}
    expected = _peers(peer, rows[:8], [], cross_encoder=peers_judge, **settings)
    found = mined(short, rows[:8], [], reranker=cross_encoder.judge, **settings)
    assert sum(len(texts) for texts in expected.values()) > 8
    for row, texts, scores in zip(rows, found.negatives, found.negative_scores, strict=False):
        theirs = expected.get((row["query"], row["positive"]), [])
        # Equal scores may come in another order.
        np.testing.assert_allclose(scores, [score for _, score in theirs], atol=1e-5)
        assert set(texts) == {text for text, _ in theirs}


@pytest.mark.parametrize("sampling_strategy", ["top", "random"])
def test_never_finds_an_answer_or_the_query_itself(sampling_strategy, short):
    animals = ["a fish in the sea", "a bird in the air", "a fox in the forest", "a deer in the forest"]
    rows = [
        {"query": "a fish", "positive": animals[0]},
        {"query": "a fish", "positive": animals[1]},
        {"query": " a  fish\n", "positive": animals[2]},
        {"query": "a bird", "positive": animals[1]},
    ]
    corpus = [*animals, "a fish", "a\tfish in the  sea", "a bird "]
    found = mined(short, rows, corpus, num_negatives=20, sampling_strategy=sampling_strategy)
    for number in range(3):  # one query: what answers it in one row is no negative in another
        assert sorted(found.negatives[number]) == ["a bird ", animals[3]]
    assert sorted(found.negatives[3]) == sorted({"a fish", animals[0], animals[2], animals[3]})
    # fish: 3 answers and itself; bird: one answer and itself
    assert (found.removed, found.queries, found.documents) == ({"known": 6}, 2, 6)


def test_known_texts_are_found_for_others_only_and_get_scores(short, rows):
    plain = mined(short, rows[:12], [], num_negatives=2)
    known = [texts[:1] for texts in plain.negatives]
    found = mined(short, rows[:12], [], num_negatives=1, known=known)
    # The closest is known, so the second closest is found: known texts don't use up the range.
    assert found.negatives == [texts[1:] for texts in plain.negatives]
    closest = [scores[:1] for scores in plain.negative_scores]
    np.testing.assert_allclose(found.known_scores, closest, atol=1e-6)


def test_random_sampling_draws_from_the_range_and_repeats_with_its_seed(short, rows):
    settings = {"num_negatives": 3, "range_min": 4, "range_max": 16}
    pool = mined(short, rows, [], **{**settings, "num_negatives": 12})
    runs = [mined(short, rows, [], sampling_strategy="random", seed=seed, **settings) for seed in (1, 1, 2)]
    assert runs[0].negatives == runs[1].negatives != runs[2].negatives
    drawn = Counter(
        whole.index(text)
        for texts, whole in zip(runs[0].negatives, pool.negatives, strict=True)
        for text in texts
    )
    assert set(drawn) == set(range(12))  # every rank of the range comes up, and no other one
    assert all(len(texts) == 3 for texts in runs[0].negatives)
    assert all(scores == sorted(scores, reverse=True) for scores in runs[0].negative_scores)


@pytest.mark.parametrize(
    "limits",
    [
        {"absolute_margin": 0.1},
        {"relative_margin": 0.2},
        {"max_score": 0.6, "min_score": -0.7},
        {"absolute_margin": 0.1, "relative_margin": 0.2, "max_score": 0.6, "min_score": -0.7},
    ],
)
def test_margins_and_limits_leave_what_their_formulas_say(limits: dict[str, float]):
    draw = np.random.default_rng(0)
    settings = MiningSettings(**limits)  # type: ignore[arg-type]
    for _ in range(25):
        scores = draw.uniform(-1, 1, (6, 20)).astype(np.float32)
        floor = draw.uniform(-1, 1, 6).astype(np.float32)
        alive = draw.random((6, 20)) < 0.9
        removed: Counter[str] = Counter()
        left = remaining(scores, alive, floor, settings, removed)
        for (row, column), kept in np.ndenumerate(left):
            s, p = float(scores[row, column]), float(floor[row])
            fits = (
                s <= p - limits.get("absolute_margin", -9)
                and s <= p - abs(p) * limits.get("relative_margin", -1e9)
                and limits.get("min_score", -9) <= s <= limits.get("max_score", 9)
            )
            assert kept == (alive[row, column] and fits)
        assert left.sum() + sum(removed.values()) == alive.sum()
        assert removed.keys() == limits.keys()
        chosen = choose(scores, left, settings, 20, draw)
        for row, columns in enumerate(chosen):
            best = sorted((float(scores[row, c]) for c in np.flatnonzero(left[row])), reverse=True)[:3]
            assert scores[row, columns].tolist() == best


def test_settings_tell_all_their_faults():
    with pytest.raises(UserError) as caught:
        MiningSettings(num_negatives=0, range_min=-1, relative_margin=-1, min_score=0.5, max_score=0.4)
    names = [fault.partition(":")[0] for fault in caught.value.faults]
    assert names == ["num_negatives", "range_min", "relative_margin", "min_score"]
    with pytest.raises(UserError, match="at least range_min \\+ num_negatives = 13, found 12"):
        MiningSettings(range_min=10, range_max=12)
    with pytest.raises(UserError, match="none for query 2"):
        mine_negatives(None, ["a", "b"], [["c"], []], [], MiningSettings())  # type: ignore[arg-type]


# -- going on after a kill --------------------------------------------------------------------------------


class _Killed(BaseException):
    """Stands for SIGKILL: nothing may catch it to tidy up."""


def _watched(
    encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch, die_after: int | None = None
) -> list[str]:
    """Texts that go through the model from now on; the process "dies" at the shard after so many texts."""
    seen: list[str] = []
    original = TextEncoder._chunks

    def chunks(self: TextEncoder, texts: Sequence[str], *rest: Any) -> Iterator[np.ndarray]:
        if die_after is not None and len(seen) >= die_after:
            raise _Killed
        seen.extend(texts)
        return original(self, texts, *rest)

    monkeypatch.setattr(TextEncoder, "_chunks", chunks)
    return seen


def test_goes_on_after_a_kill_without_encoding_again(short, rows, tmp_path, monkeypatch):
    expected = mined(short, rows, [])
    cache = ShardCache(folder=tmp_path, shard_items=16)
    with monkeypatch.context() as patch:
        first = _watched(short, patch, die_after=32)
        with pytest.raises(_Killed):
            mined(short, rows, [], cache=cache)
    with monkeypatch.context() as patch:
        second = _watched(short, patch)
        assert mined(short, rows, [], cache=cache, num_negatives=3) == expected
    assert len(first) == 32
    assert not set(first) & set(second)
    assert set(first) | set(second) == {text for row in rows for text in (row["query"], row["positive"])}


@pytest.mark.parametrize("change", ["weights", "prompt", "max_length", "text", "damage"])
def test_kept_vectors_of_something_else_are_not_taken(change, short, rows, tmp_path, monkeypatch):
    rows = [dict(row) for row in rows[:20]]
    cache = ShardCache(folder=tmp_path, shard_items=64)
    mined(short, rows, [], cache=cache)
    if change == "weights":
        short.model.get_input_embeddings().weight.data[200:] *= 1.5
    elif change == "prompt":
        short = replace(short, query_prompt="问题: ", document_prompt="问题: ")
    elif change == "max_length":
        short = replace(short, max_length=24)
    elif change == "text":
        rows[3]["query"] += "?"
    else:
        for path in tmp_path.glob("*.npy"):
            path.write_bytes(path.read_bytes()[:-7])
    again = _watched(short, monkeypatch)
    assert mined(short, rows, [], cache=cache) == mined(short, rows, [])
    assert len(again) == 2 * len({text for row in rows for text in (row["query"], row["positive"])})


def test_each_text_is_encoded_once(short, monkeypatch):
    texts = ["how to swim", "how to fly", "how to run"]
    rows = [{"query": a, "positive": b} for a in texts for b in texts if a != b]
    seen = _watched(short, monkeypatch)
    mined(short, rows, texts)
    assert sorted(seen) == sorted(texts)  # they are queries and documents, and both have no prompt
    seen.clear()
    mined(replace(short, query_prompt="query: "), rows, texts)
    assert sorted(seen) == sorted([*texts, *texts])


def test_scores_of_a_reranker_are_kept_too(short, rows, tmp_path):
    class Judge:
        key = "judge"

        def __init__(self) -> None:
            self.calls = 0

        def score(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
            self.calls += len(pairs)
            return np.array([len(set(query) & set(text)) for query, text in pairs], dtype=np.float32)

    judge, cache = Judge(), ShardCache(folder=tmp_path)
    settings = {"num_negatives": 2, "range_max": 8, "absolute_margin": 0}
    first = mined(short, rows, [], reranker=judge, cache=cache, **settings)
    asked = judge.calls
    assert mined(short, rows, [], reranker=judge, cache=cache, **settings) == first
    assert judge.calls == asked
    for row, texts in zip(rows, first.negatives, strict=True):
        for text in texts:
            assert len(set(row["query"]) & set(text)) <= len(set(row["query"]) & set(row["positive"]))


# -- the cross-encoder ------------------------------------------------------------------------------------


class _Judge:
    """A cross-encoder made of MiniLM with a fresh head, and where it lies."""

    def __init__(self, folder: Path, judge: Any) -> None:
        self.folder, self.judge = folder, judge


@pytest.fixture
def cross_encoder(minilm_folder: Path, tmp_path: Path) -> _Judge:
    """One output; pairs of at most 32 tokens."""
    return _judge(minilm_folder, tmp_path, 1)


def _judge(minilm_folder: Path, folder: Path, num_labels: int) -> _Judge:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from swift_core.arguments import TrainingArguments
    from swift_embedding.rescoring import load_cross_encoder

    torch.manual_seed(3)
    model = AutoModelForSequenceClassification.from_pretrained(minilm_folder, num_labels=num_labels)
    model.classifier.weight.data *= 20  # scores that differ
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(minilm_folder)
    tokenizer.model_max_length = 32
    tokenizer.save_pretrained(folder)
    args = TrainingArguments("embedding", output_dir=str(folder / "out"), use_cpu=True)
    return _Judge(folder, load_cross_encoder(str(folder), args))


@pytest.mark.parametrize("activation", [None, "torch.nn.modules.linear.Identity"])
def test_cross_encoder_scores_as_sentence_transformers_does(activation, minilm_folder, tmp_path, texts):
    _judge(minilm_folder, tmp_path, 1)
    if activation:
        config = json.loads((tmp_path / "config.json").read_text())
        config["sentence_transformers"] = {"activation_fn": activation}
        (tmp_path / "config.json").write_text(json.dumps(config))
    judge = _reloaded(tmp_path)
    pairs = [(a, b) for a in texts for b in texts[:4]]
    peer = PeerCrossEncoder(str(tmp_path), device="cpu", local_files_only=True)
    np.testing.assert_allclose(judge.score(pairs), peer.predict(pairs), atol=2e-5)


def test_of_two_outputs_the_second_ones_share_is_the_score(minilm_folder, tmp_path, texts):
    import torch

    judge = _judge(minilm_folder, tmp_path, 2).judge
    pairs = [(a, texts[0]) for a in texts]
    found = judge.score(pairs)
    for (query, document), score in zip(pairs, found, strict=True):
        inputs = judge.tokenizer(query, document, truncation=True, max_length=32, return_tensors="pt")
        with torch.no_grad():
            one, two = judge.model(**inputs).logits[0].exp().tolist()
        assert score == pytest.approx(two / (one + two), abs=1e-5)


def _reloaded(folder: Path) -> Any:
    from swift_core.arguments import TrainingArguments
    from swift_embedding.rescoring import load_cross_encoder

    return load_cross_encoder(str(folder), TrainingArguments("embedding", output_dir=str(folder / "out")))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda source, folder: source, "lacks weights"),
        (lambda source, folder: _judge(source, folder, 1).folder / "nowhere", "there is no folder"),
        (lambda source, folder: folder, "neither config.json"),
    ],
)
def test_what_is_no_cross_encoder_is_refused(
    make: Callable[[Path, Path], Path], told: str, minilm_folder, tmp_path
):
    with pytest.raises(UserError, match=r"^reranker: ") as caught:
        _reloaded(make(minilm_folder, tmp_path))
    assert told in str(caught.value)
