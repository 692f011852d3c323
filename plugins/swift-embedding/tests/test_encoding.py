"""Texts to vectors: the same as sentence-transformers gives, in any order and on any number of processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from swift_core.flat import flat_batch
from swift_core.testing.forks import run_forked
from swift_embedding.encoding import TextEncoder, embed


def reference(encoder: TextEncoder, folder: Path) -> object:
    """sentence-transformers over the same weights and tokenizer, put together by its own classes."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Normalize, Pooling, Transformer

    encoder.model.save_pretrained(folder)
    encoder.tokenizer.save_pretrained(folder)
    transformer = Transformer(str(folder), max_seq_length=encoder.max_length)
    pooling = Pooling(encoder.model.config.hidden_size, pooling_mode=encoder.pooling_method)
    return SentenceTransformer(modules=[transformer, pooling, Normalize()], device="cpu")


def test_real_encoder_equals_sentence_transformers(
    minilm: TextEncoder, minilm_folder: Path, texts: list[str]
) -> None:
    from sentence_transformers import SentenceTransformer

    expected = SentenceTransformer(str(minilm_folder), device="cpu").encode(texts, batch_size=3)
    found = replace(minilm, batch_tokens=300).encode_documents(texts)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_decoder_equals_sentence_transformers(decoder: TextEncoder, texts: list[str], tmp_path: Path) -> None:
    decoder = replace(decoder, batch_tokens=40)
    expected = reference(decoder, tmp_path).encode(texts)  # type: ignore[attr-defined]
    np.testing.assert_allclose(decoder.encode_documents(texts), expected, rtol=0, atol=1e-5)


def test_prompts_are_put_before(decoder: TextEncoder, texts: list[str]) -> None:
    prompted = replace(decoder, query_prompt="query: ", document_prompt="passage: ")
    np.testing.assert_allclose(
        prompted.encode_queries(texts), decoder.encode_queries(["query: " + t for t in texts]), atol=1e-6
    )
    np.testing.assert_allclose(
        prompted.encode_documents(texts), decoder.encode_queries(["passage: " + t for t in texts]), atol=1e-6
    )


def test_a_cut_text_keeps_its_end_token(decoder: TextEncoder, texts: list[str]) -> None:
    whole = decoder.tokenizer(texts[4])["input_ids"]
    kept = [*whole[: decoder.max_length - 1], decoder.tokenizer.eos_token_id]
    assert len(whole) > decoder.max_length
    np.testing.assert_allclose(
        decoder.encode_documents([texts[4]]), decoder.encode_token_ids([kept]), atol=1e-6
    )


