"""Everything that is checked before a model is built: hooks, data, tokens."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import math
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from swift_core.data.all_faults import all_of, with_faults_of_sound_rows
from swift_core.data.dataset import TaskData, load_data, split_off
from swift_core.data.encoding import encode_data, try_to_encode
from swift_core.data.layouts import load_function
from swift_core.errors import UserError, did_you_mean, listed
from swift_core.extensions import load_extensions
from swift_core.hookspecs import Collator
from swift_core.runs.atomic import sha256_of
from swift_core.runtime import Runtime
from swift_core.sampling import is_planned, weights_of

if TYPE_CHECKING:
    import datasets
    import transformers

    from swift_core.arguments import TrainingArguments

DataInput: TypeAlias = (
    "str | Path | Sequence[str | Path] | Sequence[Mapping[str, Any]] | datasets.Dataset | None"
)


@dataclass(frozen=True)
class Preparation:
    """What a run needs before its model is built."""

    runtime: Runtime
    collator: Collator
    train: TaskData | None
    evaluation: TaskData | None


def prepare_task(
    args: TrainingArguments,
    train_dataset: DataInput = None,
    eval_dataset: DataInput = None,
    *,
    extensions: Sequence[object] = (),
    check: bool = True,
) -> Preparation:
    """Load the hooks, check every row, tokenise once.

    The data sets given win over those that the options name. Without ``check`` nothing is to be trained:
    neither the loop nor the task is asked whether it can train on them, and the collator learns nothing from
    them.

    Raises:
        UserError: the plugin, the options or the data can't be used.
    """
    # Pluggy calls what was registered last first, and run files are read from the top.
    runtime = Runtime(args.claim, [*extensions, *reversed(load_extensions(args))])
    collator = runtime.make_collator(args=args)
    train_source = args.core.dataset if train_dataset is None else train_dataset
    eval_source = args.core.eval_dataset if eval_dataset is None else eval_dataset
    if args.evaluates and (eval_source is not None or args.core.eval_split is not None):
        raise UserError(
            f"eval_dataset (or eval_split) and {listed(args.evaluating_options)} both name evaluation data: "
            "give one of them"
        )
    # What learns from the data can't encode before all of it is read.
    learns = check and train_source is not None and hasattr(collator, "fitted")
    train, evaluation = _load_both(train_source, eval_source, args, None if learns else collator)
    if train is not None and evaluation is None and args.core.eval_split is not None:
        train, evaluation = split_off(
            train, args.core.eval_split, args.trainer.seed, args.spec.strata, args.spec.together
        )
    if check and train is not None and hasattr(collator, "fitted"):
        collator = collator.fitted(train, evaluation, args)
    key = encoding_key(args, collator)
    encode = partial(_encode, args=args, collator=collator, key=key)
    train, evaluation = all_of([partial(_if_any, encode, data) for data in (train, evaluation)])
    if check and train is not None:
        _check_loop(args, train, evaluation)
        if hasattr(collator, "check"):
            collator.check(train, args)
    if evaluation is not None and hasattr(collator, "check_evaluation"):
        collator.check_evaluation(evaluation)
    return Preparation(runtime, collator, train, evaluation)


def _check_loop(args: TrainingArguments, train: TaskData, evaluation: TaskData | None) -> None:
    """Refuse what the training loop would refuse only once the model is built, or do nothing about."""
    from transformers.trainer_utils import IntervalStrategy

    loop = args.trainer
    when = IntervalStrategy(loop.eval_strategy)
    if when != IntervalStrategy.NO and evaluation is None and not args.evaluates:
        raise UserError(
            f"eval_strategy: '{when.value}' needs evaluation data, found none; set eval_dataset or "
            "eval_split, or eval_strategy=no"
        )
    if args.says("eval_on_start") and loop.eval_on_start and evaluation is None and not args.evaluates:
        raise UserError(
            "eval_on_start: needs evaluation data, found none; set eval_dataset or eval_split, or leave it "
            "out"
        )
    if args.core.early_stopping_patience is not None and when == IntervalStrategy.NO:
        raise UserError(
            "early_stopping_patience: counts the evaluations during training, found eval_strategy=no; set "
            "eval_strategy to epoch or steps"
        )
    _check_heads(args)
    if train.features is not None and is_planned(args, train.features):
        _check_plan(args, train, args.core.max_tokens_per_batch)
        return
    rows = loop.per_device_train_batch_size * loop.world_size
    if loop.dataloader_drop_last and len(train.records) < rows:
        raise UserError(
            f"dataloader_drop_last: the {len(train.records)} rows of training data don't fill one batch of "
            f"{rows}, so nothing would be trained; lower per_device_train_batch_size"
        )


def early_stopping(args: TrainingArguments) -> list[transformers.TrainerCallback]:
    """The library's callback, where the run asks for it."""
    from transformers import EarlyStoppingCallback

    patience = args.core.early_stopping_patience
    return [] if patience is None else [EarlyStoppingCallback(patience)]


