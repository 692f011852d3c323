"""A run's model for MTEB: ``mteb.evaluate(load_mteb_model("RUN/model"), tasks)``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from swift_core.errors import UserError
from swift_embedding.st_folder import load_encoder

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mteb.models import ModelMeta
    from numpy.typing import ArrayLike

    from swift_embedding.encoding import TextEncoder


class MtebModel:
    """What mteb 2 calls an ``EncoderProtocol``.

    Documents of retrieval and reranking get the document prompt; all other texts (queries, and the texts of
    tasks with one side, such as STS and clustering) the query prompt. Prompts of MTEB's tasks are not used.
    """

    def __init__(self, encoder: TextEncoder, meta: ModelMeta) -> None:
        """Use :func:`load_mteb_model`."""
        self._encoder = encoder
        self._meta = meta

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """What MTEB writes beside the results."""
        return self._meta

    def encode(
        self,
        inputs: Iterable[Mapping[str, Sequence[str]]],
        *,
        prompt_type: str | None = None,
        show_progress_bar: bool = False,
        precision: str = "float32",
        **unused: Any,
    ) -> np.ndarray:
        """Vectors of all texts of ``inputs``: float32 [N, D], in their order.

        Args:
            inputs: batches with ``text``; a DataLoader of mteb.
            prompt_type: ``query``, ``document`` or None (a ``mteb.types.PromptType``, which is a str).
            unused: what mteb tells of the task, and ``batch_size``: batches hold a number of tokens.

        Raises:
            UserError: another ``precision`` than float32 is asked for, or the inputs are no texts.
        """
        if precision != "float32":
            raise UserError(
                f"precision: expected float32, found {precision!r}: vectors are not quantised here"
            )
        texts: list[str] = []
        for batch in inputs:
            if "text" not in batch:
                raise UserError(f"expected a task with texts, found one with {', '.join(batch)}")
            texts.extend(batch["text"])
        if prompt_type == "document":
            return self._encoder.encode_documents(texts, show_progress_bar)
        return self._encoder.encode_queries(texts, show_progress_bar)

    def similarity(self, embeddings1: ArrayLike, embeddings2: ArrayLike) -> torch.Tensor:
        """Inner products [N, M] of [N, D] and [M, D]; cosines where vectors are normalised."""
        return _matrix(embeddings1) @ _matrix(embeddings2).T

    def similarity_pairwise(self, embeddings1: ArrayLike, embeddings2: ArrayLike) -> torch.Tensor:
        """Inner products [N] of the rows of [N, D] and [N, D]."""
        return (_matrix(embeddings1) * _matrix(embeddings2)).sum(dim=-1)


def load_mteb_model(
    path: str | Path, *, name: str | None = None, device: torch.device | str | None = None
) -> MtebModel:
    """Load ``model/`` of a run, or an ``hf`` export, for ``mteb.evaluate``.

    Args:
        path: the folder.
        name: how MTEB files the results, as ``organization/model``; default: the run's id.
        device: default: the GPU where there is one, else the processor.

    Raises:
        UserError: mteb is not installed, or there is no model in ``path``.
    """
    try:
        from mteb.models import ModelMeta
        from mteb.models.model_meta import ScoringFunction
    except ImportError as error:
        raise UserError(f"mteb is not usable here ({error}): pip install 'swift-embedding[mteb]'") from error
    folder = Path(path).absolute()
    if not any((folder / name).exists() for name in ("config.json", "adapter_config.json")):
        raise UserError(f"{folder}: expected model/ of a run, or an hf export, found no config.json in it")
    encoder = load_encoder(folder, device=device or ("cuda" if torch.cuda.is_available() else "cpu"))
    cosine = encoder.normalize_embeddings
    details = {
        "name": name or f"swift/{_run_name(folder)}",
        "revision": "1",
        "max_tokens": encoder.max_length,
        "embed_dim": encoder.encode_queries(["x"]).shape[1],
        "n_parameters": sum(weight.numel() for weight in encoder.model.parameters()),
        "similarity_fn_name": ScoringFunction.COSINE if cosine else ScoringFunction.DOT_PRODUCT,
        "framework": ["PyTorch"],
        "use_instructions": bool(encoder.query_prompt or encoder.document_prompt),
    }
    return MtebModel(encoder, ModelMeta.create_empty(overwrites=details))


def _run_name(folder: Path) -> str:
    """The run's id: of ``RUN/model`` and of ``RUN/exports/hf`` it is ``RUN``."""
    parents = [folder, *folder.parents]
    run = next((parent for parent in parents[:3] if (parent / "run.json").exists()), folder)
    return run.name


def _matrix(vectors: ArrayLike) -> torch.Tensor:
    tensor = torch.as_tensor(vectors)
    return tensor if tensor.ndim > 1 else tensor[None]
