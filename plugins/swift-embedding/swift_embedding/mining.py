"""Hard negatives: texts that a model finds close to a query though they do not answer it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Literal, Protocol

import faiss
import numpy as np
from tqdm import tqdm

from swift_core.errors import UserError
from swift_embedding.shards import ShardCache, fingerprint

if TYPE_CHECKING:
    from swift_embedding.encoding import TextEncoder

# Shape legend: Q queries of a chunk, K candidates of each, N documents, P pairs, D dimensions.

_QUERIES_AT_ONCE = 1_024
_PAIRS_AT_ONCE = 65_536

Pair = tuple[str, str]


class Reranker(Protocol):
    """Judges a query and a document together; :mod:`swift_embedding.rescoring` has one."""

    @property
    def key(self) -> str:
        """Names the model and all that its scores depend on."""

    def score(self, pairs: Sequence[Pair]) -> np.ndarray:
        """Scores of P pairs of query and document, the higher the better: float32 [P]."""


@dataclass(frozen=True, kw_only=True)
class MiningSettings:
    """Which of the closest documents become negatives; names and meanings are sentence-transformers'.

    The margins are those of NV-Retriever (de Souza P. Moreira et al. 2024). With ``s`` the score of a
    candidate and ``p`` the lowest score of a positive of the query, a candidate is left out where

    - ``absolute_margin``: s > p - absolute_margin,
    - ``relative_margin``: s > p - |p| * relative_margin,
    - ``max_score``: s > max_score, and ``min_score``: s < min_score.

    Attributes:
        num_negatives: negatives of each query at most.
        range_min: the so many closest of the candidates that are left are skipped.
        range_max: so many of them are looked at; None for 10 times ``num_negatives`` where something filters
            or reranks, and else for as many as are needed.
        sampling_strategy: ``top`` takes the closest of these, ``random`` draws among them.
        seed: of the draw.

    Raises:
        UserError: values that contradict each other or can't be; all of them at once.
    """

    num_negatives: int = 3
    range_min: int = 0
    range_max: int | None = None
    absolute_margin: float | None = None
    relative_margin: float | None = None
    max_score: float | None = None
    min_score: float | None = None
    sampling_strategy: Literal["top", "random"] = "top"
    seed: int = 42

    def __post_init__(self) -> None:
        faults = []
        if self.num_negatives < 1:
            faults.append(f"num_negatives: expected 1 or more, found {self.num_negatives}")
        if self.range_min < 0:
            faults.append(f"range_min: expected 0 or more, found {self.range_min}")
        if self.range_max is not None and self.range_max - self.range_min < self.num_negatives:
            faults.append(
                f"range_max: expected at least range_min + num_negatives = "
                f"{self.range_min + self.num_negatives}, found {self.range_max}; raise it, or ask for fewer"
            )
        for name in ("absolute_margin", "relative_margin"):
            value = getattr(self, name)
            if value is not None and not value >= 0:  # also when it is NaN
                faults.append(f"{name}: expected 0 or more, found {value}")
        if None not in (self.min_score, self.max_score) and self.min_score > self.max_score:  # type: ignore[operator]
            faults.append(
                f"min_score: {self.min_score} is above max_score, {self.max_score}: nothing is left"
            )
        if self.sampling_strategy not in ("top", "random"):
            faults.append(f"sampling_strategy: expected top or random, found {self.sampling_strategy!r}")
        if faults:
            raise UserError(*faults)

    def deepest(self, most_positives: int, reranks: bool) -> int:
        """``range_max``, or its default where a query has up to ``most_positives``."""
        if self.range_max is not None:
            return self.range_max
        limits = (self.absolute_margin, self.relative_margin, self.max_score, self.min_score)
        spare = 10 if reranks or any(limit is not None for limit in limits) else 1
        return self.range_min + spare * self.num_negatives + most_positives


@dataclass(frozen=True, kw_only=True)
class Mined:
    """What was found, one entry for each query that was given.

    Attributes:
        negatives: texts, the closest first.
        negative_scores: their scores.
        positive_scores: scores of the query's positives, in the order given.
        known_scores: scores of what was given as ``known``.
        removed: how many candidates each filter took away; ``known`` counts the positives, the queries' own
            texts and what was given as known.
        queries: how many different queries there were.
        documents: how many different documents were searched.
    """

    negatives: list[list[str]]
    negative_scores: list[list[float]]
    positive_scores: list[list[float]]
    known_scores: list[list[float]]
    removed: dict[str, int]
    queries: int
    documents: int


def mine_negatives(
    encoder: TextEncoder,
    queries: Sequence[str],
    positives: Sequence[Sequence[str]],
    corpus: Iterable[str],
    settings: MiningSettings,
    *,
    known: Sequence[Sequence[str]] | None = None,
    reranker: Reranker | None = None,
    cache: ShardCache | None = None,
    progress: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Mined:
    """Search the corpus exactly and choose hard negatives among the closest documents of each query.

    Texts that differ only in white space are one text. Queries that are one text share their positives. A
    positive of a query, its own text and its known texts are never returned for it. Each text is encoded
    once.

    Args:
        encoder: turns queries and documents into vectors.
        queries: E texts; a query may come several times, with other positives.
        positives: for each of them the texts that answer it, at least one.
        corpus: documents; the positives are always searched too.
        settings: what to choose.
        known: for each query texts that are not to be found again, such as negatives that it has; they are
            searched for the other queries.
        reranker: scores candidates and positives anew; margins, limits and order are then by its scores.
        cache: keeps vectors and the reranker's scores, so that a call that was killed goes on.
        progress: show bars.
        say: is given a line on each stage.

    Raises:
        UserError: there is no query, or one without a positive.
    """
    problem = _Problem(queries, positives, corpus, known or [()] * len(queries))
    cache = cache or ShardCache()
    query_vectors, document_vectors = _vectors(encoder, problem, cache, progress, say)
    miner = _Miner(problem, settings, reranker, cache, progress, query_vectors, document_vectors)
    say(f"search    the {miner.depth:,} closest documents of each query" + (", reranked" if reranker else ""))
    miner.score_own_pairs()
    found = miner.mine()
    return _told(problem, miner, found)


class _Texts:
    """Different texts by number; those that differ in white space only are one, the first seen."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._numbers: dict[str, int] = {}

    def add(self, text: str) -> int:
        number = self._numbers.setdefault(_plain(text), len(self.texts))
        if number == len(self.texts):
            self.texts.append(text)
        return number

    def find(self, text: str) -> int | None:
        return self._numbers.get(_plain(text))