def check_best_metric(
    metrics: Mapping[str, float], loop: transformers.TrainingArguments, *, stops_early: bool
) -> None:
    """Refuse to look for the best model by a figure that an evaluation did not give, or could not define.

    Raises:
        UserError: ``metric_for_best_model`` is not among ``metrics``, or decides something and is NaN.
    """
    if loop.metric_for_best_model is None:
        return
    wanted = str(loop.metric_for_best_model).removeprefix("eval_")
    if f"eval_{wanted}" not in metrics:
        names = [name.removeprefix("eval_") for name in metrics]
        raise UserError(
            f"metric_for_best_model: the evaluation gave no '{wanted}'.{did_you_mean(wanted, names)} "
            f"It gave {listed(names)}"
        )
    decides = loop.load_best_model_at_end or stops_early
    if decides and math.isnan(metrics[f"eval_{wanted}"]):
        raise UserError(
            f"metric_for_best_model: the evaluation data does not define '{wanted}' (it may lack a label), "
            "so that no model would be the best; choose another metric, or other evaluation data"
        )


def _check_heads(args: TrainingArguments) -> None:
    if args.core.sequence_parallel_size > 1 and args.core.model_name_or_path is not None:
        from swift_core.flat.sequence import heads_fault
        from swift_core.model_folders import load_config

        fault = heads_fault(load_config(args), args.core.sequence_parallel_size)
        if fault:
            raise UserError(fault)


def _check_plan(args: TrainingArguments, train: TaskData, budget: int | None) -> None:
    """Refuse options that would decide otherwise which rows make a batch."""
    faults = []
    decides = "the task's rules for batches" if budget is None else "max_tokens_per_batch"
    if budget is None and args.core.sequence_parallel_size > 1:
        decides = "sequence_parallel_size"
    if budget is not None and train.stats is not None and train.stats.longest > budget:
        faults.append(
            f"max_tokens_per_batch: the longest row has {train.stats.longest:,} tokens, expected at least "
            f"that many, found {budget:,}; raise it, or lower max_length"
        )
    strategy = str(args.trainer.train_sampling_strategy)
    if strategy not in ("random", "sequential"):
        faults.append(
            f"train_sampling_strategy: '{strategy}' and {decides} both decide which rows make a batch; "
            "leave it out (max_tokens_per_batch brings rows of similar length together)"
        )
    if strategy == "sequential" and train.features is not None and weights_of(train.features):
        faults.append(
            "train_sampling_strategy: rows that are drawn by weight have no order; leave one of them out"
        )
    if args.trainer.dataloader_drop_last:
        faults.append(
            f"dataloader_drop_last: has no effect with {decides}, whose batches have sizes of their own; "
            "leave it out"
        )
    if faults:
        raise UserError(*faults)


def prepare_for_evaluation(args: TrainingArguments) -> Preparation:
    """The same without training data, unless the evaluation data is a part of it."""
    if args.core.eval_split is None:
        args = args.replace(dataset=None)
    return prepare_task(args, check=False)


