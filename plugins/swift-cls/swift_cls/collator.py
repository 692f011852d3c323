"""From rows to batches, and what is kept beside the weights: labels, threshold, temperature."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from swift_cls.duplicates import tell_duplicates
from swift_cls.labels import Labels, learn_labels, look_alikes
from swift_cls.objective import check_chosen_metric, check_options
from swift_cls.settings import SETTINGS, labels_of_folder, read_settings
from swift_cls.texts import TextEncoding
from swift_core.errors import UserError, listed
from swift_core.flat import flat_batch
from swift_core.flat.forward import transformers_model
from swift_core.model_folders import load_single_stack_config, position_limit, resolve_model
from swift_core.models import load_tokenizer

if TYPE_CHECKING:
    import datasets
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from swift_core.arguments import TrainingArguments
    from swift_core.data.dataset import TaskData
    from swift_core.flat import PoolingMethod

_NO_LIMIT = 1_000_000
"""Tokenizers without a limit of their own say 1e30."""
_LABELS_TOLD = 12


@dataclass
class Decision:
    """How logits become labels; fitted on the evaluation data of a run that trains.

    Attributes:
        threshold: probability from which on a row has a label, or one for each label (several labels).
        temperature: logits are divided by it.
        learns: whether an evaluation fits them.
    """

    threshold: float | list[float] = 0.5
    temperature: float = 1.0
    learns: bool = False

    def step_taken(self, step: int) -> None:
        """Nothing: evaluations change it, not steps."""

    def save(self, folder: Path) -> None:
        """Nothing: the collator writes it beside all weights."""

    def restore(self, folder: Path) -> None:
        """Be what an evaluation made of it for the weights in ``folder``.

        Raises:
            UserError: the file of the collator there is damaged.
        """
        saved = read_settings(folder)
        self.threshold = saved.get("threshold", self.threshold)
        self.temperature = saved.get("temperature", self.temperature)


@dataclass(frozen=True, kw_only=True)
class ClassificationCollator:
    """Encodes rows of all layouts.

    Attributes:
        labels: what the model tells apart; None before the training data was seen, where the model does not
            say it.
        sampling: how labels are drawn, see the option of that name.
        pooling_method: which vectors the head reads, see the option of that name.
        reads: what the training rows are; for those who use the model elsewhere.
    """

    texts: TextEncoding
    labels: Labels | None
    sampling: str | None = None
    pooling_method: PoolingMethod | None = None
    reads: Literal["texts", "pairs", "messages"] = "texts"
    decision: Decision = field(default_factory=Decision)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """That of the model."""
        return self.texts.tokenizer

    @property
    def known_labels(self) -> Labels:
        """The labels.

        Raises:
            UserError: nothing tells them.
        """
        if self.labels is None:
            raise UserError(
                "label_names: the model has no labels of its own, and there is no training data to read them "
                "from; name the folder of a trained classifier"
            )
        return self.labels

    def fitted(
        self, train: TaskData, evaluation: TaskData | None, args: TrainingArguments
    ) -> ClassificationCollator:
        """The collator that knows the labels of the training data.

        Raises:
            UserError: the labels contradict each other or the options.
        """
        declared = train.class_names.get("label", train.class_names.get("labels", ()))
        values = list(train.records["label"])
        labels = learn_labels(values, args.task, self.labels, train.place, declared)
        check_options(args.task, labels)
        if args.says("metric_for_best_model"):
            directed, best = args.says("greater_is_better"), args.trainer.metric_for_best_model
            check_chosen_metric(best, args.spec, labels.problem, has_direction=directed)
        if args.task.threshold == "per_label" and evaluation is None:
            raise UserError(
                "threshold: per_label is fitted on evaluation data, found none; set eval_dataset, or "
                "eval_split"
            )
        if args.trainer.process_index == 0:
            _tell(labels, self.labels, probe=args.task.head_start == "probe")
            if evaluation is not None and args.task.report_duplicates:
                tell_duplicates(train, evaluation)
        given = args.task.threshold
        decision = Decision(threshold=given if isinstance(given, float) else 0.5, learns=True)
        return replace(self, labels=labels, decision=decision, reads=_read_in(train.records))

    def encode(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Token ids of a row's texts, and what its label stands for."""
        tokens = self.texts.of_row(record)
        targets = self.known_labels.targets(record["label"])
        return {
            "chunks": tokens.chunks,
            "types": tokens.types,
            "targets": targets,
            "weight": self._weight(targets),
            "length": sum(map(len, tokens.chunks)),
            "truncated": int(tokens.cut),
        }

    def _weight(self, targets: Sequence[float]) -> float | None:
        counts = self.known_labels.counts
        # Only training rows are drawn; a label that a model knows may have none.
        count = counts[int(targets[0])] if self.sampling is not None and counts else 0
        if count == 0:
            return None
        return float(1 / count if self.sampling == "balanced" else count**-0.5)

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Batch S rows, K chunks all in all.

        Returns:
            ``texts``, a :class:`swift_core.flat.FlatBatch` of K; ``owner`` [K], the row of each chunk, None
            where each row is one chunk; ``targets``: int64 [S], float32 [S, C] of 0 and 1, or float32 [S].
        """
        chunks = [chunk for feature in features for chunk in feature["chunks"]]
        owner = [row for row, feature in enumerate(features) for _ in feature["chunks"]]
        types = None
        if any(feature["types"] is not None for feature in features):
            types = [
                feature["types"] or [0] * len(chunk) for feature in features for chunk in feature["chunks"]
            ]
        return {
            "texts": flat_batch(chunks, token_type_ids=types),
            "owner": torch.tensor(owner) if len(owner) > len(features) else None,
            "targets": self._targets([feature["targets"] for feature in features]),
        }

    def _targets(self, rows: Sequence[Sequence[float]]) -> torch.Tensor:
        labels = self.known_labels
        if labels.problem == "single_label":
            return torch.tensor([int(row[0]) for row in rows])
        if labels.problem == "regression":
            return torch.tensor([row[0] for row in rows], dtype=torch.float32)
        targets = torch.zeros(len(rows), len(labels))
        for number, row in enumerate(rows):
            targets[number, [int(entry) for entry in row]] = 1.0
        return targets

    def before_training(self, model: nn.Module, train: TaskData, evaluation: TaskData | None) -> None:
        """Let a new head start at a linear probe, where the run wants that."""
        classifier = transformers_model(model)
        if classifier.starts_at_probe and train.features is not None:
            from swift_cls.head_start import start_at_probe  # scikit-learn takes a while to load

            start_at_probe(model, self, train.features)
            classifier.starts_at_probe = False

    def companion(self, model: nn.Module) -> Decision:
        """What a checkpoint says of the decision, the model that was best goes on with."""
        return self.decision

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the tokenizer, which pads and cuts on the right, and how texts become labels."""
        folder = Path(folder)
        self.tokenizer.save_pretrained(folder)
        settings = {
            "problem": self.known_labels.problem,
            "labels": list(self.known_labels.names),
            "max_length": self.texts.max_length,
            "long_text": self.texts.long_text,
            "pooling_method": self.pooling_method,
            "reads": self.reads,
            **{name: value for name, value in asdict(self.decision).items() if name != "learns"},
        }
        text = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
        (folder / SETTINGS).write_text(text, encoding="utf-8")