def _plain(text: str) -> str:
    plain = " ".join(text.split())
    return text if plain == text else plain  # most texts are plain: one copy is enough


class _Problem:
    """Queries and documents by number.

    Attributes:
        queries: different queries.
        documents: different documents.
        entries: number of the query of each entry that was given.
        positives: for each query the numbers of its positives.
        own: for each entry the numbers of its positives and of its known texts.
        excluded: for each query the numbers of the documents that are not to be found.
    """

    def __init__(
        self,
        queries: Sequence[str],
        positives: Sequence[Sequence[str]],
        corpus: Iterable[str],
        known: Sequence[Sequence[str]],
    ) -> None:
        lonely = [number for number, texts in enumerate(positives, start=1) if not texts]
        if not queries or lonely:
            found = f"none for query {lonely[0]}" if lonely else "no queries"
            raise UserError(f"expected queries with a positive each, found {found}")
        searched, asked = _Texts(), _Texts()
        for text in corpus:
            searched.add(text)
        self.entries = [asked.add(text) for text in queries]
        self.own = [
            ([searched.add(text) for text in answers], [searched.add(text) for text in others])
            for answers, others in zip(positives, known, strict=True)
        ]
        self.queries, self.documents = asked.texts, searched.texts
        self.positives: list[dict[int, None]] = [{} for _ in self.queries]
        self.excluded: list[set[int]] = [set() for _ in self.queries]
        for query, (answers, others) in zip(self.entries, self.own, strict=True):
            self.positives[query].update(dict.fromkeys(answers))
            self.excluded[query].update(answers, others)
        for query, text in enumerate(self.queries):
            same = searched.find(text)
            if same is not None:
                self.excluded[query].add(same)

    @property
    def most_positives(self) -> int:
        return max(len(numbers) for numbers in self.positives)

    @property
    def most_excluded(self) -> int:
        return max(len(numbers) for numbers in self.excluded)


