"""Long computations that go on where they stopped: results kept in pieces, under what they were made from."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from swift_core.errors import UserError
from swift_core.runs.atomic import TEMPORARY, sha256_of

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class ShardCache:
    """Arrays in a folder, one file a shard; a file's name tells what it was computed from.

    A shard is whole or not there, so a process that is killed loses only the shard it was at. What belongs to
    another model or other texts has another name and is never taken.

    Attributes:
        folder: where shards are kept; None keeps nothing.
        shard_items: items of a shard. Smaller ones lose less, larger ones leave fewer half-filled batches.
    """

    folder: Path | None = None
    shard_items: int = 4_096

    def computed(
        self,
        items: Sequence[Any],
        compute: Callable[[Sequence[Any]], np.ndarray],
        *,
        key: str,
        progress: str | None = None,
    ) -> np.ndarray:
        """``compute(items)`` in shards, those that are kept taken from the folder.

        Args:
            items: values that JSON can hold.
            compute: gives one row of an array for each item.
            key: names all else that the result depends on, see :func:`fingerprint`.
            progress: what the bar calls the work; None for no bar.

        Returns:
            The rows in the order of ``items``; float32 of shape [0, 0] for no items.
        """
        size = self.shard_items if self.folder is not None else max(len(items), 1)
        shards = [items[start : start + size] for start in range(0, len(items), size)]
        parts = []
        with tqdm(total=len(items), desc=progress, leave=False, disable=progress is None) as bar:
            for shard in shards:
                parts.append(self._shard(shard, compute, key))
                bar.update(len(shard))
        return np.concatenate(parts) if parts else np.zeros((0, 0), dtype=np.float32)

    def count_kept(self, items: Sequence[Any], *, key: str) -> int:
        """How many of ``items`` lie in the folder already."""
        if self.folder is None:
            return 0
        size = self.shard_items
        shards = [items[start : start + size] for start in range(0, len(items), size)]
        return sum(len(shard) for shard in shards if self._path(self.folder, shard, key).exists())

    def _shard(
        self, items: Sequence[Any], compute: Callable[[Sequence[Any]], np.ndarray], key: str
    ) -> np.ndarray:
        if self.folder is None:
            return compute(items)
        path = self._path(self.folder, items, key)
        # A file that a full disk or a power cut has damaged is computed again.
        with contextlib.suppress(OSError, ValueError, EOFError):
            kept: np.ndarray = np.load(path, allow_pickle=False)
            if len(kept) == len(items):
                return kept
        values = compute(items)
        _save(path, values)
        return values

    @staticmethod
    def _path(folder: Path, items: Sequence[Any], key: str) -> Path:
        digest = hashlib.sha256(key.encode())
        for item in items:
            digest.update(json.dumps(item).encode() + b"\n")
        return folder / f"{digest.hexdigest()[:40]}.npy"


def _save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{TEMPORARY}{secrets.token_hex(4)}-{path.name}")
    try:
        with fresh.open("xb") as stream:
            np.save(stream, values, allow_pickle=False)
            stream.flush()
            os.fsync(stream.fileno())
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def fingerprint(model: nn.Module, tokenizer: PreTrainedTokenizerBase, **settings: object) -> str:
    """SHA-256 over weights, configuration, tokenizer and ``settings``: equal ones give equal outputs.

    BERT's pooler may start at random and takes no part in an encoder; name ``pooler=False`` to leave it out.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    config = getattr(model, "config", None)
    digest.update(config.to_json_string().encode() if config is not None else b"")
    for name, tensor in sorted(model.state_dict().items()):
        if "pooler." in name and settings.get("pooler") is False:
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).cpu().numpy())
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                digest.update(f"{path.relative_to(folder)} {sha256_of(path)}\n".encode())
    return digest.hexdigest()


@contextlib.contextmanager
def sole_writer(folder: Path, what: str) -> Iterator[None]:
    """Let one process in for ``folder``, which is made, and removed again where nothing was put into it.

    The lock of a process that died holds nobody up.

    Raises:
        UserError: another process is inside.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a+", encoding="utf-8") as handle:
        try:
            # The system frees the lock with the process, however that ends.
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            handle.seek(0)
            raise UserError(
                f"{what}: process {handle.read().strip() or 'unknown'} is writing it; wait for its end, or "
                "name another file"
            ) from error
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        try:
            yield
        finally:
            if [path.name for path in folder.glob("*")] == ["lock"]:
                shutil.rmtree(folder)
