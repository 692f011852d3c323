"""From rows to batches: tokenise each text once, put each document of a batch into it once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from swift_core.errors import UserError
from swift_core.flat import PoolingMethod, flat_batch
from swift_core.model_folders import config_folder, load_config, position_limit, resolve_model
from swift_core.models import load_tokenizer
from swift_embedding.pooling import default_pooling
from swift_embedding.retrieval import load_retrieval, read_corpus
from swift_embedding.st_folder import read_max_length, read_prompts, write_st_config

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from swift_core.arguments import TrainingArguments
    from swift_core.data.dataset import TaskData

_NO_LIMIT = 1_000_000
"""Tokenizers without a limit of their own say 1e30."""


@dataclass(frozen=True, kw_only=True)
class EmbeddingCollator:
    """Encodes rows of query, positive and negatives; also keeps how vectors are made.

    Attributes:
        vocabulary: number of token ids that the model knows, where its config says so.
        max_length: longest text in tokens, special tokens included.
        contrast_batch: whether the other rows of a batch give negatives.
        batch_size: rows in a batch, to refuse a run in which nothing could be contrasted.
    """

    tokenizer: PreTrainedTokenizerBase
    vocabulary: int | None
    max_length: int
    pooling_method: PoolingMethod
    normalize_embeddings: bool
    query_prompt: str
    document_prompt: str
    contrast_batch: bool
    batch_size: int

    def encode(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Token ids of the query and of its documents, the positive first."""
        texts = [record["positive"], *(record["negatives"] or ())]
        query = self.tokens(self.query_prompt + record["query"])
        documents = [self.tokens(self.document_prompt + text) for text in texts]
        rows = [query, *documents]
        return {
            "query": query[0],
            "documents": [ids for ids, _ in documents],
            "length": sum(len(ids) for ids, _ in rows),
            "truncated": sum(cut for _, cut in rows),
        }

    def tokens(self, text: str) -> tuple[list[int], bool]:
        """Token ids of ``text`` and whether it was cut; a cut text keeps its end token.

        Raises:
            UserError: the tokenizer gives ids that the model has no embedding for.
        """
        ids = self.tokenizer(text, verbose=False)["input_ids"]
        if self.vocabulary is not None and max(ids, default=0) >= self.vocabulary:
            raise UserError(
                f"the tokenizer gives the token id {max(ids)} and the model knows {self.vocabulary}: they do "
                "not belong together; copy the model's own tokenizer files into its folder"
            )
        if len(ids) <= self.max_length:
            return ids, False
        cut = self.tokenizer(text, truncation=True, max_length=self.max_length, verbose=False)
        return cut["input_ids"], True

    def check(self, data: TaskData, args: TrainingArguments) -> None:
        """Refuse data that InfoNCE can't learn from, and files that would fail after the training only.

        Raises:
            UserError: some rows would have nothing to be contrasted with; ``eval_retrieval`` or
                ``export_corpus`` can't be read.
        """
        self._refuse_nothing_to_contrast(data)
        self._refuse_lone_rows(data, args.core.max_tokens_per_batch)
        if args.task.eval_retrieval is not None:
            load_retrieval(Path(args.task.eval_retrieval), args.task.eval_retrieval_split)
        if args.task.export_corpus is not None:
            read_corpus(Path(args.task.export_corpus))

    def _refuse_nothing_to_contrast(self, data: TaskData) -> None:
        if self.contrast_batch and self.batch_size > 1 and len(set(data.records["positive"])) > 1:
            return
        lonely = [
            n
            for n, row in enumerate(data.records, start=1)
            if not set(row["negatives"] or ()) - {row["positive"]}
        ]
        if not lonely:
            return
        rows = (
            f"{len(lonely):,} of {len(data.records):,} rows have no negatives (the first is row {lonely[0]})"
        )
        cause, remedy = "use_inbatch_negatives is off", "set use_inbatch_negatives=true"
        if self.contrast_batch:
            cause, remedy = "each batch holds one row", "set per_device_train_batch_size to 2 or more"
            if self.batch_size > 1:
                cause, remedy = "all rows have the same positive", "give other rows too"
            if len(data.records) == 1:
                cause, remedy = "there is only one row", "give more rows"
        raise UserError(
            f"nothing to contrast: {rows} and {cause}, so the loss would be 0 and nothing would be learned; "
            f"{remedy}, or add negatives to every row"
        )

    def _refuse_lone_rows(self, data: TaskData, budget: int | None) -> None:
        if budget is None or data.stats is None or not self.contrast_batch:
            return
        longest = data.stats.longest
        if budget < 3 * longest and not all(data.records["negatives"]):
            raise UserError(
                f"max_tokens_per_batch: expected at least {3 * longest:,}, three times the longest "
                f"row, found {budget:,}: a batch could hold one row alone, with nothing to contrast; raise "
                "it, lower max_length, or add negatives to every row"
            )

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Batch B rows with N different documents.

        Returns:
            ``query`` and ``document`` (each a :class:`swift_core.flat.FlatBatch`, of B and of N texts),
            ``targets`` [B] and ``excluded`` [B, N] as :func:`swift_embedding.losses.info_nce` takes them.
        """
        place: dict[tuple[int, ...], int] = {}
        documents = [
            [place.setdefault(tuple(ids), len(place)) for ids in row["documents"]] for row in features
        ]
        targets = torch.tensor([row[0] for row in documents])  # [B]
        return {
            "query": flat_batch([row["query"] for row in features]),
            "document": flat_batch(list(place)),
            "targets": targets,
            "excluded": self._excluded([tuple(row["query"]) for row in features], documents, len(place)),
        }

    def _excluded(
        self, queries: list[tuple[int, ...]], documents: list[list[int]], count: int
    ) -> torch.Tensor:
        """Which of ``count`` documents are no negatives of which query.

        Without in-batch negatives all but the row's own; with them, what another row calls the answer to
        the same query.
        """
        excluded = torch.full((len(queries), count), not self.contrast_batch)  # [B, N]
        for row, own in enumerate(documents):
            if not self.contrast_batch:
                excluded[row, own] = False
                continue
            answers = [documents[other][0] for other, query in enumerate(queries) if query == queries[row]]
            excluded[row, answers] = True
            excluded[row, own[0]] = False
        return excluded

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the tokenizer and how vectors are made, in the layout of sentence-transformers."""
        write_st_config(
            Path(folder),
            tokenizer=self.tokenizer,
            pooling_method=self.pooling_method,
            normalize=self.normalize_embeddings,
            max_length=self.max_length,
            prompts={"query": self.query_prompt, "document": self.document_prompt},
        )


