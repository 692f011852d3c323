"""The task type ``embedding``: dual encoders, InfoNCE, retrieval metrics and FAISS bundles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swift_embedding.bundle import load_bundle

__version__ = "0.1.0"
__all__ = ["load_bundle"]


def __getattr__(name: str) -> Any:
    # Importing the spec must not import torch or faiss.
    if name == "load_bundle":
        from swift_embedding.bundle import load_bundle

        return load_bundle
    raise AttributeError(f"module 'swift_embedding' has no attribute {name!r}")