def prepare_for_export(args: TrainingArguments) -> Preparation:
    """The same without evaluation data; training data that is no longer there is told and left out."""
    args = args.replace(eval_dataset=None)
    try:
        return prepare_task(args, check=False)
    except UserError as error:
        # Faults of the options come up again without the data, and are not swallowed.
        without = prepare_task(args.replace(dataset=None), check=False)
        print(f"the training data is not at hand: {error.faults[0]}")
        return without


def prepare_data(source: DataInput, name: str, args: TrainingArguments, collator: Collator) -> TaskData:
    """Load, check and encode one data set."""
    return _encode(_load(source, name, args), args, collator, encoding_key(args, collator))


def _load(source: Any, name: str, args: TrainingArguments) -> TaskData:
    core = args.core
    split = core.dataset_split if name == "train" else core.eval_dataset_split
    return load_data(
        source, name=name, spec=args.spec, columns=core.columns, split=split, config=core.dataset_config
    )


def _load_both(
    train: Any, evaluation: Any, args: TrainingArguments, collator: Collator | None
) -> list[TaskData | None]:
    """Read both data sets; with a ``collator``, rows that it refuses are told with those that are wrong."""

    def load(source: Any, name: str) -> TaskData:
        if collator is None or args.spec.gather is not None:
            return _load(source, name, args)
        read, look = partial(_load, source, name, args), partial(try_to_encode, collator=collator)
        return with_faults_of_sound_rows(read, partial(look, owner=_owner(args)))

    named = ((train, "train"), (evaluation, "eval"))
    return all_of([partial(_if_any, partial(load, name=name), source) for source, name in named])


def _if_any(make: Callable[[Any], TaskData], source: Any) -> TaskData | None:
    return None if source is None else make(source)


def _owner(args: TrainingArguments) -> str:
    return f"package {args.claim.package} {args.claim.version}, task type '{args.spec.name}'"


def _encode(data: TaskData, args: TrainingArguments, collator: Collator, key: str) -> TaskData:
    cache_dir = Path(args.core.cache_dir).expanduser() if args.core.cache_dir else None
    # One process fills the cache, the others read it.
    with args.trainer.main_process_first(desc="tokenising"):
        return encode_data(
            data,
            collator,
            key=key,
            cache_dir=cache_dir,
            progress=args.shows_progress,
            owner=_owner(args),
        )


def _source_around(definition: type | Callable[..., Any]) -> str:
    """Fingerprint of the package that has ``definition``, or the source of its module that is in none."""
    module = sys.modules.get(definition.__module__)
    package = sys.modules.get(getattr(module, "__package__", None) or "")
    folders = sorted(getattr(package, "__path__", ()))
    digest = hashlib.sha256()
    for path in (path for folder in folders for path in sorted(Path(folder).rglob("*.py"))):
        digest.update(path.read_bytes())
    return digest.hexdigest() if folders else inspect.getsource(inspect.getmodule(definition) or definition)


def encoding_key(args: TrainingArguments, collator: Collator) -> str:
    """What the encoding of a row depends on besides the row: code, tokenizer and options."""
    task = dataclasses.asdict(args.task) if args.task is not None else {}
    core = args.core
    model = [core.model_name_or_path, core.model_revision, core.max_length]
    # The source too: who writes a task type, or works on this core, changes it without a new version.
    source = _source_around(type(collator)) + _source_around(load_data)
    if args.spec.gather is not None:
        source += _source_around(load_function(args.spec.gather, args.spec))
    if hasattr(collator, "encoding_parts"):
        source += collator.encoding_parts()
    versions = [args.claim.version, version("transformers"), version("tokenizers")]
    parts = [args.claim.package, versions, args.spec.name, model, task, source]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode())
    if hasattr(collator, "save_pretrained"):
        with tempfile.TemporaryDirectory() as folder:
            collator.save_pretrained(folder)
            for path in sorted(Path(folder).rglob("*")):
                if path.is_file():
                    digest.update(f"{path.relative_to(folder)} {sha256_of(path)}\n".encode())
    return digest.hexdigest()
