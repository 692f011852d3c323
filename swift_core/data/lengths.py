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
        shortest: length of the shortest row.
        longest: length of the longest row.
        mean: tokens / rows.
        median: half of the rows are at most this long.
        truncated_rows: rows of which at least one text was cut.
        truncated_texts: texts that were cut.
    """

    rows: int
    tokens: int
    shortest: int
    longest: int
    mean: float
    median: float
    truncated_rows: int
    truncated_texts: int


def measure_lengths(features: datasets.Dataset) -> LengthStats:
    """Compute the statistics from the columns ``length`` and, where there is one, ``truncated``."""
    table = features.data
    lengths = table.column("length")
    truncated = table.column("truncated") if "truncated" in table.column_names else pa.array([0])
    rows = len(lengths)
    tokens = _whole(pc.sum(lengths))
    return LengthStats(
        rows=rows,
        tokens=tokens,
        shortest=_whole(pc.min(lengths)),
        longest=_whole(pc.max(lengths)),
        mean=tokens / rows if rows else 0.0,
        median=float(pc.quantile(lengths, 0.5)[0].as_py() or 0.0),
        truncated_rows=_whole(pc.sum(pc.greater(pc.cast(truncated, pa.int64()), 0))),
        truncated_texts=_whole(pc.sum(pc.cast(truncated, pa.int64()))),
    )


def _whole(scalar: pa.Scalar) -> int:
    # The sum of no numbers, or of nulls only, is null.
    return int(scalar.as_py() or 0)