def _vectors(
    encoder: TextEncoder, problem: _Problem, cache: ShardCache, progress: bool, say: Callable[[str], None]
) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of all queries and documents; what is both is encoded once where prompts don't differ."""
    how = {f.name: getattr(encoder, f.name) for f in fields(encoder) if f.name not in _NOT_IN_THE_VECTORS}
    key = fingerprint(encoder.model, encoder.tokenizer, pooler=False, **how)

    def encoded(side: str, texts: Sequence[str]) -> np.ndarray:
        encode = encoder.encode_queries if side == "queries" else encoder.encode_documents
        kept = cache.count_kept(texts, key=f"{key} {side}")
        say(f"encode    {len(texts):,} {side}" + (f", {kept:,} of them kept from before" if kept else ""))
        bar = side if progress and len(texts) > cache.shard_items else None
        return cache.computed(texts, lambda part: encode(part, progress), key=f"{key} {side}", progress=bar)

    as_query = (encoder.query_prompt, encoder.query_max_length)
    if as_query != (encoder.document_prompt, encoder.document_max_length):
        return encoded("queries", problem.queries), encoded("documents", problem.documents)
    texts = dict.fromkeys([*problem.documents, *problem.queries])
    vectors = encoded("documents" if len(texts) == len(problem.documents) else "texts", list(texts))
    place = {text: number for number, text in enumerate(texts)}
    return vectors[[place[text] for text in problem.queries]], vectors[: len(problem.documents)]


_NOT_IN_THE_VECTORS = frozenset({"model", "tokenizer", "batch_tokens", "share_batches"})


