"""A causal language model that judges pairs, with random weights, for speed only."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from transformers import AutoTokenizer, Qwen3ForCausalLM

from benchmarks.decoder import decoder_config
from swift_reranker.template import Template

_QUERY = "\0query\0"
_MARKS = re.compile(r"<\|\w+\|>|</?think>")


def write_judge(tokenizer_folder: Path, target: Path, template: str, instruction: str) -> Path:
    """Save a Qwen3 of some 20 M parameters with the tokenizer of ``tokenizer_folder`` and ``template``.

    Marks such as ``<|im_start|>`` become tokens, as they are in the tokenizers of decoders. The template is
    written as a chat template too, which is how sentence-transformers reads pairs.
    """
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder, local_files_only=True)
    before, after = Template(template).parts(_QUERY, instruction)
    marks = sorted(set(_MARKS.findall(before + after)))
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    # String literals of jinja are those of JSON; text outside of them would lose line breaks.
    head, middle, tail = (json.dumps(text, ensure_ascii=False) for text in (*before.split(_QUERY), after))
    query, document = (f"messages[{n}]['content']" for n in range(2))
    tokenizer.chat_template = f"{{{{ {head} + {query} + {middle} + {document} + {tail} }}}}"
    torch.manual_seed(0)
    config = decoder_config(len(tokenizer), tie_word_embeddings=True)
    Qwen3ForCausalLM(config).save_pretrained(target)
    tokenizer.model_max_length = config.max_position_embeddings
    tokenizer.save_pretrained(target)
    return target
