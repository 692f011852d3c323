"""Candidates of a query to scores: Swift beside CrossEncoder.predict, the same folder and the same pairs.

One query after the other, as a search is reranked; both sides tokenise. With ``--causal`` a random Qwen3 of
some 20 M parameters judges pairs by its yes and no; sentence-transformers reads them through its chat
template and LogitScore.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from benchmarks.machine import begin, demo_model
from benchmarks.rerank_lists import cut_documents, read_lists
from benchmarks.reranking import low_high, pair_collator, write_model
from benchmarks.workload import Row

if TYPE_CHECKING:
    from benchmarks.measure import Span
    from swift_reranker.pairs import PairEncoding

Score: TypeAlias = Callable[[str, list[str]], Any]

_PACKAGES = ("swift-reranker", "sentence-transformers", "transformers", "torch")
_TOLERANCE = 1e-4


def main(arguments: list[str]) -> int:
    """Score in turns and print the table; the exit code is 1 when scores differ."""
    parsed = _parser().parse_args(arguments)
    begin(_PACKAGES, parsed.threads)
    source = parsed.model or demo_model()
    with tempfile.TemporaryDirectory() as folder:
        model = write_model(source, Path(folder) / "model", causal=parsed.causal, dropout=False)
        collator = pair_collator(model, _max_length(parsed), causal=parsed.causal)
        rows = _rows(parsed)
        if parsed.lengths:
            rows = cut_documents(rows, collator.tokenizer, *parsed.lengths)
        collator.settings.save(model)
        print("\n".join(_work_lines(parsed, source, rows, collator.pairs)), flush=True)
        spans, scores = _measure(_sides(model, _max_length(parsed), parsed.batch_size), rows, parsed.repeats)
    print("\n" + "\n".join(_table(spans, sum(len(row["documents"]) for row in rows))))
    theirs, mine = scores.values()
    difference = max(float(abs(a - b).max()) for a, b in zip(theirs, mine, strict=True))
    print(f"\nLargest difference of a score (before any sigmoid): {difference:.1e}")
    return int(difference > _TOLERANCE)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks scoring", description=__doc__)
    add = parser.add_argument
    add("--model", type=Path, help="folder of an encoder (default: MiniLM of the demo); see --causal")
    add("--causal", action="store_true", help="a random Qwen3 with the tokenizer of --model")
    add("--data", type=Path, help="jsonl of query, document, label (and query_id), or of lists")
    add("--retrieval", type=Path, help="or a BEIR folder: what BM25 finds there")
    add("--split", default="test", help="of the BEIR folder (default: test)")
    add("--depth", type=int, default=100, help="candidates of a query (default: 100)")
    add("--queries", type=int, default=10, help="queries, the first of the file (default: 10)")
    add("--repeats", type=int, default=3, help="times that each side scores (default: 3)")
    add("--batch-size", type=int, default=32, help="of the peer (default: 32, its own)")
    add("--max-length", type=int, help="longest pair in tokens (default: 512; with --causal 2048)")
    add("--lengths", type=low_high, metavar="LOW-HIGH", help="cut documents to lengths drawn log-uniformly")
    add("--threads", type=int, help="threads of torch (default: torch's own)")
    return parser


def _max_length(parsed: argparse.Namespace) -> int:
    return parsed.max_length or (2048 if parsed.causal else 512)


def _rows(parsed: argparse.Namespace) -> list[Row]:
    """Queries with as many candidates as there are, at most ``--depth``."""
    if (parsed.data is None) == (parsed.retrieval is None):
        sys.exit("expected --data or --retrieval, one of them")
    if parsed.data is not None:
        rows = read_lists(parsed.data)[: parsed.queries]
        return [{**row, "documents": row["documents"][: parsed.depth]} for row in rows]
    from swift_core.data.beir import load_retrieval
    from swift_reranker.first_stage import bm25_candidates

    found = load_retrieval(parsed.retrieval, parsed.split)
    queries = dict(list(found.queries.items())[: parsed.queries])
    candidates = bm25_candidates(found.corpus, queries, parsed.depth)
    return [
        {"query": text, "documents": [found.corpus[document] for document, _ in candidates[name]]}
        for name, text in queries.items()
        if candidates[name]
    ]


def _work_lines(
    parsed: argparse.Namespace, source: Path, rows: Sequence[Row], pairs: PairEncoding
) -> list[str]:
    name = f"{source.parent.name}/{source.name}"
    tokens = [pairs.of_list(row["query"], row["documents"]) for row in rows]
    useful, computed = sum(sum(t.lengths) for t in tokens), sum(t.computed for t in tokens)
    if parsed.causal and any(any(t.cut) for t in tokens):
        # Each side cuts in a way of its own where a template surrounds the document.
        sys.exit(f"--max-length {_max_length(parsed)}: a pair is longer; raise it")
    count = sum(len(row["documents"]) for row in rows)
    cut = f", documents cut to {parsed.lengths[0]} to {parsed.lengths[1]}" if parsed.lengths else ""
    return [
        f"model     {'random Qwen3 with the tokenizer of ' if parsed.causal else ''}{name}, float32",
        f"pairs     {count:,} of {len(rows)} queries of {parsed.data or parsed.retrieval}, at most "
        f"{_max_length(parsed)} tokens each{cut}; batches of the peer: {parsed.batch_size}",
        f"tokens    {useful:,} useful ones, {useful / count:,.0f} a pair; shared by a query's pairs: "
        f"{statistics.median(len(t.prefix) for t in tokens):,.0f}, {useful / computed:.2f} useful ones for "
        "each computed one",
    ]


def _sides(model: Path, max_length: int, batch_size: int) -> dict[str, Score]:
    import torch
    from sentence_transformers.cross_encoder import CrossEncoder

    from swift_reranker.collator import feature_of
    from swift_reranker.reranker import load_reranker
    from swift_reranker.scoring import score_lists

    peer = CrossEncoder(
        str(model),
        max_length=max_length,
        local_files_only=True,
        activation_fn=torch.nn.Identity(),
        model_kwargs={"dtype": torch.float32},
    )
    reranker = load_reranker(model)

    def theirs(query: str, documents: list[str]) -> Any:
        pairs = [(query, document) for document in documents]
        return peer.predict(pairs, batch_size=batch_size, show_progress_bar=False)

    def mine(query: str, documents: list[str]) -> Any:
        feature = feature_of(reranker.collator.pairs.of_list(query, documents))
        return score_lists(reranker.model, reranker.collator, [feature])[0]

    return {"CrossEncoder.predict": theirs, "swift": mine}


def _measure(
    sides: Mapping[str, Score], rows: Sequence[Row], repeats: int
) -> tuple[dict[str, list[Span]], dict[str, list[Any]]]:
    """Times and scores of each side, all queries of a repeat one after the other, in turns."""
    from benchmarks.measure import now

    for score in sides.values():
        score(rows[0]["query"], rows[0]["documents"][:8])
    scores: dict[str, list[Any]] = {}
    spans: dict[str, list[Span]] = {name: [] for name in sides}
    for repeat in range(repeats):
        for name, score in sides.items():
            began = now()
            scores[name] = [score(row["query"], row["documents"]) for row in rows]
            spans[name].append(now() - began)
        print(f"repeat {repeat + 1}/{repeats}", flush=True)
    return spans, scores


def _table(spans: Mapping[str, list[Span]], pairs: int) -> list[str]:
    lines = [
        "| | pairs per CPU-second | pairs per second | CPU: times the peer's speed |",
        "| --- | ---: | ---: | ---: |",
    ]
    peer = next(iter(spans.values()))
    for name, mine in spans.items():
        cpu, wall = (statistics.median(getattr(span, kind) for span in mine) for kind in ("cpu", "wall"))
        gain = statistics.median(a.cpu / b.cpu for a, b in zip(peer, mine, strict=True))
        lines.append(f"| {name} | {pairs / cpu:,.1f} | {pairs / wall:,.1f} | {gain:.2f} |")
    return lines
