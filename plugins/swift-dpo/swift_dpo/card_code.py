"""The Python code of a model card. Tests run it as it stands on a card."""

from __future__ import annotations

from swift_core.cards import python_block

_FOLDER = '"path/to/this/folder"'


def transformers_code(*, chat: bool) -> str:
    """Answer with plain transformers."""
    return python_block(
        f"""\
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = {_FOLDER}
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder).eval()

{_answer(chat)}"""
    )


def adapter_code(*, chat: bool) -> str:
    """Answer with peft."""
    return python_block(
        f"""\
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

folder = {_FOLDER}
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoPeftModelForCausalLM.from_pretrained(folder).eval()

{_answer(chat)}"""
    )


def _answer(chat: bool) -> str:
    """From ``tokenizer`` and ``model`` to ``answer``."""
    prompt = """\
batch = tokenizer("what is a cat", return_tensors="pt")"""
    if chat:
        prompt = """\
messages = [{"role": "user", "content": "what is a cat"}]
batch = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"
)"""
    return f"""\
{prompt}
tokens = model.generate(**batch, max_new_tokens=64, do_sample=False)
answer = tokenizer.decode(tokens[0, batch["input_ids"].shape[1] :], skip_special_tokens=True)
print(answer)"""
