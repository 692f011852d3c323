"""From encoded lists to scores, without padding."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from accelerate.utils import gather_object, send_to_device
from torch import Tensor, nn
from tqdm import tqdm

from swift_core.batching import pack
from swift_core.flat.processes import rank_and_world
from swift_core.matmul import fastest_float32_matmul
from swift_core.modes import evaluating

if TYPE_CHECKING:
    from swift_reranker.collator import RerankerCollator

Lists: TypeAlias = Sequence[Mapping[str, Any]]

_CPU_TOKENS = 4096
_GPU_TOKENS = 65_536


def pair_scores(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
    """Scores [K] of the pairs of a batch, which lie before what they share."""
    found: Tensor = model(flat=batch["texts"])  # [K + prefixes, 1]
    return found[: len(batch["group"]), 0]


def score_lists(
    model: nn.Module,
    collator: RerankerCollator,
    features: Lists,
    *,
    share: bool = True,
    progress: bool = False,
) -> list[np.ndarray]:
    """Scores of encoded lists.

    Long lists are cut into parts of some thousand tokens, short ones share a batch. Under torch.distributed
    the batches are shared out, and every process gets all scores.

    Args:
        model: of :mod:`swift_reranker.model`, perhaps with an adapter.
        features: lists as the collator encodes them.
        share: False where one process works alone while the others wait, as in an export.
        progress: whether to show a bar on a terminal.

    Returns:
        float32 [K] for each list: raw scores, before any sigmoid.
    """
    device = next(model.parameters()).device
    tokens = _CPU_TOKENS if device.type == "cpu" else _GPU_TOKENS
    parts = list(_parts(features, tokens))
    lengths = [_length(part) for _, _, part in parts]
    order = sorted(range(len(parts)), key=lambda n: -lengths[n])
    batches = pack(order, lengths, tokens)
    rank, world = rank_and_world() if share else (0, 1)
    shown = progress and rank == 0 and sys.stderr.isatty()
    bar = tqdm(total=len(parts), desc="scoring", unit="list", leave=False, disable=not shown)
    found: list[tuple[int, int, np.ndarray]] = []
    with evaluating(model), fastest_float32_matmul(device), bar:
        for start in range(0, len(batches), world):
            # A process without a batch of its own repeats one: FSDP gathers weights in each forward pass.
            mine = [parts[n] for n in batches[min(start + rank, len(batches) - 1)]]
            batch = send_to_device(collator.batch([part for _, _, part in mine]), device)
            scores = pair_scores(model, batch).float().cpu().numpy()
            cuts = np.cumsum([len(part["rows"]) for _, _, part in mine])[:-1]
            found += [
                (number, first, values)
                for (number, first, _), values in zip(mine, np.split(scores, cuts), strict=True)
            ]
            bar.update(sum(map(len, batches[start : start + world])))
    result = [np.zeros(len(feature["rows"]), dtype=np.float32) for feature in features]
    for number, first, values in gather_object(found) if world > 1 else found:
        result[number][first : first + len(values)] = values
    return result


def _parts(features: Lists, tokens: int) -> Iterator[tuple[int, int, Mapping[str, Any]]]:
    """Lists, or parts of them that begin at some document, of about so many tokens each."""
    for number, feature in enumerate(features):
        rows, first, used = feature["rows"], 0, len(feature["prefix"])
        for place, row in enumerate(rows):
            if place > first and used + len(row) > tokens:
                yield number, first, _part(feature, first, place)
                first, used = place, len(feature["prefix"])
            used += len(row)
        yield number, first, _part(feature, first, len(rows))


def _part(feature: Mapping[str, Any], first: int, end: int) -> Mapping[str, Any]:
    types = feature["types"]
    return {
        "prefix": feature["prefix"],
        "rows": feature["rows"][first:end],
        "types": None if types is None else types[first:end],
        "labels": None,
        "scores": None,
    }


def _length(feature: Mapping[str, Any]) -> int:
    return len(feature["prefix"]) + sum(map(len, feature["rows"]))
