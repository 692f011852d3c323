"""Hard-negative mining beside sentence-transformers' mine_hard_negatives, at the same settings."""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from benchmarks.machine import begin, demo_model

if TYPE_CHECKING:
    from benchmarks.measure import Span
    from swift_embedding.encoding import TextEncoder

Row: TypeAlias = dict[str, Any]
Negatives: TypeAlias = dict[tuple[str, str], list[str]]
Mine: TypeAlias = Callable[[list[Row], list[str]], Negatives]

_ROOT = Path(__file__).parent.parent
_DATA = _ROOT / "plugins/swift-embedding/examples/cmrc2018/train.jsonl"
_PACKAGES = ("swift-embedding", "sentence-transformers", "faiss-cpu", "transformers", "torch")
_SETTINGS: Mapping[str, Any] = {"num_negatives": 5, "range_max": 50, "relative_margin": 0.05}


_DTYPES = ("float32", "bfloat16")


def main(arguments: list[str]) -> int:
    """Mine in turns and print the table; the exit code is 1 when the float32 sides find other texts."""
    parsed = _parser().parse_args(arguments)
    begin(_PACKAGES, parsed.threads)
    rows = [{n: row[n] for n in ("query", "positive")} for row in _lines(parsed.data)[: parsed.rows]]
    corpus = [_document(row) for row in _lines(parsed.corpus)[: parsed.documents]] if parsed.corpus else []
    print(f"data      {len(rows):,} rows, {len(corpus):,} documents beside their positives")
    print(f"settings  {_SETTINGS}", flush=True)
    sides = _sides(parsed.model or demo_model(), parsed.batch_size, parsed.dtypes)
    # What is found out at the first call, such as how to run the model, is not timed.
    for mine in sides.values():
        mine(rows[:16], corpus[:16])
    spans, found = _measure(sides, rows, corpus, parsed.repeats)
    print("\n" + "\n".join(_table(spans)) + "\n")
    theirs, *ours = found.values()
    same = {dtype: _overlap(theirs, mine) for dtype, mine in zip(parsed.dtypes, ours, strict=True)}
    told = "".join(f"; the same in {dtype}: {share:.4%}" for dtype, share in same.items())
    print(f"negatives: {sum(map(len, theirs.values())):,}{told}")
    return int(same.get("float32", 1.0) < 0.999)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks mining", description=__doc__)
    add = parser.add_argument
    add("--model", type=Path, help="folder of an encoder (default: MiniLM of the demo)")
    add("--data", type=Path, default=_DATA, help="jsonl with query and positive")
    add("--rows", type=int, help="use the first rows of the data only (default: all)")
    add("--corpus", type=Path, help="corpus.jsonl to search too (default: the positives only)")
    add("--documents", type=int, help="use the first documents of the corpus only (default: all)")
    add("--repeats", type=int, default=3, help="times that each side mines (default: 3)")
    add("--batch-size", type=int, default=32, help="of the peer's encoder (default: 32, its own)")
    add("--dtypes", nargs="+", default=_DTYPES, choices=_DTYPES, help="of swift's weights (default: both)")
    add("--threads", type=int, help="threads of torch (default: torch's own)")
    return parser


def _lines(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _document(row: Row) -> str:
    return f"{row.get('title', '')} {row['text']}".strip()


def _measure(
    sides: Mapping[str, Mine], rows: list[Row], corpus: list[str], repeats: int
) -> tuple[dict[str, list[Span]], dict[str, Negatives]]:
    from benchmarks.measure import now

    spans: dict[str, list[Span]] = {name: [] for name in sides}
    found = {}
    for repeat in range(repeats):
        for name, mine in sides.items():
            began = now()
            found[name] = mine(rows, corpus)
            spans[name].append(now() - began)
            took = f"CPU {spans[name][-1].cpu:.1f} s, wall {spans[name][-1].wall:.1f} s"
            print(f"repeat {repeat + 1}/{repeats}  {name}: {took}", flush=True)
    return spans, found


def _table(spans: Mapping[str, list[Span]]) -> list[str]:
    lines = [
        "| | CPU-seconds | seconds | CPU: times as fast as the peer | on the wall |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    peer = next(iter(spans.values()))
    for name, mine in spans.items():
        cells = [name]
        for kind in ("cpu", "wall"):
            cells.append(f"{statistics.median(getattr(span, kind) for span in mine):.1f}")
        for kind in ("cpu", "wall"):
            pairs = zip(peer, mine, strict=True)
            cells.append(f"{statistics.median(getattr(a, kind) / getattr(b, kind) for a, b in pairs):.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _overlap(expected: Negatives, found: Negatives) -> float:
    """Share of the expected negatives that were found for the same row."""
    common = sum(len(set(texts) & set(found.get(row, ()))) for row, texts in expected.items())
    return common / max(sum(map(len, expected.values())), 1)


def _sides(model: Path, batch_size: int, dtypes: Sequence[str]) -> dict[str, Mine]:
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModel, AutoTokenizer

    from swift_embedding.encoding import TextEncoder

    peer = SentenceTransformer(str(model), device="cpu", local_files_only=True)
    sides: dict[str, Mine] = {"sentence-transformers float32": _peers(peer, batch_size)}
    for dtype in dtypes:
        encoder = TextEncoder(
            model=AutoModel.from_pretrained(model, dtype=getattr(torch, dtype)).eval(),
            tokenizer=AutoTokenizer.from_pretrained(model),
            max_length=peer.max_seq_length,
            pooling_method="mean",
            normalize_embeddings=True,
        )
        sides[f"swift {dtype}"] = _swifts(encoder)
    return sides


def _peers(peer: Any, batch_size: int) -> Mine:
    import datasets
    from sentence_transformers.util import mine_hard_negatives

    def mine(rows: list[Row], corpus: list[str]) -> Negatives:
        pairs = datasets.Dataset.from_list(rows)
        mined = mine_hard_negatives(
            pairs,
            peer,
            corpus=corpus,
            use_faiss=True,
            batch_size=batch_size,
            output_format="labeled-list",
            verbose=False,
            **_SETTINGS,
        )
        # A row's texts are its positive and then its negatives.
        return {(row["query"], row["positive"][0]): row["positive"][1:] for row in mined}

    return mine


def _swifts(encoder: TextEncoder) -> Mine:
    from swift_embedding.mining import MiningSettings, mine_negatives
    from swift_embedding.shards import ShardCache

    def mine(rows: list[Row], corpus: list[str]) -> Negatives:
        queries, positives = [row["query"] for row in rows], [[row["positive"]] for row in rows]
        # Vectors are kept in files, as the command keeps them.
        with tempfile.TemporaryDirectory() as folder:
            cache = ShardCache(folder=Path(folder))
            settings = MiningSettings(**_SETTINGS)
            mined = mine_negatives(encoder, queries, positives, corpus, settings, cache=cache)
        pairs = zip(queries, (texts[0] for texts in positives), strict=True)
        return dict(zip(pairs, mined.negatives, strict=True))

    return mine
