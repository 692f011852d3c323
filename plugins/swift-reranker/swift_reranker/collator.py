"""From rows to batches of lists, and what is kept beside the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from swift_core.errors import UserError
from swift_core.flat import flat_batch
from swift_core.model_folders import load_single_stack_config, position_limit, resolve_model
from swift_core.models import load_tokenizer
from swift_reranker.objective import check_training
from swift_reranker.pairs import PairEncoding, TokenLists
from swift_reranker.settings import Settings, read_settings
from swift_reranker.template import DECODER, QWEN3_INSTRUCTION, QWEN3_RERANKER, Template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from swift_core.arguments import TrainingArguments
    from swift_core.data.dataset import TaskData

# Shape legend: S lists, K pairs of all of them.

_NO_LIMIT = 1_000_000
"""Tokenizers without a limit of their own say 1e30."""
_DEFAULT_LENGTH = 512


class Once:
    """Something that is made once in a process; workers of a DataLoader, which never ask for it, get none."""

    def __init__(self) -> None:
        self._made: Any = None

    def of(self, make: Callable[[], Any]) -> Any:
        """What ``make`` returned when it was called first."""
        if self._made is None:
            self._made = make()
        return self._made

    def __reduce__(self) -> tuple[type[Once], tuple[()]]:
        return Once, ()


@dataclass(frozen=True, kw_only=True)
class RerankerCollator:
    """Encodes lists: a query with its documents.

    Attributes:
        pairs: how a pair becomes token ids.
        settings: what is kept beside the weights.
        list_size: see the option ``train_list_size``.
        inbatch_negatives: see the option of that name.
        searched: what the first stage of ``eval_retrieval`` found.
    """

    pairs: PairEncoding
    settings: Settings
    list_size: int | None = None
    inbatch_negatives: int = 0
    searched: Once = field(default_factory=Once, repr=False, compare=False)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """That of the model."""
        return self.pairs.tokenizer

    def fitted(
        self, train: TaskData, evaluation: TaskData | None, args: TrainingArguments
    ) -> RerankerCollator:
        """The collator itself, after a look at the training data.

        Raises:
            UserError: the loss can't learn from it.
        """
        check_training(train.records, args)
        if args.trainer.process_index == 0:
            print(f"scoring   {self._told(args)}", flush=True)
        return self

    def _told(self, args: TrainingArguments) -> str:
        from swift_reranker.reranker import is_reranker

        settings = self.settings
        if settings.scoring == "generative":
            return f"log-odds of {settings.true_token!r} against {settings.false_token!r} after the template"
        reads = "pairs" if settings.template is None else "the template"
        return f"{'the head of the model' if is_reranker(args) else 'a new head'}, which reads {reads}"

    def check(self, data: TaskData, args: TrainingArguments) -> None:
        """Refuse files that options name and that can't be used, before the model is built."""
        from swift_reranker.evaluation import check_retrieval

        check_retrieval(self, args)

    def check_evaluation(self, data: TaskData) -> None:
        """Refuse evaluation rows without labels.

        Raises:
            UserError: there is no label above 0 in them, or nothing to put in order.
        """
        judged = [row for row in data.records["labels"] if row is not None and max(row) > 0]
        if not judged:
            raise UserError(
                "eval_dataset: expected lists with a relevant document (a label above 0), found none; a "
                "teacher's scores are not enough"
            )
        if all(len(row) < 2 for row in judged):
            raise UserError(
                "eval_dataset: expected lists of several documents, of which some are relevant, found one "
                "document in each, which has no order; add documents that are not relevant"
            )

    def encode(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Token ids of a list, its labels and its teacher's scores."""
        tokens = self.pairs.of_list(record["query"], record["documents"])
        feature = {
            **feature_of(tokens),
            "labels": record["labels"],
            "scores": record["scores"],
            # Pairs with documents of other lists are made when a batch is.
            "query": record["query"] if self.inbatch_negatives else None,
            "documents": list(record["documents"]) if self.inbatch_negatives else None,
            "truncated": sum(tokens.cut),
        }
        return {**feature, "length": self._trained_tokens(feature)}

    def _trained_tokens(self, feature: Mapping[str, Any]) -> int:
        """Tokens of the list in training; what joins it then is taken to be as long as its own documents."""
        rows = self._shortened(feature)["rows"]
        own = sum(map(len, rows))
        return len(feature["prefix"]) + own + own * self.inbatch_negatives // len(rows)

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Batch S lists for training; see :meth:`batch`."""
        if self.inbatch_negatives:
            features = [self._joined(features, number) for number in range(len(features))]
        return self.batch([self._shortened(feature) for feature in features])

    def batch(self, features: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Batch S lists of K pairs as they are.

        Returns:
            ``texts``, a :class:`swift_core.flat.FlatBatch` whose first K rows are the pairs, list by list,
            and whose further ones are what pairs of a list begin with; ``group`` [K] int64, their lists;
            ``labels`` and ``scores``, float32 [K], or None where a list has none.
        """
        rows = [row for feature in features for row in feature["rows"]]
        parents: list[int | None] = []
        prefixes: list[Sequence[int]] = []
        for feature in features:
            parent = len(rows) + len(prefixes) if feature["prefix"] else None
            prefixes += [feature["prefix"]] if feature["prefix"] else []
            parents += [parent] * len(feature["rows"])
        types = None
        if features[0]["types"] is not None:
            types = [row for feature in features for row in feature["types"]]
        sizes = torch.tensor([len(feature["rows"]) for feature in features])
        return {
            "texts": flat_batch(
                [*rows, *prefixes], parents=[*parents, *[None] * len(prefixes)], token_type_ids=types
            ),
            "group": torch.arange(len(features)).repeat_interleave(sizes),
            "labels": _flat([feature["labels"] for feature in features]),
            "scores": _flat([feature["scores"] for feature in features]),
        }

    def _shortened(self, feature: Mapping[str, Any]) -> Mapping[str, Any]:
        """The list with at most ``list_size`` documents, and what joined it."""
        joined = feature.get("joined", 0)
        count = len(feature["rows"]) - joined
        if self.list_size is None or count <= self.list_size:
            return feature
        grades = feature["labels"] if feature["labels"] is not None else feature["scores"]
        kept = [*_kept(grades[:count], self.list_size), *range(count, count + joined)]
        columns = ("rows", "types", "labels", "scores")
        return {
            **feature,
            **{name: [feature[name][n] for n in kept] for name in columns if feature[name] is not None},
        }

    def _joined(self, lists: Sequence[Mapping[str, Any]], number: int) -> Mapping[str, Any]:
        """List ``number`` with positives of the lists that follow it, as negatives."""
        own = lists[number]
        others = [*lists[number + 1 :], *lists[:number]]
        # The same query may stand in two lists: its answers are no negatives, wherever they stand.
        known = {text for entry in lists if entry["query"] == own["query"] for text in entry["documents"]}
        found = [
            document
            for other in others
            for document, label in zip(other["documents"], other["labels"], strict=True)
            if label > 0 and document not in known
        ]
        more = list(dict.fromkeys(found))[: self.inbatch_negatives]
        tokens = self.pairs.of_list(own["query"], [*own["documents"], *more])
        labels = [*own["labels"], *[0.0] * len(more)]
        return {**own, **feature_of(tokens), "labels": labels, "joined": len(more)}

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the tokenizer, which pads on the right, and how pairs are read and scored."""
        self.tokenizer.save_pretrained(folder)
        self.settings.save(Path(folder))


def feature_of(tokens: TokenLists) -> dict[str, Any]:
    """What :meth:`RerankerCollator.batch` reads of a list that has no labels."""
    return {
        "prefix": tokens.prefix,
        "rows": tokens.rows,
        "types": tokens.types,
        "labels": None,
        "scores": None,
    }


def _kept(grades: Sequence[float], size: int) -> list[int]:
    """Places of ``size`` documents: the best half, the first of the worst; more best ones fill it up."""
    order = sorted(range(len(grades)), key=lambda n: -grades[n])  # stable
    least = min(grades)
    best = [n for n in order if grades[n] > least]
    worst = [n for n in order if grades[n] == least]
    room = max(size // 2, size - len(worst))
    return sorted([*best[:room], *worst[: size - min(room, len(best))]])


def _flat(lists: Sequence[Sequence[float] | None]) -> torch.Tensor | None:
    if any(values is None for values in lists):
        return None
    return torch.tensor([value for values in lists for value in values or ()], dtype=torch.float32)


def make_collator(args: TrainingArguments) -> RerankerCollator:
    """Read from options and from the model's folder how pairs are read and scored."""
    tokenizer = load_tokenizer(args)
    # Positions are counted from the left by many models, and plain transformers counts padding too.
    tokenizer.padding_side = "right"
    config = load_single_stack_config(args)
    if not tokenizer.is_fast:
        raise UserError(
            f"model_name_or_path: the tokenizer of {args.core.model_name_or_path} can't tell where its "
            "tokens lie in a text (it has no tokenizer.json), so no document can be cut; choose another model"
        )
    text_config = config.get_text_config()
    settings = _settings(args, tokenizer, position_limit(text_config))
    _check_tokens(settings, tokenizer)
    return RerankerCollator(
        pairs=PairEncoding(
            tokenizer=tokenizer,
            max_length=settings.max_length,
            query_max_length=settings.query_max_length,
            template=None if settings.template is None else Template(settings.template),
            instruction=settings.instruction,
            vocabulary=getattr(text_config, "vocab_size", None),
        ),
        settings=settings,
        list_size=args.task.train_list_size,
        inbatch_negatives=args.task.inbatch_negatives,
    )


def _settings(args: TrainingArguments, tokenizer: PreTrainedTokenizerBase, limit: int | None) -> Settings:
    task, saved = args.task, read_settings(resolve_model(args))
    scoring = task.scoring or (saved.scoring if saved else "head")
    generative = scoring == "generative"
    template = task.template if task.template is not None else (saved.template if saved else None)
    if template is None and (generative or not _takes_pairs(tokenizer)):
        template = QWEN3_RERANKER if generative else DECODER
    faults = []
    if saved is not None and scoring != saved.scoring:
        faults.append(f"scoring: the model is a reranker with scoring={saved.scoring}, found {scoring}")
    if not generative and _takes_pairs(tokenizer) and template is not None:
        faults.append("template: an encoder reads pairs as its tokenizer makes them; leave it out")
    if task.instruction is not None and "{instruction}" not in (template or ""):
        faults.append(
            "instruction: the template has no place {instruction} for it; leave it out, or set template"
        )
    tokens = {"true_token": task.true_token, "false_token": task.false_token}
    faults += [
        f"{name}: has no effect with scoring={scoring}; leave it out, or set scoring=generative"
        for name, value in tokens.items()
        if value is not None and not generative
    ]
    if faults:
        raise UserError(*faults)
    return Settings(
        scoring=scoring,
        max_length=_max_length(args, tokenizer, limit, saved),
        query_max_length=task.query_max_length or (saved.query_max_length if saved else None),
        template=None if template is None else _with_start(template, tokenizer),
        instruction=_first(task.instruction, saved.instruction if saved else QWEN3_INSTRUCTION),
        true_token=_first(task.true_token, saved.true_token if saved else "yes") if generative else None,
        false_token=_first(task.false_token, saved.false_token if saved else "no") if generative else None,
    )


def _first(given: str | None, default: str | None) -> str:
    """``given`` where it was, be it an empty text."""
    found = default if given is None else given
    return "" if found is None else found


def _takes_pairs(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether it is the tokenizer of an encoder, which puts something between two texts."""
    return tokenizer.sep_token_id is not None and bool(
        tokenizer.num_special_tokens_to_add(pair=True) > tokenizer.num_special_tokens_to_add(pair=False)
    )


def _with_start(template: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """The template with the token before it that the tokenizer puts before every text."""
    ids, start = tokenizer("a")["input_ids"], tokenizer.bos_token
    begins = start is not None and ids[0] == tokenizer.bos_token_id
    return f"{start}{template}" if begins and not template.startswith(str(start)) else template


def _check_tokens(settings: Settings, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse answers that are no single token."""
    faults = []
    for name, token in (("true_token", settings.true_token), ("false_token", settings.false_token)):
        ids = [] if token is None else tokenizer(token, add_special_tokens=False)["input_ids"]
        if token is not None and len(ids) != 1:
            faults.append(f"{name}: expected one token of the model, found {token!r}, which is {len(ids)}")
    if settings.true_token is not None and settings.true_token == settings.false_token:
        faults.append(f"false_token: expected another token than true_token, found {settings.false_token!r}")
    if faults:
        raise UserError(*faults)


def _max_length(
    args: TrainingArguments, tokenizer: PreTrainedTokenizerBase, limit: int | None, saved: Settings | None
) -> int:
    asked = args.core.max_length
    if asked is not None and limit is not None and asked > limit:
        raise UserError(f"max_length: the model takes at most {limit} tokens, found {asked}; lower it")
    limits = [n for n in (limit, tokenizer.model_max_length) if n is not None and n < _NO_LIMIT]
    return asked or (saved.max_length if saved else min(limits, default=_DEFAULT_LENGTH))
