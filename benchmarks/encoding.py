"""A corpus to vectors: Swift's encoder beside SentenceTransformer.encode, the same texts and weights."""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from benchmarks.machine import begin, demo_model

if TYPE_CHECKING:
    from benchmarks.measure import Span

Encode: TypeAlias = Callable[[list[str]], Any]

_ROOT = Path(__file__).parent.parent
_DATA = _ROOT / "plugins/swift-embedding/examples/cmrc2018/train.jsonl"
_PACKAGES = ("swift-embedding", "sentence-transformers", "transformers", "torch")
_TOLERANCE = 1e-5


def main(arguments: list[str]) -> int:
    """Encode in turns and print the table; the exit code is 1 when float32 vectors differ."""
    parsed = _parser().parse_args(arguments)
    begin(_PACKAGES, parsed.threads)
    texts = _texts(parsed.data, parsed.rows)
    names = ", ".join(f"{path.parent.name}/{path.name}" for path in parsed.data)
    print(f"texts     {len(texts):,} of {names}", flush=True)
    spans, vectors = _measure(_sides(parsed.model or demo_model(), parsed.batch_size), texts, parsed.repeats)
    print("\n" + "\n".join(_table(spans, len(texts))))
    peer, _, mine, mine_bf16 = vectors.values()
    difference = float(abs(peer - mine).max())
    print(f"\nLargest difference of a component in float32: {difference:.1e}")
    cosine = (peer * mine_bf16).sum(-1).min()
    print(f"Least cosine of swift's bf16 vectors with the peer's in float32: {cosine:.4f}")
    return int(difference > _TOLERANCE)


def _measure(
    sides: Mapping[str, Encode], texts: list[str], repeats: int
) -> tuple[dict[str, list[Span]], Any]:
    """Times and vectors of each side, encoding in turns."""
    from benchmarks.measure import now

    vectors = {name: encode(texts[:50]) for name, encode in sides.items()}
    spans: dict[str, list[Span]] = {name: [] for name in sides}
    for repeat in range(repeats):
        for name, encode in sides.items():
            began = now()
            vectors[name] = encode(texts)
            spans[name].append(now() - began)
        print(f"repeat {repeat + 1}/{repeats}", flush=True)
    return spans, vectors


def _table(spans: Mapping[str, list[Span]], texts: int) -> list[str]:
    lines = [
        "| | texts per CPU-second | texts per second | CPU: times the peer's float32 | times its bf16 |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    peers = list(spans.values())[:2]
    for name, mine in spans.items():
        cpu, wall = (statistics.median(getattr(span, kind) for span in mine) for kind in ("cpu", "wall"))
        gains = [statistics.median(a.cpu / b.cpu for a, b in zip(peer, mine, strict=True)) for peer in peers]
        cells = (name, f"{texts / cpu:,.1f}", f"{texts / wall:,.1f}", *(f"{gain:.2f}" for gain in gains))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks encoding", description=__doc__)
    add = parser.add_argument
    add("--model", type=Path, help="folder of an encoder (default: MiniLM of the demo)")
    add(
        "--data", type=Path, nargs="+", default=[_DATA], help="jsonl with text (and title), positive or query"
    )
    add("--rows", type=int, default=400, help="texts of each file at most (default: 400)")
    add("--repeats", type=int, default=3, help="times that each side encodes (default: 3)")
    add("--batch-size", type=int, default=32, help="of the peer (default: 32, its own)")
    add("--threads", type=int, help="threads of torch (default: torch's own)")
    return parser


def _texts(paths: Sequence[Path], limit: int) -> list[str]:
    found: dict[str, None] = {}
    for path in paths:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        texts = [_text_of(row) for row in rows]
        found.update(dict.fromkeys(list(dict.fromkeys(texts))[:limit]))
    return list(found)


def _text_of(row: Mapping[str, str]) -> str:
    if "text" in row:
        return f"{row.get('title', '')} {row['text']}".strip()
    return row.get("positive") or row["query"]


def _sides(model: Path, batch_size: int) -> dict[str, Encode]:
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModel, AutoTokenizer

    from swift_embedding.encoding import TextEncoder

    sides: dict[str, Encode] = {}
    for dtype in (torch.float32, torch.bfloat16):
        peer = SentenceTransformer(
            str(model), device="cpu", local_files_only=True, model_kwargs={"dtype": dtype}
        )

        def theirs(texts: list[str], peer: Any = peer) -> Any:
            found = peer.encode(texts, batch_size=batch_size, convert_to_tensor=True, show_progress_bar=False)
            return found.float().numpy()

        sides[f"sentence-transformers {str(dtype).removeprefix('torch.')}"] = theirs
    for dtype in (torch.float32, torch.bfloat16):
        encoder = TextEncoder(
            model=AutoModel.from_pretrained(model, dtype=dtype).eval(),
            tokenizer=AutoTokenizer.from_pretrained(model),
            max_length=peer.max_seq_length,
            pooling_method="mean",
            normalize_embeddings=True,
        )
        sides[f"swift {str(dtype).removeprefix('torch.')}"] = encoder.encode_documents
    return sides
