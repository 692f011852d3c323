"""How models of many families run without padding: ``python -m benchmarks families``.

Tiny random models of each, run flat and padded; the table of ``docs/batches.md`` is made here.
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import nn

from swift_core.flat import FlatState, Rung, flat_batch, forward_flat, state_of
from swift_core.flat.forward import run_rung

VOCABULARY = 120

_SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GQA: dict[str, Any] = {"num_key_value_heads": 2, "head_dim": 8}
_EXPERTS: dict[str, Any] = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
_STILL: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}

ENCODERS: dict[str, dict[str, Any]] = {
    "bert": _STILL,
    "roberta": _STILL,
    "xlm-roberta": _STILL,
    "camembert": _STILL,
    "electra": {"embedding_size": 32, **_STILL},
    "ernie": {"use_task_id": False, **_STILL},
    "distilbert": {
        "dim": 32,
        "hidden_dim": 48,
        "n_layers": 2,
        "n_heads": 4,
        "dropout": 0.0,
        "attention_dropout": 0.0,
    },
    "mpnet": _STILL,
    "albert": {"embedding_size": 16, **_STILL},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], **_STILL},
    "modernbert": {"local_attention": 8, "layer_types": ["full_attention", "sliding_attention"]},
    "nomic_bert": {"rotary_emb_fraction": 1.0},
    "eurobert": _GQA,
    "esm": {"position_embedding_type": "rotary", "mask_token_id": 3, **_STILL},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX", **_STILL},
}

DECODERS: dict[str, dict[str, Any]] = {
    "llama": _GQA,
    "qwen2": _GQA,
    "qwen3": _GQA,
    "mistral": {"sliding_window": 8, **_GQA},
    "ministral": {"sliding_window": 8, "layer_types": ["full_attention", "sliding_attention"], **_GQA},
    "gemma": _GQA,
    "gemma2": {"sliding_window": 8, "query_pre_attn_scalar": 8, **_GQA},
    "gemma3_text": {
        "sliding_window": 8,
        "query_pre_attn_scalar": 8,
        "layer_types": ["full_attention", "sliding_attention"],
        **_GQA,
    },
    "phi": {},
    "phi3": {"num_key_value_heads": 2, "sliding_window": 8},
    "gpt2": {
        "n_positions": 128,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    },
    "gpt_neox": {"rotary_pct": 0.5},
    "gptj": {"n_positions": 128, "n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32, "dropout": 0.0},
    "bloom": {"n_layer": 2, "n_head": 4, "hidden_dropout": 0.0, "attention_dropout": 0.0},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2, "expansion_ratio": 2},
    "falcon": {"new_decoder_architecture": False, "multi_query": True, "alibi": False},
    "olmo": {},
    "olmo2": {"num_key_value_heads": 2},
    "olmo3": {
        "num_key_value_heads": 2,
        "sliding_window": 8,
        "layer_types": ["full_attention", "sliding_attention"],
    },
    "smollm3": {"num_key_value_heads": 2, "no_rope_layers": [1, 0]},
    "granite": {"num_key_value_heads": 2},
    "cohere": {"num_key_value_heads": 2},
    "glm": _GQA,
    "glm4": _GQA,
    "starcoder2": {"num_key_value_heads": 2, "residual_dropout": 0.0, "embedding_dropout": 0.0},
    "stablelm": {"num_key_value_heads": 2},
    "nemotron": _GQA,
    "exaone4": {
        "num_key_value_heads": 2,
        "sliding_window": 8,
        "layer_types": ["full_attention", "sliding_attention"],
    },
    "ernie4_5": _GQA,
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2, "num_key_value_heads": 2},
    "qwen2_moe": {
        "num_experts": 4,
        "shared_expert_intermediate_size": 16,
        "num_key_value_heads": 2,
        **_EXPERTS,
    },
    "qwen3_moe": {"num_experts": 4, **_EXPERTS, **_GQA},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2, "num_key_value_heads": 2},
    "gpt_oss": {
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 8,
        "layer_types": ["full_attention", "sliding_attention"],
        **_GQA,
    },
    "deepseek_v3": {
        "n_routed_experts": 4,
        "n_group": 1,
        "topk_group": 1,
        "q_lora_rank": 8,
        "kv_lora_rank": 8,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 4,
        "v_head_dim": 8,
        "num_key_value_heads": 4,
        "first_k_dense_replace": 1,
        **_EXPERTS,
    },
    "lfm2": {"num_key_value_heads": 2, "layer_types": ["conv", "full_attention"], "block_ff_dim": 48},
    "bamba": {
        "num_key_value_heads": 2,
        "attn_layer_indices": [1],
        "mamba_n_heads": 4,
        "mamba_d_head": 16,
        "mamba_d_state": 8,
        "mamba_n_groups": 1,
        "mamba_chunk_size": 16,
    },
    "mamba2": {"num_heads": 4, "head_dim": 16, "state_size": 8, "n_groups": 1, "chunk_size": 16},
    "qwen3_next": {
        "num_experts": 4,
        "shared_expert_intermediate_size": 16,
        "layer_types": ["linear_attention", "full_attention"],
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        **_EXPERTS,
        **_GQA,
    },
}

FAMILIES = {**ENCODERS, **DECODERS}


def build(family: str) -> nn.Module:
    """A tiny model of ``family`` with random weights, the same ones each time, far from zero."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, **{**_SHAPE, **FAMILIES[family]})
    model = transformers.AutoModel.from_config(config).float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # At the library's small initial weights attention is too weak for a fault in it to show.
            if parameter.dim() >= 2:
                nn.init.normal_(parameter, std=0.3 if "embed" in name else parameter.shape[-1] ** -0.5)
    return model.eval()


