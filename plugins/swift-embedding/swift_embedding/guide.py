"""The guide: a frozen encoder that says which negatives are too much like the query to be wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from swift_embedding.objective import Vectors
from swift_embedding.st_folder import load_encoder

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from swift_embedding.encoding import TextEncoder


@dataclass
class Guide:
    """An encoder that is loaded where it is needed first, and never goes to DataLoader workers.

    Attributes:
        folder: where it is.
    """

    folder: Path
    _encoder: TextEncoder | None = field(default=None, repr=False)

    def vectors(
        self, queries: Sequence[str], documents: Sequence[str] | None, device: torch.device
    ) -> Vectors:
        """Vectors of a batch's texts with the guide's own prompts; without documents those are the queries.

        Returns:
            [B, D] and [N, D] on ``device``, of length 1.
        """
        if self._encoder is None:
            self._encoder = load_encoder(self.folder, dtype=torch.float32, device=device)
        asked = _unit(self._encoder.encode_queries(queries), device)
        if documents is None:
            return Vectors(asked, asked)
        return Vectors(asked, _unit(self._encoder.encode_documents(documents), device))

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "_encoder": None}


def _unit(vectors: np.ndarray, device: torch.device) -> torch.Tensor:
    return functional.normalize(torch.from_numpy(vectors), dim=1).to(device)