def _read_in(records: datasets.Dataset) -> Literal["texts", "pairs", "messages"]:
    if any(talk is not None for talk in records["messages"]):
        return "messages"
    return "pairs" if any(pair is not None for pair in records["text_pair"]) else "texts"


def _tell(labels: Labels, known: Labels | None, *, probe: bool) -> None:
    """Print the labels of a run, and what becomes of the head of a model for the ``known`` ones."""
    print(f"labels    {_told(labels)}", flush=True)
    for names in look_alikes(labels.names):
        shown = listed(list(map(repr, names)))
        print(f"warning   these labels look alike and are learned apart: {shown}", flush=True)
    if known is not None and not labels.of_model:
        theirs = listed(known.names[:_LABELS_TOLD]) or "scores"
        print(f"head      starts afresh: that of the model is for {theirs}", flush=True)
    elif known is not None and known.names != labels.names:
        print("head      that of the model, whose labels get these names", flush=True)
    if labels.of_model and probe:
        print("head      that of the model; head_start=probe is for new ones", flush=True)


def _told(labels: Labels) -> str:
    if labels.problem == "regression":
        return "scores (regression)"
    pairs = sorted(zip(labels.names, labels.counts, strict=True), key=lambda pair: -pair[1])
    shown = ", ".join(f"{name} {count:,}" for name, count in pairs[:_LABELS_TOLD])
    rest = f", and {len(pairs) - _LABELS_TOLD} more" if len(pairs) > _LABELS_TOLD else ""
    several = " of which a row may have several" if labels.problem == "multi_label" else ""
    return f"{len(labels)}{several}: {shown}{rest}"


def make_collator(args: TrainingArguments) -> ClassificationCollator:
    """Read from options and from the model's folder how texts become labels."""
    tokenizer = load_tokenizer(args)
    # Positions are counted from the left by many models, and plain transformers counts padding too.
    tokenizer.padding_side = "right"
    # Some are saved with "left"; the end of a long text is cut, in training and by whoever loads an export.
    tokenizer.truncation_side = "right"
    config = load_single_stack_config(args)
    folder = resolve_model(args)
    saved, labels = read_settings(folder), labels_of_folder(folder, config)
    text_config = config.get_text_config()
    given = args.task.threshold
    threshold = given if isinstance(given, float) else saved.get("threshold", 0.5)
    return ClassificationCollator(
        texts=TextEncoding(
            tokenizer=tokenizer,
            max_length=_max_length(args, tokenizer, position_limit(text_config), saved.get("max_length")),
            long_text=args.task.long_text if args.says("long_text") else saved.get("long_text", "truncate"),
            vocabulary=getattr(text_config, "vocab_size", None),
        ),
        labels=labels,
        sampling=args.task.sampling,
        pooling_method=args.task.pooling_method or saved.get("pooling_method"),
        reads=saved.get("reads", "texts"),
        decision=Decision(threshold, saved.get("temperature", 1.0)),
    )


def _max_length(
    args: TrainingArguments, tokenizer: PreTrainedTokenizerBase, limit: int | None, saved: int | None
) -> int:
    limits = [limit, tokenizer.model_max_length]
    default = min((n for n in limits if n is not None and n < _NO_LIMIT), default=512)
    asked = args.core.max_length
    specials = tokenizer.num_special_tokens_to_add(pair=True)
    if asked is not None and limit is not None and asked > limit:
        raise UserError(
            f"max_length: the model takes at most {limit} tokens, found {asked}; long_text=chunk_mean reads "
            "longer texts in chunks"
        )
    if asked is not None and asked <= specials:
        raise UserError(
            f"max_length: expected more than the {specials} special tokens of the model, found {asked}"
        )
    return asked or saved or default
