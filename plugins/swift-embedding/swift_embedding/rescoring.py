"""A cross-encoder that scores pairs of query and document, for mining."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from swift_core.batching import pack
from swift_core.errors import UserError, first_line, listed
from swift_core.matmul import fastest_float32_matmul
from swift_core.model_folders import position_limit, resolve_model
from swift_core.models import without_progress_bars
from swift_core.modes import evaluating
from swift_embedding.shards import fingerprint

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

    from swift_core.arguments import TrainingArguments

# Shape legend: P pairs, B pairs of a batch, T tokens of the longest.

_CPU_TOKENS = 4_096
_GPU_TOKENS = 65_536


@dataclass(frozen=True, kw_only=True)
class CrossEncoder:
    """A model with one output (a logit) or two (the second one's share is the score).

    Attributes:
        max_length: longest pair in tokens; of a longer one the longer text is cut.
        squashed: whether a single logit goes through the sigmoid, as sentence-transformers does unless the
            model's configuration says otherwise.
    """

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    squashed: bool

    @cached_property
    def key(self) -> str:
        """Names the model and all that its scores depend on."""
        how = {"max_length": self.max_length, "squashed": self.squashed}
        return fingerprint(self.model, self.tokenizer, **how)

    def score(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """Scores of P pairs of query and document, the higher the better: float32 [P]."""
        encoded: Any = self.tokenizer(
            [query for query, _ in pairs],
            [document for _, document in pairs],
            truncation=True,
            max_length=self.max_length,
        )
        lengths = [len(ids) for ids in encoded["input_ids"]]
        device = next(self.model.parameters()).device
        # The heads of cross-encoders read one place of a padded row, so the flat row is not for them. Sorted
        # by length, next to nothing is padding.
        order = sorted(range(len(pairs)), key=lambda number: -lengths[number])
        result = np.zeros(len(pairs), dtype=np.float32)
        with evaluating(self.model), fastest_float32_matmul(device):
            for batch in pack(order, lengths, _CPU_TOKENS if device.type == "cpu" else _GPU_TOKENS):
                rows = {name: [values[number] for number in batch] for name, values in encoded.items()}
                padded = self.tokenizer.pad(rows, return_tensors="pt").to(device)
                result[batch] = self._scores(self.model(**padded).logits.float()).cpu().numpy()
        return result

    def _scores(self, logits: Tensor) -> Tensor:
        """[B] from [B, 1] or [B, 2]."""
        if logits.shape[1] == 2:
            return logits.softmax(dim=1)[:, 1]
        return logits[:, 0].sigmoid() if self.squashed else logits[:, 0]


def load_cross_encoder(name: str, args: TrainingArguments) -> CrossEncoder:
    """Load a local folder or a hub model; no pickle and no code of the model.

    Args:
        name: the folder or hub id.
        args: say the type of the weights (``model_dtype``) and the device.

    Raises:
        UserError: it can't be loaded, has no trained head, or has more than two outputs.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    try:
        folder = resolve_model(args.with_model(name))
    except UserError as error:
        raise UserError(*(f.replace("model_name_or_path:", "reranker:") for f in error.faults)) from error
    try:
        with without_progress_bars():
            model, info = AutoModelForSequenceClassification.from_pretrained(
                folder,
                dtype=getattr(torch, args.core.model_dtype),
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise UserError(f"reranker: {name} can't be loaded: {first_line(error)}") from error
    _check(name, model, info["missing_keys"])
    limits = (tokenizer.model_max_length, position_limit(model.config))
    return CrossEncoder(
        model=model.to(args.trainer.device).eval(),
        tokenizer=tokenizer,
        max_length=min(limit for limit in limits if limit is not None),
        squashed=_is_squashed(folder),
    )


def _check(name: str, model: Any, missing: Sequence[str]) -> None:
    if missing:
        raise UserError(
            f"reranker: {name} lacks weights ({listed(sorted(missing)[:3])}), which would start at random; "
            "expected a trained cross-encoder, with the head that scores a pair"
        )
    if model.config.num_labels not in (1, 2):
        raise UserError(
            f"reranker: {name} has {model.config.num_labels} outputs; expected one (a score) or two"
        )


def _is_squashed(folder: Path) -> bool:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    # The second name is that of sentence-transformers before version 4.
    named = (config.get("sentence_transformers") or {}).get("activation_fn")
    return "Identity" not in str(named or config.get("sbert_ce_default_activation_function") or "")
