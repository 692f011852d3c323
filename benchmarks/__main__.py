"""``python -m benchmarks NAME ...``: each benchmark is a module with ``main(arguments) -> exit code``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable

BENCHMARKS = {
    "startup": "benchmarks.startup",
    "embedding": "benchmarks.embedding",
    "encoding": "benchmarks.encoding",
    "families": "benchmarks.families",
    "search": "benchmarks.search",
    "zeroshot": "benchmarks.zeroshot",
    "mining": "benchmarks.mining",
    "index": "benchmarks.index",
    "quality": "benchmarks.quality",
    "long-document": "benchmarks.long_document",
    "classification": "benchmarks.classification",
    "classification-quality": "benchmarks.classification_quality",
    "reranking": "benchmarks.reranking",
    "scoring": "benchmarks.scoring",
    "reranker-quality": "benchmarks.reranker_quality",
    "lora-memory": "benchmarks.lora_memory",
    "preference": "benchmarks.preference",
    "preference-quality": "benchmarks.preference_quality",
}


def main(arguments: list[str]) -> int:
    """Run the benchmark that the first argument names."""
    if not arguments or arguments[0] not in BENCHMARKS:
        print(f"usage: python -m benchmarks {{{','.join(BENCHMARKS)}}} [--help]", file=sys.stderr)
        return 2
    run: Callable[[list[str]], int] = importlib.import_module(BENCHMARKS[arguments[0]]).main
    return run(arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
