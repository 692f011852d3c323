"""Causal language models of transformers whose body runs on flat rows, under the family's own head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

Model = TypeVar("Model")


class Vectors(nn.Module):
    """Stands where the body was: gives the vectors it was made with, each as a text of one token."""

    def __init__(self, vectors: Tensor) -> None:
        super().__init__()
        self.hidden = vectors.unsqueeze(1)  # [S, 1, D]

    def forward(self, *_: Any, **__: Any) -> BaseModelOutputWithPastAndCrossAttentions:
        """The vectors, whatever is asked."""
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=self.hidden)


def twin_with(model: Model, replaced: Mapping[str, nn.Module]) -> Model:
    """A copy of ``model`` that shares its weights, with some of its children replaced.

    The model itself stays as it is: two threads may be in its forward pass.
    """
    twin: Model = object.__new__(type(model))
    twin.__dict__ = {**model.__dict__, "_modules": {**model.__dict__["_modules"], **replaced}}
    return twin


def vocabulary_head_name(model: Any) -> str:
    """The name of the child of a causal model that makes logits; empty where it is none of its children."""
    head = model.get_output_embeddings()
    return next((name for name, child in model.named_children() if child is head), "")
