"""Log-probabilities of the reference on disk: one number for each sequence, found by its tokens."""

from __future__ import annotations

import hashlib
import sys
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from huggingface_hub import constants

from swift_core.runs.atomic import sha256_of

_WEIGHTS_AND_CODE = (".safetensors", ".bin", ".py")
_CONFIGS = ("config.json", "adapter_config.json")
_RECORD = np.dtype([("key", "<i8"), ("logp", "<f8")])


class ReferenceCache:
    """What one model says of sequences, shared by all runs that use it at the same precision.

    Every process appends to a file of its own, so that several runs may go on at once and a killed one loses
    at most its last record.

    Args:
        folder: holds the files of one model and precision; None keeps all in memory only.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._own = folder and folder / f"{uuid.uuid4().hex}.f8"
        self._known: dict[int, float] = {}
        for path in sorted(folder.glob("*.f8")) if folder is not None else ():
            self._known.update(_records(path))

    def __len__(self) -> int:
        """Number of sequences."""
        return len(self._known)

    @property
    def known(self) -> Mapping[int, float]:
        """All values by key."""
        return self._known

    def find(self, keys: Iterable[int]) -> list[float] | None:
        """The values of ``keys`` in their order; None where one of them is not known."""
        found = [self._known.get(key) for key in keys]
        return None if None in found else found  # type: ignore[return-value]

    def add(self, values: Mapping[int, float]) -> None:
        """Keep values by key; those that are known already, and those that are no number, are left out."""
        new = {key: value for key, value in values.items() if key not in self._known and np.isfinite(value)}
        self._known.update(new)
        if self._own is None or not new:
            return
        try:
            self._own.parent.mkdir(parents=True, exist_ok=True)
            with self._own.open("ab") as file:
                file.write(np.array(list(new.items()), dtype=_RECORD).tobytes())
        except OSError as error:
            print(
                f"warning: the reference cache {self._own.parent} can't be written "
                f"({error.strerror or error}); values stay in memory, and the next run makes them again",
                file=sys.stderr,
            )
            self._own = None


def _records(path: Path) -> dict[int, float]:
    try:
        raw = path.read_bytes()
    except OSError:
        return {}
    # A process that was killed may have left half a record at the end.
    records = np.frombuffer(raw[: len(raw) // _RECORD.itemsize * _RECORD.itemsize], dtype=_RECORD)
    return dict(zip(records["key"].tolist(), records["logp"].tolist(), strict=True))


def cache_folder(cache_dir: str | None, weights: Iterable[Path], precision: str) -> Path:
    """Where values of one model lie: the folder's name covers the weights, byte by byte, and the precision.

    Args:
        cache_dir: the run's option; None for the Hugging Face cache.
        weights: folders of the model and of its adapter.
        precision: types of the weights and of the arithmetic.
    """
    digest = hashlib.sha256(precision.encode())
    for folder in weights:
        for path in sorted(folder.iterdir()):
            if path.suffix in _WEIGHTS_AND_CODE or path.name in _CONFIGS:
                digest.update(f"{path.name} {sha256_of(path)}\n".encode())
    base = Path(cache_dir).expanduser() if cache_dir else Path(constants.HF_HOME) / "swift"
    return base / "reference" / digest.hexdigest()[:32]
