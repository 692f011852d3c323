"""What is exported gives the log-probabilities of the model in memory, is loaded by others, and says so."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from swift_core.errors import SwiftError, UserError
from swift_core.runs.record import Run
from swift_dpo.collator import make_collator
from swift_dpo.exports import WRITERS, format_faults
from swift_dpo.generation import Sampling, answers_of, rendered
from swift_dpo.model import build_model
from swift_dpo.probing import Probes

Build = Callable[..., Any]
Export = Callable[..., dict[str, Any]]
CHAT = [{"role": "user", "content": "what is a cat"}]


def rows(count: int) -> list[dict[str, Any]]:
    """Rows as the collator gets them."""
    empty = dict.fromkeys(("margin", "weight", "violations", "unrelated", "tools"))
    return [
        {
            **empty,
            "prompt": [{"role": "user", "content": f"what is {n} times {n}"}],
            "answers": [
                [{"role": "assistant", "content": text}] for text in (f"it is {n * n}", "no" * (n + 1))
            ],
            "scores": [1.0, 0.0],
        }
        for n in range(count)
    ]


@pytest.fixture
def build(causal: Path, make_args: Callable[..., Any]) -> Build:
    """A model that was trained a little, its collator, its options and its run."""

    def made(folder: Path = causal, **options: Any) -> Any:
        args = make_args(folder, lora_rank=2, **options)
        torch.manual_seed(1)
        model = build_model(args)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_B" in name or not args.core.use_lora:
                    weight.add_(torch.randn_like(weight), alpha=0.2 if args.core.use_lora else 0.05)
        record = {
            "options": {"model_name_or_path": str(folder)},
            "data": [{"name": "train", "rows": 3, "sources": [{"name": "/data/pairs.jsonl", "rows": 3}]}],
            "metrics": {"eval_win_rate": 0.7, "eval_answer_tokens": 9.0},
        }
        return model, make_collator(args, kind="pairs"), args, Run(folder, record)

    return made


def write(format: str, folder: Path, built: Any, data: Any = None) -> dict[str, Any]:
    model, collator, args, run = built
    folder.mkdir()
    return dict(WRITERS[format](folder, model, collator, data, args, run))


def answer_of(model: Any, tokenizer: Any) -> str:
    (answer,) = answers_of(model, tokenizer, [rendered(tokenizer, CHAT)], Sampling(max_new_tokens=64))
    return answer.text


def run_card(folder: Path) -> dict[str, Any]:
    """Run the Python on a card and give the names that it leaves behind."""
    text = (folder / "README.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
    assert '"path/to/this/folder"' in block
    names: dict[str, Any] = {}
    exec(compile(block.replace('"path/to/this/folder"', repr(str(folder))), "card", "exec"), names)
    return names


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_a_folder_gives_the_answers_of_the_model_and_the_card_runs(
    build: Build, lora: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    built = build(use_lora=lora)
    model, collator, *_ = built
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    data: Any = SimpleNamespace(records=rows(40))
    details = write("hf", tmp_path / "hf", built, data)
    assert (details["reload_rows"], details["reload_answers"]) == (16, 32)
    assert 0 < details["reload_difference"] < 1e-3
    told = f"the largest difference of a log-probability is {details['reload_difference']:.2g}"
    assert told in capsys.readouterr().out
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    assert type(plain).__module__.startswith("transformers.")
    expected = answer_of(model, collator.tokenizer)
    assert answer_of(plain, AutoTokenizer.from_pretrained(tmp_path / "hf")) == expected
    assert run_card(tmp_path / "hf")["answer"].strip() == expected
    if lora:
        with model.disable_adapter():
            assert answer_of(model, collator.tokenizer) != expected


def test_a_folder_has_what_other_programs_look_for(build: Build, tmp_path: Path) -> None:
    built = build()
    model, collator, *_ = built
    # A base model, whose own end token ends documents; the template ends turns with another.
    model.generation_config.eos_token_id = collator.tokenizer.convert_tokens_to_ids("<|endoftext|>")
    write("hf", tmp_path / "hf", built)
    names = {path.name for path in (tmp_path / "hf").iterdir()}
    assert names >= {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    }
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["architectures"] == ["Qwen3ForCausalLM"]
    assert GenerationConfig.from_pretrained(tmp_path / "hf").eos_token_id == [0, 2]
    assert model.generation_config.eos_token_id == 0


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_a_generation_config_that_the_library_would_not_save_is_kept(
    build: Build, causal: Path, lora: bool, tmp_path: Path
) -> None:
    base = shutil.copytree(causal, tmp_path / "base")
    # A temperature without do_sample, as Vicuna and others have it.
    (base / "generation_config.json").write_text('{"temperature": 0.6, "top_p": 0.9, "eos_token_id": 0}')
    write("hf", tmp_path / "hf", build(base, use_lora=lora))
    config = GenerationConfig.from_pretrained(tmp_path / "hf")
    assert (config.temperature, config.top_p, config.eos_token_id) == (0.6, 0.9, [0, 2])


def test_an_adapter_is_loaded_by_peft_and_the_card_runs(build: Build, tmp_path: Path) -> None:
    built = build(use_lora=True)
    model, collator, *_ = built
    details = write("adapter", tmp_path / "adapter", built)
    assert details["reload_difference"] < 1e-3 and details["reload_answers"] == 2
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
    loaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    expected = answer_of(model, collator.tokenizer)
    assert answer_of(loaded, collator.tokenizer) == expected
    assert run_card(tmp_path / "adapter")["answer"].strip() == expected
    card = ModelCard.load(tmp_path / "adapter" / "README.md")
    assert (card.data.library_name, card.data.tags) == ("peft", ["dpo", "preference-optimisation", "lora"])


def test_an_adapter_whose_base_is_not_the_one_in_memory_is_refused(build: Build, tmp_path: Path) -> None:
    built = build(use_lora=True)
    with torch.no_grad():
        built[0].get_base_model().model.norm.weight.mul_(1.1)
    with pytest.raises(SwiftError, match="loaded by peft, it gives other log-probabilities"):
        write("adapter", tmp_path / "adapter", built)


def test_an_adapter_needs_lora(build: Build, tmp_path: Path) -> None:
    built = build()
    with pytest.raises(UserError, match="'adapter': the run trained all weights; set use_lora"):
        write("adapter", tmp_path / "adapter", built)
    core = SimpleNamespace(export_formats=["hf", "adapter"], use_lora=False)
    args: Any = SimpleNamespace(core=core)
    assert [fault.split(":")[0] for fault in format_faults(args)] == ["export_formats"]
    core.use_lora = True
    assert format_faults(args) == []


def test_weights_that_are_not_the_models_are_refused(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = build()
    model, collator, *_ = built
    write("hf", tmp_path / "hf", built)
    weights = load_file(tmp_path / "hf" / "model.safetensors")
    name = next(name for name in weights if "down_proj" in name)
    save_file(
        {**weights, name: weights[name] * 1.01}, tmp_path / "hf" / "model.safetensors", {"format": "pt"}
    )
    spoilt = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    with pytest.raises(SwiftError, match=r"reloaded gives other log-probabilities .* must not be used"):
        Probes(model, collator, None).check(tmp_path, "reloaded", spoilt)
    with torch.no_grad():
        next(spoilt.parameters()).fill_(float("nan"))
    with pytest.raises(SwiftError, match="is nan, expected"):
        Probes(model, collator, None).check(tmp_path, "reloaded", spoilt)


def test_a_tokenizer_that_is_another_is_refused(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = build()
    collator = built[1]
    other = AutoTokenizer.from_pretrained(collator.tokenizer.name_or_path)
    other.chat_template = "{{ messages }}"
    monkeypatch.setattr(type(collator), "save_pretrained", lambda _, folder: other.save_pretrained(folder))
    with pytest.raises(SwiftError, match="the saved tokenizer is not that of the run"):
        write("hf", tmp_path / "hf", built)


def test_rows_are_taken_from_all_over_and_those_that_teach_nothing_are_left_out(build: Build) -> None:
    model, collator, *_ = build()
    records = rows(100)
    records[6]["answers"] = records[6]["answers"][:1] * 2  # the second of those that are taken
    data: Any = SimpleNamespace(records=records)
    texts = [collator.tokenizer.decode(row["prompt"]) for row in Probes(model, collator, data).rows]
    assert len(texts) == 15 and "0 times 0" in texts[0] and "93 times 93" in texts[-1]
    alike: Any = SimpleNamespace(records=[records[6]])
    with pytest.raises(UserError, match="none of the rows"):
        Probes(model, collator, alike)


def test_a_card_tells_of_the_run_and_of_the_licence_of_the_base(
    build: Build, causal: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    AutoModelForCausalLM.from_pretrained(causal).save_pretrained(base)
    AutoTokenizer.from_pretrained(causal).save_pretrained(base)
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Base\n")
    write("hf", tmp_path / "hf", build(base))
    card = ModelCard.load(tmp_path / "hf" / "README.md")
    assert (card.data.license, card.data.library_name) == ("apache-2.0", "transformers")
    assert "The base model's licence, `apache-2.0`, holds" in card.text
    assert "chat template in this folder" in card.text
    assert "| train | pairs.jsonl | 3 |" in card.text
    assert "| win_rate | 0.7000 |" in card.text
    assert str(tmp_path) not in card.content
    write("hf", tmp_path / "other", build())
    assert ModelCard.load(tmp_path / "other" / "README.md").data.license is None


def test_a_model_of_plain_texts_is_shown_with_plain_texts(build: Build, tmp_path: Path) -> None:
    built = build()
    built[1].tokenizer.chat_template = None
    write("hf", tmp_path / "hf", built)
    text = (tmp_path / "hf" / "README.md").read_text()
    assert "It continues plain texts" in text and "apply_chat_template" not in text
    assert run_card(tmp_path / "hf")["answer"]
