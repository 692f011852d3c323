"""How long the encoded rows are."""

from __future__ import annotations

from dataclasses import dataclass

import datasets
import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True)
class LengthStats:
    """Lengths of encoded rows, in tokens.

    Attributes:
        rows: number of rows.
        tokens: sum of their lengths.
        longest: length of the longest row.
        truncated_rows: rows of which at least one text was cut.
    """

    rows: int
    tokens: int
    longest: int
    truncated_rows: int


def measure_lengths(features: datasets.Dataset) -> LengthStats:
    """Compute the statistics from the columns ``length`` and, where there is one, ``truncated``."""
    table = features.data
    lengths = table.column("length")
    truncated = table.column("truncated") if "truncated" in table.column_names else pa.array([0])
    return LengthStats(
        rows=len(lengths),
        tokens=_whole(pc.sum(lengths)),
        longest=_whole(pc.max(lengths)),
        truncated_rows=_whole(pc.sum(pc.greater(pc.cast(truncated, pa.int64()), 0))),
    )


def _whole(scalar: pa.Scalar) -> int:
    # The sum of no numbers, or of nulls only, is null.
    return int(scalar.as_py() or 0)