@dataclass
class _Miner:
    """The search, chunk by chunk, and what it counts on the way."""

    problem: _Problem
    settings: MiningSettings
    reranker: Reranker | None
    cache: ShardCache
    progress: bool
    query_vectors: np.ndarray  # [all queries, D]
    document_vectors: np.ndarray  # [N, D]
    own_scores: dict[tuple[int, int], float] = field(default_factory=dict)
    removed: Counter[str] = field(default_factory=Counter)

    @property
    def deepest(self) -> int:
        return self.settings.deepest(self.problem.most_positives, self.reranker is not None)

    @property
    def depth(self) -> int:
        """Documents to find for a query: what is never taken must not use up the range."""
        return min(self.deepest + self.problem.most_excluded, len(self.problem.documents))

    def score_own_pairs(self) -> None:
        """Score each query with its positives and known texts."""
        pairs = dict.fromkeys(
            (query, document)
            for query, (answers, others) in zip(self.problem.entries, self.problem.own, strict=True)
            for document in (*answers, *others)
        )
        self.own_scores = dict(zip(pairs, self._pair_scores(list(pairs)).tolist(), strict=True))

    def mine(self) -> list[tuple[list[int], list[float]]]:
        """Numbers and scores of the negatives of every query."""
        draw = np.random.default_rng(self.settings.seed)
        count = len(self.problem.queries)
        found = []
        with tqdm(total=count, desc="searching", unit="query", leave=False, disable=not self.progress) as bar:
            for start in range(0, count, _QUERIES_AT_ONCE):
                chunk = range(start, min(start + _QUERIES_AT_ONCE, count))
                found += self._mine_chunk(chunk, draw)
                bar.update(len(chunk))
        return found

    def _mine_chunk(self, chunk: range, draw: np.random.Generator) -> list[tuple[list[int], list[float]]]:
        vectors = self.query_vectors[chunk.start : chunk.stop]
        # Twice as fast on two cores as torch's product and topk; it copies no documents, as an index would.
        scores, numbers = faiss.knn(
            vectors, self.document_vectors, self.depth, metric=faiss.METRIC_INNER_PRODUCT
        )  # both [Q, K]
        # faiss names no document, -1, for a score that is not a number.
        alive = ~self._excluded(chunk, numbers) & (numbers >= 0)  # [Q, K]
        if self.reranker is not None:
            rows, columns = np.nonzero(alive)
            pairs = list(zip((rows + chunk.start).tolist(), numbers[rows, columns].tolist(), strict=True))
            scores[rows, columns] = self._pair_scores(pairs)
        floor = [min(self.own_scores[q, d] for d in self.problem.positives[q]) for q in chunk]
        self.removed["known"] += int((~alive).sum())
        alive = remaining(scores, alive, np.array(floor, dtype=np.float32), self.settings, self.removed)
        chosen = choose(scores, alive, self.settings, self.deepest, draw)
        return [
            (numbers[row, columns].tolist(), scores[row, columns].tolist())
            for row, columns in enumerate(chosen)
        ]

    def _excluded(self, chunk: range, numbers: np.ndarray) -> np.ndarray:
        """Which candidates, [Q, K] of ``numbers``, a query must not get."""
        total = len(self.problem.documents)
        codes = [(query - chunk.start) * total + d for query in chunk for d in self.problem.excluded[query]]
        rows = np.arange(len(numbers), dtype=np.int64)[:, None]  # [Q, 1]
        return np.isin(rows * total + numbers, np.array(codes, dtype=np.int64))

    def _pair_scores(self, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
        """Scores of P pairs of numbers of a query and of a document: [P]."""
        if self.reranker is not None:
            texts = [(self.problem.queries[query], self.problem.documents[d]) for query, d in pairs]
            return self.cache.computed(texts, self.reranker.score, key=self.reranker.key).reshape(-1)
        parts = []
        for start in range(0, len(pairs), _PAIRS_AT_ONCE):
            queries, documents = np.array(pairs[start : start + _PAIRS_AT_ONCE]).T
            products = self.query_vectors[queries] * self.document_vectors[documents]  # [P, D]
            parts.append(products.sum(axis=1))
        return np.concatenate(parts)


def remaining(
    scores: np.ndarray, alive: np.ndarray, floor: np.ndarray, settings: MiningSettings, removed: Counter[str]
) -> np.ndarray:
    """Which candidates the margins and limits leave; see :class:`MiningSettings`.

    Args:
        scores: [Q, K].
        alive: [Q, K], the candidates that come into question.
        floor: [Q], the lowest score of a positive of each query.
        settings: the filters.
        removed: counts, by name, what each filter takes of what the ones before it left.

    Returns:
        [Q, K]
    """
    for name, refused in _refused(scores, floor[:, None], settings):
        removed[name] += int((alive & refused).sum())
        alive = alive & ~refused
    return alive


def _refused(
    scores: np.ndarray, floor: np.ndarray, settings: MiningSettings
) -> Iterator[tuple[str, np.ndarray]]:
    if settings.absolute_margin is not None:
        yield "absolute_margin", scores + settings.absolute_margin > floor
    if settings.relative_margin is not None:
        # Not p * (1 - margin), which would lie above a negative p.
        yield "relative_margin", scores > floor - np.abs(floor) * settings.relative_margin
    if settings.max_score is not None:
        yield "max_score", scores > settings.max_score
    if settings.min_score is not None:
        yield "min_score", scores < settings.min_score


def choose(
    scores: np.ndarray,
    alive: np.ndarray,
    settings: MiningSettings,
    deepest: int,
    draw: np.random.Generator,
) -> list[np.ndarray]:
    """Columns of the candidates that become negatives, the best first; a list of one array a query.

    Args:
        scores: [Q, K].
        alive: [Q, K], what the filters left.
        settings: how to sample.
        deepest: how many of those left are looked at.
        draw: random numbers for ``random``.
    """
    order = np.argsort(-np.where(alive, scores, -np.inf), axis=1, kind="stable")  # [Q, K]
    window = order[:, settings.range_min : deepest]
    live = np.take_along_axis(alive, window, axis=1)  # [Q, window]
    if settings.sampling_strategy == "random":
        ticket = np.where(live, draw.random(live.shape), np.inf)
        drawn = np.sort(np.argsort(ticket, axis=1)[:, : settings.num_negatives], axis=1)
        window, live = np.take_along_axis(window, drawn, axis=1), np.take_along_axis(live, drawn, axis=1)
    columns = zip(window, live, strict=True)
    return [row[kept][: settings.num_negatives] for row, kept in columns]


def _told(problem: _Problem, miner: _Miner, found: list[tuple[list[int], list[float]]]) -> Mined:
    def own_scores(part: int) -> list[list[float]]:
        entries = zip(problem.entries, problem.own, strict=True)
        return [[miner.own_scores[query, d] for d in own[part]] for query, own in entries]

    texts = [[problem.documents[number] for number in numbers] for numbers, _ in found]
    return Mined(
        negatives=[list(texts[query]) for query in problem.entries],
        negative_scores=[list(found[query][1]) for query in problem.entries],
        positive_scores=own_scores(0),
        known_scores=own_scores(1),
        removed=dict(miner.removed),
        queries=len(problem.queries),
        documents=len(problem.documents),
    )
