"""Whole runs: a decoder with last-token pooling, and what sentence-transformers makes of the result."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

import swift_embedding
from swift_core import SwiftTrainer, TrainingArguments
from swift_embedding.encoding import TextEncoder

ROWS = [
    {"query": f"where is {word}", "positive": f"{word} lies in the north", "negatives": [f"no {word} here"]}
    for word in ("oslo", "paris", "rome", "lima", "cairo", "delhi", "quito", "accra")
]


@pytest.fixture
def decoder_folder(decoder: TextEncoder, tmp_path: Path) -> str:
    """The tiny Qwen3 as a plain model folder, without any configuration of sentence-transformers."""
    decoder.model.save_pretrained(tmp_path / "decoder")
    decoder.tokenizer.save_pretrained(tmp_path / "decoder")
    return str(tmp_path / "decoder")


@pytest.mark.parametrize("use_lora", [False, True])
def test_a_decoder_learns_with_the_last_token_and_is_exported(decoder_folder, tmp_path, use_lora):
    args = TrainingArguments(
        "embedding",
        model_name_or_path=decoder_folder,
        output_dir=str(tmp_path / "out"),
        max_length=24,
        cache_dir=str(tmp_path),
        per_device_train_batch_size=4,
        max_steps=10,
        learning_rate=5e-3,
        use_lora=use_lora,
        query_prompt="Q: ",
        logging_steps=1,
        disable_tqdm=True,
    )
    trainer = SwiftTrainer(args, train_dataset=ROWS, eval_dataset=ROWS)
    assert trainer.collator.pooling_method == "lasttoken"
    before = trainer.evaluate()["eval_ndcg@10"]
    trainer.train()
    assert trainer.evaluate()["eval_ndcg@10"] > before

    bundle = swift_embedding.load_bundle(trainer.save_model(format="faiss"))
    peer = SentenceTransformer(str(trainer.save_model(format="hf")), device="cpu")
    queries = [row["query"] for row in ROWS]
    mine = bundle.encoder.encode_queries(queries)
    assert np.abs(mine - peer.encode(queries, prompt_name="query")).max() < 1e-5
    hits = bundle.search(queries[0], k=3)
    scores = peer.encode([hit.text for hit in hits]) @ peer.encode(queries[0], prompt_name="query")
    assert [hit.score for hit in hits] == pytest.approx(scores.tolist(), abs=1e-5)
