"""From rows to batches: tokenise each text once, put each document of a batch into it once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from swift_core.errors import UserError
from swift_core.flat import PoolingMethod, flat_batch
from swift_core.model_folders import config_folder, load_single_stack_config, position_limit, resolve_model
from swift_core.models import load_tokenizer
from swift_embedding.encoding import Recipe, TextEncoder, tokens_of_prompt
from swift_embedding.guide import Guide
from swift_embedding.pooling import default_pooling, read_include_prompt
from swift_embedding.relations import Relations
from swift_embedding.requirements import check_data, check_evaluation
from swift_embedding.st_folder import read_max_length, read_prompts, read_side_lengths, write_st_config

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from swift_core.arguments import TrainingArguments
    from swift_core.data.dataset import TaskData
    from swift_embedding.objective import Kind

_NO_LIMIT = 1_000_000
"""Tokenizers without a limit of their own say 1e30."""


@dataclass(frozen=True, kw_only=True)
class EmbeddingCollator:
    """Encodes rows of all layouts; also keeps how vectors are made.

    Pairs and labelled texts take the part of queries: that is what models with prompts want for texts that
    are compared with their like (Wang et al. 2022, E5).

    Attributes:
        vocabulary: number of token ids that the model knows, where its config says so.
        query_max_length: longest query in tokens, special tokens and prompt included.
        document_max_length: the same of a document.
        query_skip: leading tokens of a query that mean pooling leaves out, see :func:`tokens_of_prompt`.
        document_skip: the same of a document.
        guide: says which negatives don't count, or None.
    """

    tokenizer: PreTrainedTokenizerBase
    vocabulary: int | None
    query_max_length: int
    document_max_length: int
    pooling_method: PoolingMethod
    normalize_embeddings: bool
    query_prompt: str
    document_prompt: str
    pool_prompts: bool
    query_skip: int
    document_skip: int
    guide: Guide | None

    def encode(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Token ids of a row's texts, numbers that know equal texts, and what the row says of them."""
        if record.get("text") is not None:
            return self._features(record, record["text"], [], label=record["label"])
        if record.get("text1") is not None:
            return self._features(record, record["text1"], [record["text2"]], scores=[record["score"]])
        positives, negatives = record["positive"], record.get("negatives") or []
        scores = None
        if record.get("positive_scores") is not None:
            scores = [*record["positive_scores"], *(record.get("negative_scores") or ())]
        texts = [*positives, *negatives]
        return self._features(record, record["query"], texts, answers=len(positives), scores=scores)

    def _features(
        self,
        record: Mapping[str, Any],
        query: str,
        documents: list[str],
        *,
        answers: int = 0,
        scores: list[float] | None = None,
        label: str | None = None,
    ) -> dict[str, Any]:
        scored = answers == 0
        rows = [self.query_tokens(query)]
        rows += [self.query_tokens(text) if scored else self.document_tokens(text) for text in documents]
        # A query may be somebody's document, which must not count as its negative.
        as_document = rows[0][0] if scored else self.document_tokens(query)[0]
        return {
            "query": rows[0][0],
            "documents": [ids for ids, _ in rows[1:]],
            "query_number": _number(as_document),
            "document_numbers": [_number(ids) for ids, _ in rows[1:]],
            "answers": answers,
            "scores": scores,
            "label": None if label is None else _number(list(label.encode())),
            "texts": [query, *documents] if self.guide is not None else None,
            "group": record.get("source") or 0,
            "mate": label,
            "length": sum(len(ids) for ids, _ in rows),
            "truncated": sum(cut for _, cut in rows),
        }

    def query_tokens(self, text: str) -> tuple[list[int], bool]:
        """Token ids of ``text`` as a query, and whether it was cut."""
        return self._tokens(self.query_prompt + text, self.query_max_length)

    def document_tokens(self, text: str) -> tuple[list[int], bool]:
        """Token ids of ``text`` as a document, and whether it was cut."""
        return self._tokens(self.document_prompt + text, self.document_max_length)

    def _tokens(self, text: str, limit: int) -> tuple[list[int], bool]:
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
        if len(ids) <= limit:
            return ids, False
        cut = self.tokenizer(text, truncation=True, max_length=limit, verbose=False)
        return cut["input_ids"], True

    def check(self, data: TaskData, args: TrainingArguments) -> None:
        """Refuse data that the losses can't learn from, and files that would fail after the training only.

        Raises:
            UserError: see :func:`swift_embedding.requirements.check_data`.
        """
        check_data(data, args)

    def check_evaluation(self, data: TaskData) -> None:
        """Refuse evaluation data that would fail only after the training.

        Raises:
            UserError: see :func:`swift_embedding.requirements.check_evaluation`.
        """
        check_evaluation(data)

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Batch B rows with N different documents.

        Returns:
            ``query`` and ``document`` (each a :class:`swift_core.flat.FlatBatch`, of B and of N texts; no
            ``document`` for labelled texts), ``relations`` (:class:`swift_embedding.relations.Relations`),
            ``kind`` and ``source`` of the rows, with a guide the ``query_texts`` and ``document_texts``.
        """
        if features[0]["label"] is not None:
            return self._labelled(features)
        kind: Kind = "answers" if features[0]["answers"] else "scored"
        place: dict[int, int] = {}
        rows_of: list[list[int]] = []
        texts: list[str] = []
        pairs: dict[tuple[int, int], tuple[bool, float | None]] = {}
        for row, feature in enumerate(features):
            scores = feature["scores"] or [None] * len(feature["documents"])
            for n, (number, ids) in enumerate(
                zip(feature["document_numbers"], feature["documents"], strict=True)
            ):
                at = place.setdefault(number, len(place))
                if at == len(rows_of):
                    rows_of.append(ids)
                    texts += feature["texts"][n + 1 : n + 2] if self.guide else []
                # Answers come first: what is an answer and a negative of one row is the answer.
                pairs.setdefault((row, at), (n < feature["answers"], scores[n] if n < len(scores) else None))
        rows, documents = zip(*pairs, strict=True)
        answers, found = zip(*pairs.values(), strict=True)
        own = torch.tensor([feature["query_number"] for feature in features])  # [B]
        relations = Relations(
            topics=own,
            texts=own,
            documents=torch.tensor(list(place)),
            row=torch.tensor(rows),
            document=torch.tensor(documents),
            answers=torch.tensor(answers),
            scores=None if None in found else torch.tensor(found),
        )
        batch = self._batch(features, kind, relations)
        return {**batch, "document": flat_batch(rows_of), "document_texts": texts}

    def _labelled(self, features: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Any two texts are a pair; the same label makes them each other's answers."""
        count = len(features)
        pairs = torch.cartesian_prod(torch.arange(count), torch.arange(count)).reshape(-1, 2)
        pairs = pairs[pairs[:, 0] != pairs[:, 1]]
        topics = torch.tensor([feature["label"] for feature in features])
        texts = torch.tensor([feature["query_number"] for feature in features])
        relations = Relations(
            topics=topics,
            texts=texts,
            documents=texts,
            row=pairs[:, 0],
            document=pairs[:, 1],
            answers=topics[pairs[:, 0]] == topics[pairs[:, 1]],
            scores=None,
            labelled=True,
        )
        return self._batch(features, "labelled", relations)

    def _batch(
        self, features: Sequence[Mapping[str, Any]], kind: Kind, relations: Relations
    ) -> dict[str, Any]:
        return {
            "query": flat_batch([feature["query"] for feature in features]),
            "query_texts": [feature["texts"][0] for feature in features] if self.guide else [],
            "relations": relations,
            "kind": kind,
            "source": features[0]["group"],
        }

    @property
    def recipe(self) -> Recipe:
        """How vectors are made, as it is saved."""
        return Recipe(
            tokenizer=self.tokenizer,
            max_length=max(self.query_max_length, self.document_max_length),
            query_max_length=self.query_max_length,
            document_max_length=self.document_max_length,
            pooling_method=self.pooling_method,
            normalize_embeddings=self.normalize_embeddings,
            query_prompt=self.query_prompt,
            document_prompt=self.document_prompt,
            pool_prompts=self.pool_prompts,
        )

    def encoder(self, model: nn.Module) -> TextEncoder:
        """What turns texts into vectors with ``model``, as in training."""
        return TextEncoder(model=model, **vars(self.recipe))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the tokenizer and how vectors are made, in the layout of sentence-transformers."""
        write_st_config(Path(folder), self.recipe)


def make_collator(args: TrainingArguments) -> EmbeddingCollator:
    """Read from options and from the model's own config how texts become vectors."""
    tokenizer = load_tokenizer(args)
    config = load_single_stack_config(args)
    folder = resolve_model(args)
    if not (folder / "modules.json").exists():
        folder = config_folder(args)  # plain peft saves an adapter without it; its base model says
    task = args.task
    saved_query, saved_document = read_prompts(folder)
    query_prompt = saved_query if task.query_prompt is None else task.query_prompt
    document_prompt = saved_document if task.document_prompt is None else task.document_prompt
    pooling = task.pooling_method or default_pooling(folder, config)
    pool_prompts = read_include_prompt(folder) if task.pool_prompts is None else task.pool_prompts
    leaves_out = pooling == "mean" and not pool_prompts
    _check_dimensions(args, config)
    return EmbeddingCollator(
        tokenizer=tokenizer,
        vocabulary=getattr(config, "vocab_size", None),
        **_max_lengths(args, folder, tokenizer, position_limit(config), query_prompt, document_prompt),
        pooling_method=pooling,
        normalize_embeddings=task.normalize_embeddings,
        query_prompt=query_prompt,
        document_prompt=document_prompt,
        pool_prompts=pool_prompts,
        query_skip=tokens_of_prompt(tokenizer, query_prompt) if leaves_out else 0,
        document_skip=tokens_of_prompt(tokenizer, document_prompt) if leaves_out else 0,
        guide=None if task.guide_model is None else Guide(_guide_folder(args)),
    )


