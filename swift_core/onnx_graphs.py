"""Models as ONNX graphs: what every task type that exports one needs. Needs ``onnx`` and ``onnxscript``."""

from __future__ import annotations

import copy
import inspect
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from swift_core.adapters import merge_adapter
from swift_core.errors import SwiftError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from swift_core.flat import PoolingMethod

# Shape legend: B texts of a batch, T tokens with padding, D dimensions.


def traceable_copy(model: Any) -> Any:
    """A copy of ``model`` on the CPU that torch can trace: LoRA merged, float32, without gradients.

    The type, the attention and the mode of the model in memory stay as they are.
    """
    traced = copy.deepcopy(merge_adapter(model)).float().cpu().eval().requires_grad_(False)
    # An attention that torch can trace, whatever the model in memory uses.
    try:
        traced.set_attn_implementation("sdpa")
    except ValueError:
        traced.set_attn_implementation("eager")
    return traced


def graph_inputs(forward: Callable[..., Any], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """``input_ids`` and ``attention_mask``, and ``token_type_ids`` where model and tokenizer have them.

    Args:
        forward: the method that the graph calls.
    """
    knows = inspect.signature(forward).parameters
    types = "token_type_ids" in tokenizer.model_input_names and "token_type_ids" in knows
    return ["input_ids", "attention_mask", *(["token_type_ids"] if types else [])]


def graph_options(forward: Callable[..., Any]) -> dict[str, Any]:
    """What a model's ``forward`` is told so that it gives nothing but outputs."""
    return {"use_cache": False} if "use_cache" in inspect.signature(forward).parameters else {}


def pool_padded(hidden: Tensor, attention_mask: Tensor, method: PoolingMethod) -> Tensor:
    """What :func:`swift_core.flat.pool_segments` does, for rows with padding on either side.

    Args:
        hidden: [B, T, D]
        attention_mask: [B, T], 0 for padding.
        method: ``cls``, ``mean`` or ``lasttoken``.

    Returns:
        [B, D]
    """
    if method == "mean":
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)  # [B, T, 1]
        return (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
    places = torch.arange(attention_mask.shape[1], device=hidden.device)  # [T]
    # Of all places that hold a token: the smallest, or the largest.
    taken = (
        attention_mask * (places + 1) if method == "lasttoken" else attention_mask * (len(places) - places)
    )
    return hidden.gather(1, taken.argmax(1)[:, None, None].expand(-1, 1, hidden.shape[-1])).squeeze(1)


def write_graph(
    graph: nn.Module, path: Path, *, inputs: Sequence[str], outputs: Sequence[str], of: str
) -> None:
    """Write ``graph`` as ONNX; both lengths of a batch are free. Weights above 2 GB lie in a second file.

    Args:
        graph: called with the tensors of ``inputs`` by name, each int64 [B, T].
        inputs: as :func:`graph_inputs` gives them.
        outputs: a name for each tensor that comes out.
        of: what the model is called when it can't be written.

    Raises:
        SwiftError: torch can't trace this model.
    """
    axes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    try:
        with _without_noise(), torch.no_grad():
            program = torch.onnx.export(
                graph,
                kwargs=dict(_example(inputs)),
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_shapes=dict.fromkeys(inputs, axes),
                dynamo=True,
                verbose=False,
            )
            program.save(path)  # type: ignore[union-attr]
    except Exception as error:  # whatever an operator of some model makes of being traced
        raise SwiftError(
            f"{of} can't be written as an ONNX graph by torch {torch.__version__}: {first_line(error)}"
        ) from error


def _example(inputs: Sequence[str]) -> Mapping[str, Tensor]:
    # Neither length may be 0 or 1: torch takes those for constants.
    example = {name: torch.zeros(2, 7, dtype=torch.long) for name in inputs}
    example["input_ids"] += torch.arange(7)
    example["attention_mask"] += 1
    example["attention_mask"][1, 4:] = 0
    return example


@contextmanager
def _without_noise() -> Iterator[None]:
    """The exporter warns of what it deprecates in torch itself, and of packages that it could use."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