def rows() -> list[list[int]]:
    """Ragged rows of random ids: some equally long, some longer than the windows above."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, 60, (40,), generator=generator).tolist()
    return [
        torch.randint(4, VOCABULARY, (n,), generator=generator).tolist() for n in [*lengths, 1, 17, 17, 60]
    ]


@dataclass(frozen=True)
class Comparison:
    """A family run on a flat batch and padded.

    Attributes:
        state: how it runs, and why not better.
        loss: relative difference of a scalar of all outputs.
        gradient: largest difference of a gradient's entry, relative to the largest entry of all.
    """

    state: FlatState
    loss: float
    gradient: float


def compare(family: str) -> Comparison:
    """Run the same weights both ways, forward and backward."""
    model, padded = build(family), build(family)
    batch = flat_batch(rows())
    outputs = [forward_flat(model, batch), run_rung(Rung.PADDING, padded, batch)]  # [N, D] each
    weights = torch.randn(outputs[0].shape, generator=torch.Generator().manual_seed(2))
    losses = [(output * weights).square().mean() for output in outputs]
    for loss in losses:
        loss.backward()
    pairs = zip(model.parameters(), padded.parameters(), strict=True)
    gradients = [(a.grad, b.grad) for a, b in pairs if a.grad is not None and b.grad is not None]
    largest = max(float(b.abs().max()) for _, b in gradients)
    return Comparison(
        state=state_of(model),
        loss=abs(losses[0].item() - losses[1].item()) / losses[1].item(),
        gradient=max(float((a - b).abs().max()) for a, b in gradients) / largest,
    )


def family_table() -> str:
    """The table of the docs."""
    lines = ["| family | runs by | why not on a flat row |", "| --- | --- | --- |"]
    for kind, families in (("encoders", ENCODERS), ("decoders", DECODERS)):
        lines.append(f"| **{kind}** | | |")
        for family in families:
            model = build(family)
            with contextlib.redirect_stdout(io.StringIO()):
                forward_flat(model, flat_batch(rows()))
            state = state_of(model)
            lines.append(f"| {family} | {state.rung.value if state.rung else ''} | {_reason(state.reason)} |")
    return "\n".join(lines)


def _reason(reason: str) -> str:
    told = reason.removeprefix("flat row: ")
    if told.startswith("its outputs differ"):
        return "its outputs differ there"
    return told if told.startswith(("its ", "it has ")) or not told else "its code refuses one"


def main(arguments: list[str]) -> int:
    """Print how each family runs, and how far its loss and gradients are from those with padding."""
    transformers.logging.set_verbosity_error()
    for family in arguments or FAMILIES:
        with contextlib.redirect_stdout(io.StringIO()):
            found = compare(family)
        how = found.state.told
        print(
            f"{family:<14} loss {found.loss:.0e}  gradient {found.gradient:.0e}  padding: {how}", flush=True
        )
    return 0