def _guide_folder(args: TrainingArguments) -> Path:
    try:
        return resolve_model(args.with_model(args.task.guide_model))
    except UserError as error:
        raise UserError(*(f"guide_model: {fault}" for fault in error.faults)) from error


def _check_dimensions(args: TrainingArguments, config: Any) -> None:
    size = getattr(config, "hidden_size", None)
    beyond = [dim for dim in args.task.matryoshka_dims or () if size is not None and dim > size]
    if beyond:
        raise UserError(f"matryoshka_dims: the model's vectors have {size} dimensions, found {beyond}")


def _max_lengths(
    args: TrainingArguments,
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    limit: int | None,
    query_prompt: str,
    document_prompt: str,
) -> dict[str, int]:
    limits = [read_max_length(folder), limit, tokenizer.model_max_length]
    default = min((n for n in limits if n is not None and n < _NO_LIMIT), default=512)
    asked = {
        "query_max_length": args.task.query_max_length,
        "document_max_length": args.task.document_max_length,
    }
    saved = dict(zip(asked, read_side_lengths(folder), strict=True))
    found, faults = {}, []
    for side, prompt in (("query_max_length", query_prompt), ("document_max_length", document_prompt)):
        name = "max_length" if asked[side] is None else side
        length = asked[side] or args.core.max_length or saved[side] or default
        # What the model says of itself is not the user's choice.
        chosen = asked[side] is not None or args.core.max_length is not None
        taken = len(tokenizer(prompt)["input_ids"])
        if chosen and limit is not None and length > limit:
            faults.append(f"{name}: the model takes at most {limit} tokens, found {length}")
        elif chosen and length <= taken:
            what = "special tokens of the model" + (" and its prompt" if prompt else "")
            faults.append(f"{name}: expected more than the {taken} {what}, found {length}")
        found[side] = length
    if faults:
        raise UserError(*dict.fromkeys(faults))
    return found


def _number(ids: Sequence[int]) -> int:
    """The same number wherever the model sees the same."""
    digest = hashlib.blake2b(b"".join(n.to_bytes(4, "little") for n in ids), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