def test_batches_keep_the_budget_and_the_order(decoder: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [[5] * n for n in (2, 9, 1, 9, 4, 30, 3)]
    shapes = []
    plain = decoder.encode_token_ids(rows)
    forward = decoder.model.forward

    def watched(**inputs: torch.Tensor) -> object:
        shapes.append(inputs["input_ids"].shape[1])
        return forward(**inputs)

    monkeypatch.setattr(decoder.model, "forward", watched)
    split = replace(decoder, batch_tokens=18).encode_token_ids(rows)
    assert shapes == [30, 9 + 9, 4 + 3 + 2 + 1]  # the one row above the budget goes alone
    np.testing.assert_allclose(split, plain, atol=1e-6)


def test_texts_are_tokenised_in_parts(
    decoder: TextEncoder, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = decoder.encode_documents(texts)
    monkeypatch.setattr("swift_embedding.encoding._TEXTS_AT_ONCE", 3)
    np.testing.assert_allclose(decoder.encode_documents(texts), whole, atol=1e-6)


def test_nothing_and_empty_texts(decoder: TextEncoder) -> None:
    assert decoder.encode_queries([]).shape == (0, 0)
    assert decoder.encode_token_ids([[]]).tolist() == [[0.0] * 32]
    found = decoder.encode_token_ids([[7, 8], [], [9]])
    assert not found[1].any()
    np.testing.assert_allclose(found[[0, 2]], decoder.encode_token_ids([[7, 8], [9]]), atol=1e-6)


def test_a_model_in_training_is_left_as_it_was(decoder: TextEncoder) -> None:
    model = torch.nn.Sequential(torch.nn.Dropout(0.9))
    model.add_module("body", decoder.model)
    model.forward = decoder.model.forward  # type: ignore[method-assign]
    model.train()
    decoder.model.norm.eval()
    encoder = replace(decoder, model=model)
    np.testing.assert_array_equal(encoder.encode_queries(["one"]), encoder.encode_queries(["one"]))
    assert model.training and decoder.model.training and not decoder.model.norm.training


def test_tables_made_while_encoding_can_be_trained_with(decoder: TextEncoder) -> None:
    class Scaled(torch.nn.Module):
        """Keeps a table from its first call, as models with cached rotary embeddings do."""

        def __init__(self) -> None:
            super().__init__()
            self.body = decoder.model
            self.table: torch.Tensor | None = None

        def forward(self, **inputs: torch.Tensor) -> object:
            output = self.body(**inputs)
            if self.table is None:
                self.table = torch.ones(32)
            output.last_hidden_state = output.last_hidden_state * self.table
            return output

    model = Scaled()
    replace(decoder, model=model).encode_queries(["one"])
    embed(model, flat_batch([[1, 2]]), method="mean", normalize=True).sum().backward()


@pytest.mark.parametrize("normalized", [True, False])
def test_embed_keeps_gradients_and_the_order_of_rows(decoder: TextEncoder, normalized: bool) -> None:
    rows = [[5, 6, 7, 8], [9, 10]]
    found = embed(decoder.model, flat_batch(rows), method="lasttoken", normalize=normalized)
    assert found.requires_grad
    alone = [embed(decoder.model, flat_batch([r]), method="lasttoken", normalize=normalized) for r in rows]
    torch.testing.assert_close(found, torch.cat(alone), atol=1e-5, rtol=1e-5)
    assert torch.allclose(found.norm(dim=-1), torch.ones(2)) == normalized


# peft 0.21 asks transformers 5.23 by an old name.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_embed_makes_no_cache_and_goes_through_wrappers(
    decoder: TextEncoder, add_lora: Callable[[torch.nn.Module], torch.nn.Module]
) -> None:
    class Wrapper(torch.nn.Module):
        """As DDP does: keeps the model as ``module`` and hands on what it gets."""

        def __init__(self, module: torch.nn.Module) -> None:
            super().__init__()
            self.module = module
            self.seen: list[dict[str, object]] = []

        def forward(self, **inputs: object) -> object:
            self.seen.append(inputs)
            return self.module(**inputs)

    batch = flat_batch([[5, 6, 7]])
    lora = add_lora(decoder.model)
    wrapper = Wrapper(lora)
    expected = embed(lora, batch, method="mean", normalize=True)
    torch.testing.assert_close(embed(wrapper, batch, method="mean", normalize=True), expected)
    assert wrapper.seen[0]["use_cache"] is False


WORKER = """
import numpy as np
import torch
from torch import distributed
from transformers import BertConfig, BertModel
from swift_embedding.encoding import TextEncoder

class Tokenizer:
    pad_token_id = 0

torch.manual_seed(0)
torch.set_num_threads(1)
model = BertModel(BertConfig(vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                             num_attention_heads=2))
options = dict(model=model, tokenizer=Tokenizer(), max_length=64, pooling_method="mean",
               normalize_embeddings=True, batch_tokens=12)
TextEncoder(**options).encode_token_ids([[1, 2], [3]])  # the first batch is run both ways
calls = []
model.register_forward_hook(lambda *_: calls.append(1))
rows = [[1 + (n * 7 + i) % 49 for i in range(n)] for n in (4, 12, 3, 6, 5, 1, 4, 10)]
alone = TextEncoder(**options, share_batches=False).encode_token_ids(rows)
count = len(calls)
assert count == 4, count  # of lengths [12], [10], [6, 5], [4, 4, 3, 1]
distributed.init_process_group("gloo")
shared = TextEncoder(**options).encode_token_ids(rows)
assert len(calls) - count == 2, calls
np.testing.assert_allclose(shared, alone, rtol=0, atol=1e-6)
one = TextEncoder(**options).encode_token_ids(rows[:1])  # fewer batches than processes
np.testing.assert_allclose(one, alone[:1], rtol=0, atol=1e-6)
if distributed.get_rank() == 0:  # an export: the other process waits
    TextEncoder(**options, share_batches=False).encode_token_ids(rows)
distributed.barrier()
distributed.destroy_process_group()
"""


@pytest.mark.timeout(180)
def test_two_processes_share_the_work(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(WORKER)
    done = run_forked("job.py", folder=tmp_path, processes=2)
    assert done.returncode == 0, done.stderr