def make_collator(args: TrainingArguments) -> EmbeddingCollator:
    """Read from options and from the model's own config how texts become vectors."""
    tokenizer = load_tokenizer(args)
    config = load_config(args)
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(
            f"model_name_or_path: {args.core.model_name_or_path} is an encoder-decoder "
            f"({config.model_type}), which this task does not train; choose an encoder or a decoder"
        )
    folder = resolve_model(args)
    if not (folder / "modules.json").exists():
        folder = config_folder(args)  # plain peft saves an adapter without it; its base model says
    query_prompt, document_prompt = read_prompts(folder)
    task = args.task
    return EmbeddingCollator(
        tokenizer=tokenizer,
        vocabulary=getattr(config, "vocab_size", None),
        max_length=_max_length(args, folder, tokenizer, position_limit(config)),
        pooling_method=task.pooling_method or default_pooling(folder, config),
        normalize_embeddings=task.normalize_embeddings,
        query_prompt=query_prompt if task.query_prompt is None else task.query_prompt,
        document_prompt=document_prompt if task.document_prompt is None else task.document_prompt,
        contrast_batch=task.use_inbatch_negatives,
        batch_size=args.trainer.per_device_train_batch_size,
    )


def _max_length(
    args: TrainingArguments, folder: Path, tokenizer: PreTrainedTokenizerBase, limit: int | None
) -> int:
    asked = args.core.max_length
    if asked is None:
        limits = [read_max_length(folder), limit, tokenizer.model_max_length]
        return min((n for n in limits if n is not None and n < _NO_LIMIT), default=512)
    special = tokenizer.num_special_tokens_to_add()
    if limit is not None and asked > limit:
        raise UserError(f"max_length: the model takes at most {limit} tokens, found {asked}")
    if asked <= special:
        raise UserError(
            f"max_length: expected more than the {special} special tokens of the model, found {asked}"
        )
    return asked
