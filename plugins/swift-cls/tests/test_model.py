"""The classifier gives what transformers' own class gives, without its padding."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForSequenceClassification,
)

from swift_cls import hooks
from swift_cls.labels import Labels
from swift_core import SwiftTrainer, TrainingArguments
from swift_core.classifiers import own_pooling, pool_chunks
from swift_core.errors import UserError
from swift_core.flat import flat_batch
from swift_core.preparation import prepare_task

Make = Callable[..., TrainingArguments]

LABELS = Labels(problem="single_label", names=("a", "b", "c"))
SIZES = {
    "vocab_size": 200,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 80,
    "pad_token_id": 0,
    "num_labels": 3,
}
FAMILIES: dict[str, tuple[dict[str, Any], str | None]] = {
    "bert": ({}, "cls"),
    "roberta": ({"pad_token_id": 1}, "cls"),
    "xlm-roberta": ({"pad_token_id": 1}, "cls"),
    "electra": ({"embedding_size": 32}, "cls"),
    "distilbert": ({"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4}, "cls"),
    "mpnet": ({}, "cls"),
    "modernbert": ({"classifier_pooling": "mean", "global_attn_every_n_layers": 1}, "mean"),
    "deberta-v2": ({"pooler_hidden_size": 32}, "cls"),
    "qwen3": ({"num_key_value_heads": 2, "head_dim": 8}, "lasttoken"),
    "llama": ({"num_key_value_heads": 2}, "lasttoken"),
    "gpt2": ({"n_embd": 32, "n_layer": 2, "n_head": 4}, "lasttoken"),
    "albert": ({"embedding_size": 16}, None),
}


def with_labels(hooks_collator: Any, labels: Labels = LABELS) -> Any:
    return hooks_collator.__class__(**{**vars(hooks_collator), "labels": labels})


@pytest.fixture
def build(make_args: Make) -> Callable[..., tuple[Any, Any, TrainingArguments]]:
    def made(folder: Path, **options: Any) -> tuple[Any, Any, TrainingArguments]:
        args = make_args(folder, **options)
        collator = with_labels(hooks.make_collator(args))
        torch.manual_seed(1)
        return hooks.make_model(args, collator).eval(), collator, args

    return made


def save_family(folder: Path, family: str, tokenizer_of: Path) -> None:
    extra, _ = FAMILIES[family]
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(
        AutoConfig.for_model(family, **{**SIZES, **extra})
    ).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer_of).save_pretrained(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_the_logits_of_its_own_class(
    family: str, bert: Path, build: Any, tmp_path: Path
) -> None:
    save_family(tmp_path, family, bert)
    model, collator, _ = build(tmp_path)
    assert model.pooling_method == FAMILIES[family][1]
    model.save_pretrained(tmp_path / "saved")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    texts = ["a b c d e f g", "x", "h i j k l m n o p q r s t u v w"]
    rows = [collator.texts.of_text(text).chunks[0] for text in texts]
    with torch.no_grad():
        found = model(flat=flat_batch(rows))
        alone = torch.cat([plain(torch.tensor([row])).logits for row in rows])
    torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-5)


def test_the_gradient_is_that_of_the_padded_class(bert: Path, build: Any) -> None:
    model, collator, _ = build(bert)
    plain = build(bert)[0]
    plain.__class__ = plain.__class__.__mro__[2]
    rows = [collator.texts.of_text(text).chunks[0] for text in ("a b c", "d e f g h i", "j")]
    targets = torch.tensor([0, 2, 1])
    inputs = collator.tokenizer.pad({"input_ids": rows}, return_tensors="pt")
    nn.functional.cross_entropy(model(flat=flat_batch(rows)), targets).backward()
    nn.functional.cross_entropy(plain(**inputs).logits, targets).backward()
    names = dict(plain.named_parameters())
    assert len(names) > 20
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, names[name].grad, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_saved_decoder_without_padding_token_reads_the_last_real_token(
    side: str, qwen: Path, build: Any, tmp_path: Path
) -> None:
    model, collator, _ = build(qwen)
    assert AutoTokenizer.from_pretrained(qwen).pad_token is None
    model.save_pretrained(tmp_path)
    collator.save_pretrained(tmp_path)
    texts = ["the match ended two to one", "ab", "stocks fell"]
    with torch.no_grad():
        expected = model(flat=flat_batch([collator.texts.of_text(text).chunks[0] for text in texts]))
        plain = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
        tokenizer = AutoTokenizer.from_pretrained(tmp_path)
        assert tokenizer.padding_side == "right"
        tokenizer.padding_side = side
        found = plain(**tokenizer(texts, padding=True, return_tensors="pt")).logits
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_decoder_is_built_without_its_language_model_head(qwen: Path, build: Any) -> None:
    model, _, _ = build(qwen)
    vocabulary, size = model.config.vocab_size, model.config.hidden_size
    wide = [name for name, weight in model.named_parameters() if vocabulary in weight.shape]
    assert wide == ["model.embed_tokens.weight"]
    assert model.score.weight.shape == (3, size)


def test_the_head_is_float32_under_a_body_of_bfloat16(qwen: Path, bert: Path, build: Any) -> None:
    for folder in (qwen, bert):
        model, collator, _ = build(folder, model_dtype="bfloat16")
        assert model.pooling_method == ("lasttoken" if folder == qwen else "cls")
        head = model.score if folder == qwen else model.classifier
        assert head.weight.dtype == torch.float32
        assert next(model.flat_part.parameters()).dtype == torch.bfloat16
        logits = model(flat=flat_batch([collator.texts.of_text("ab").chunks[0]]))
        assert logits.dtype == torch.float32
        logits.sum().backward()
        assert head.weight.grad is not None


@pytest.mark.parametrize("lora", [False, True])
def test_a_head_under_a_body_of_bfloat16_is_saved_and_loaded_to_the_last_digit(
    lora: bool, qwen: Path, make_args: Make
) -> None:
    rows = [{"text": f"{word} {n}", "label": n * 20 + 0.5} for n, word in enumerate(["ab", "cd", "efg"])]
    options = {"model_dtype": "bfloat16", "learning_rate": 3e-2, "max_steps": 10, "use_lora": lora}
    trainer = SwiftTrainer(make_args(qwen, **options), rows)
    trainer.train()
    assert trainer.run is not None
    merged = trainer.save_model(format="hf")
    head = trainer.network.score.weight.detach()
    assert not torch.equal(head, head.bfloat16().float())
    for folder in (trainer.run.model, merged):
        args = make_args(folder, **options, problem="regression")
        loaded = hooks.make_model(
            args, with_labels(hooks.make_collator(args), Labels(problem="regression", names=()))
        )
        assert torch.equal(loaded.score.weight.detach(), head), folder


@pytest.mark.parametrize("options", [{}, {"long_text": "chunk_mean", "max_length": 8}])
def test_a_run_in_mixed_precision_is_saved(options: dict[str, Any], bert: Path, make_args: Make) -> None:
    rows = [{"text": "a b c d e f g h i j k l", "label": "x"}, {"text": "m n o", "label": "y"}]
    trainer = SwiftTrainer(make_args(bert, bf16=True, learning_rate=5e-3, max_steps=15, **options), rows)
    trainer.train()
    assert trainer.run is not None and trainer.run.model.is_dir()


def test_mixed_precision_reaches_the_head_in_float32(qwen: Path, bert: Path, build: Any) -> None:
    for folder in (qwen, bert):
        model, collator, _ = build(folder)
        batch = flat_batch([collator.texts.of_text(text).chunks[0] for text in ("ab", "cd ef g")])
        with torch.no_grad():
            whole = model(flat=batch)
            with torch.autocast("cpu", torch.bfloat16):
                mixed = model(flat=batch)
        assert mixed.dtype == torch.float32
        torch.testing.assert_close(mixed, whole, rtol=0.1, atol=0.02)


def test_the_mean_of_a_decoder_is_the_mean(qwen: Path, build: Any) -> None:
    model, collator, _ = build(qwen, pooling_method="mean")
    row = collator.texts.of_text("the match ended").chunks[0]
    with torch.no_grad():
        hidden = model.model(torch.tensor([row])).last_hidden_state
        expected = model.score(hidden.mean(1))
    torch.testing.assert_close(model(flat=flat_batch([row])), expected, rtol=1e-5, atol=1e-5)


def test_a_pooling_that_transformers_does_not_do_is_not_exported_as_hf(qwen: Path, build: Any) -> None:
    with pytest.raises(UserError, match=r"reads lasttoken, found mean.*export as onnx"):
        build(qwen, pooling_method="mean", export_formats=["hf"])


def test_a_head_at_zero_does_not_hide_what_a_family_reads(qwen: Path, build: Any) -> None:
    model, _, _ = build(qwen)
    nn.init.zeros_(model.score.weight)
    assert own_pooling(model) == "lasttoken"


def test_chunks_are_averaged_or_maximised_with_gradients() -> None:
    vectors = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    owner = torch.tensor([0, 1, 1, 1])
    mean = torch.stack([vectors[0], vectors[1:].mean(0)])
    torch.testing.assert_close(pool_chunks(vectors, owner, "mean"), mean)
    torch.testing.assert_close(pool_chunks(vectors, owner, "max")[1], vectors[1:].max(0).values)
    assert torch.autograd.gradcheck(lambda v: pool_chunks(v, owner, "mean"), vectors)
    assert torch.autograd.gradcheck(lambda v: pool_chunks(v, owner, "max"), vectors)


def test_labels_go_into_the_configuration(bert: Path, build: Any) -> None:
    config = build(bert)[0].config
    assert config.id2label == {0: "a", 1: "b", 2: "c"}
    assert config.problem_type == "single_label_classification"


def test_a_head_for_other_labels_starts_afresh_and_one_for_the_same_stays(
    bert: Path, build: Any, make_args: Make, tmp_path: Path
) -> None:
    model, collator, _ = build(bert)
    nn.init.ones_(model.classifier.weight)
    model.save_pretrained(tmp_path)
    collator.save_pretrained(tmp_path)
    args = make_args(tmp_path)
    again = hooks.make_collator(args)
    assert again.labels is not None and again.labels.of_model
    assert bool((hooks.make_model(args, again).classifier.weight == 1).all())
    for names in (("a", "b", "other"), ("a", "b", "c", "d")):
        other = hooks.make_model(args, with_labels(again, Labels(problem="single_label", names=names)))
        assert other.classifier.weight.shape[0] == len(names)
        assert not bool((other.classifier.weight == 1).any())


def test_a_head_whose_labels_nobody_named_stays_for_ids_and_for_names_of_them(
    bert: Path, make_args: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = BertForSequenceClassification.from_pretrained(bert, num_labels=3)
    nn.init.ones_(theirs.classifier.weight)
    theirs.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(bert).save_pretrained(tmp_path)
    ids = [{"text": text, "label": number} for number, text in enumerate("abc")]
    words = [{**row, "label": f"w{row['label']}"} for row in ids]

    def started(rows: list[dict[str, Any]], **options: Any) -> tuple[bool, Any]:
        args = make_args(tmp_path, **options)
        collator = prepare_task(args, rows).collator
        model = hooks.make_model(args, collator)
        return bool((model.classifier.weight == 1).all()), model.config.id2label

    assert started(ids) == (True, {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"})
    names = {0: "w2", 1: "w0", 2: "w1"}
    assert started(ids, label_names=list(names.values())) == (True, names)
    assert "that of the model, whose labels get these names" in capsys.readouterr().out
    # Nothing says which of them is which.
    assert started(words) == (False, {0: "w0", 1: "w1", 2: "w2"})
    assert "head      starts afresh: that of the model is for LABEL_0" in capsys.readouterr().out
    assert started(ids[:2], label_names=["x", "y"])[0] is False


def test_threads_do_not_meet_in_the_head(bert: Path, build: Any) -> None:
    model, collator, _ = build(bert)
    rows = [collator.texts.of_text(text).chunks[0] for text in ("a b c", "d e f g h", "i", "j k")]
    with torch.no_grad():
        expected = [model(flat=flat_batch([row])) for row in rows]
    faults: list[int] = []

    def work(number: int) -> None:
        with torch.no_grad():
            for _ in range(20):
                if not torch.allclose(model(flat=flat_batch([rows[number]])), expected[number], atol=1e-6):
                    faults.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(len(rows))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []


def test_an_adapter_holds_the_head_and_every_weight_that_no_file_had(
    bert: Path, qwen: Path, build: Any, tmp_path: Path
) -> None:
    from peft import PeftModel
    from safetensors.torch import load_file, save_file

    # A checkpoint without pooler, as many encoders for retrieval are.
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in bert.iterdir():
        if path.suffix != ".safetensors":
            (bare / path.name).write_bytes(path.read_bytes())
    weights = {n: w for n, w in load_file(bert / "model.safetensors").items() if "pooler" not in n}
    save_file(weights, bare / "model.safetensors", metadata={"format": "pt"})
    for folder in (bare, qwen):
        model, collator, _ = build(folder, use_lora=True, lora_rank=2)
        trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
        head = "score" if folder == qwen else "classifier"
        assert any(f".{head}." in name for name in trained)
        assert not any(f".{head}.lora" in name for name in trained)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    weight.normal_(std=0.05)
        saved = tmp_path / f"adapter-{head}"
        model.save_pretrained(saved)
        rows = [collator.texts.of_text(text).chunks[0] for text in ("a b c", "d e f g h")]
        torch.manual_seed(99)
        base = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3)
        plain = PeftModel.from_pretrained(base, saved).eval()
        with torch.no_grad():
            alone = torch.cat([plain(input_ids=torch.tensor([row])).logits for row in rows])
            torch.testing.assert_close(model(flat=flat_batch(rows)), alone, rtol=1e-5, atol=1e-5)


def test_a_model_that_is_no_classifier_is_refused(bert: Path, make_args: Make, tmp_path: Path) -> None:
    AutoConfig.for_model("t5").save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(bert).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="encoder-decoder"):
        hooks.make_collator(make_args(tmp_path))
