"""Batches with rules: up to a number of tokens, of one data set each, with rows that belong together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader, Sampler
from transformers.trainer_utils import seed_worker

if TYPE_CHECKING:
    import datasets

    from swift_core.arguments import TrainingArguments
    from swift_core.trainer import SwiftTrainer

_BATCHES_IN_WINDOW = 32


class PlannedBatches(Sampler[list[int]]):
    """Batches with rules, different in each epoch, the same with the same seed.

    Rows are shuffled, or drawn with replacement where they have weights. With ``max_tokens``, rows within a
    window of some 32 batches are then sorted by length and cut into batches, and these are shuffled again: so
    rows of a batch are of similar length, and which rows meet is still a matter of chance. A batch holds
    rows of one group only. All epochs and all processes have the same number of batches; those of one step
    are of one group, and alike in tokens, so that processes wait little for each other.

    Attributes:
        epoch: set by the training loop through :meth:`set_epoch`.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        max_tokens: int | None = None,
        max_rows: int | None = None,
        groups: Sequence[int] | None = None,
        mates: Sequence[str | None] | None = None,
        weights: Sequence[float] | None = None,
        seed: int = 0,
        epochs: int = 1,
        shuffle: bool = True,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        """Plan as many batches as the fullest of ``epochs`` epochs needs.

        Args:
            lengths: tokens of each row.
            max_tokens: tokens of a batch at most; a longer row is a batch of its own.
            max_rows: rows of a batch at most.
            groups: rows of different groups are never in one batch; None where all are of one.
            mates: rows with the same mate are put into a batch at least two at a time, where there are two.
            weights: how often each row is drawn, up to a factor; None for once each.
            seed: of the order.
            epochs: how many will be asked for.
            shuffle: False to keep the order of the rows.
            rank: this process.
            processes: how many there are; each gets its own share of the batches.
        """
        self._lengths = [int(length) for length in lengths]
        self._max_tokens = math.inf if max_tokens is None else max_tokens
        self._max_rows = max_rows or len(lengths)
        self._groups = _members(groups or [0] * len(self._lengths))
        self._mates = mates
        self._weights = None if weights is None else np.asarray(weights, dtype=np.float64)
        self._seed, self._shuffle = seed, shuffle
        self._rank, self._processes = rank, processes
        self.epoch = 0
        cuts = [self._cut(epoch) for epoch in range(epochs if shuffle else 1)]
        most = [max(map(len, parts)) for parts in zip(*cuts, strict=True)]
        self._steps = [math.ceil(count / processes) for count in most]

    def __len__(self) -> int:
        """Batches of this process in an epoch."""
        return sum(self._steps)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next iteration is."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the rows of each batch of this process."""
        steps: list[list[list[int]]] = []
        for batches, count in zip(self._cut(self.epoch), self._steps, strict=True):
            filled = _filled(batches, count * self._processes)
            if self._shuffle:
                # Those of one step lie side by side, alike in tokens, and stay together.
                filled.sort(key=self._tokens)
            steps += [filled[n : n + self._processes] for n in range(0, len(filled), self._processes)]
        order = np.arange(len(steps))
        if self._shuffle:
            np.random.default_rng([self._seed, self.epoch, 1]).shuffle(order)
        for step in order:
            yield steps[step][self._rank]

    def _cut(self, epoch: int) -> list[list[list[int]]]:
        """The batches of each group."""
        draw = np.random.default_rng([self._seed, epoch])
        cuts = []
        for rows in self._groups:
            if not self._shuffle:
                cuts.append(self._packed(self._units(rows.tolist())))
                continue
            order = self._drawn(rows, draw)
            cuts.append(self._cut_group(self._units(order.tolist())))
        return cuts

    def _drawn(self, rows: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        if self._weights is None:
            order = rows.copy()
            draw.shuffle(order)
            return order
        weights = self._weights[rows]
        return draw.choice(rows, size=len(rows), p=weights / weights.sum())

    def _units(self, rows: Sequence[int]) -> list[list[int]]:
        """What is kept together: single rows, or two rows with the same mate."""
        if self._mates is None:
            return [[row] for row in rows]
        units: list[list[int]] = []
        last: dict[str, list[int]] = {}
        for row in rows:
            mate = self._mates[row]
            unit = last.get(mate) if mate is not None else None
            if unit is not None and len(unit) == 1:
                unit.append(row)
                continue
            units.append([row])
            if mate is not None:
                # The odd row at the end stays alone; its mates may be in the batch all the same.
                last[mate] = units[-1]
        return units

    def _cut_group(self, units: list[list[int]]) -> list[list[int]]:
        if self._max_tokens == math.inf:
            return self._packed(units)
        lengths = np.array([self._tokens(unit) for unit in units])
        rows_in_unit = sum(map(len, units)) / len(units)
        units_in_batch = min(self._max_tokens / lengths.mean(), self._max_rows / rows_in_unit)
        window = max(1, int(units_in_batch * _BATCHES_IN_WINDOW))
        batches: list[list[int]] = []
        for start in range(0, len(units), window):
            order = np.argsort(lengths[start : start + window], kind="stable")
            batches += self._packed([units[start + place] for place in order])
        return batches

    def _packed(self, units: list[list[int]]) -> list[list[int]]:
        batches: list[list[int]] = []
        room = 0.0
        for unit in self._fitting(units):
            tokens = self._tokens(unit)
            if not batches or tokens > room or len(batches[-1]) + len(unit) > self._max_rows:
                batches.append([])
                room = self._max_tokens
            batches[-1] += unit
            room -= tokens
        self._accompany(batches)
        return batches

    def _fitting(self, units: list[list[int]]) -> Iterator[list[int]]:
        """Mates that don't fit into one batch go without each other."""
        for unit in units:
            fits = self._tokens(unit) <= self._max_tokens and len(unit) <= self._max_rows
            yield from [unit] if fits else [[row] for row in unit]

    def _accompany(self, batches: list[list[int]]) -> None:
        """Give a row that was left over alone its neighbour: in-batch losses need two."""
        if len(batches) < 2 or len(batches[-1]) > 1 or len(batches[-2]) < 3:
            return
        if self._tokens([batches[-2][-1], batches[-1][0]]) <= self._max_tokens:
            batches[-1].insert(0, batches[-2].pop())

    def _tokens(self, batch: list[int]) -> int:
        return sum(self._lengths[row] for row in batch)


def _members(groups: Sequence[int]) -> list[np.ndarray]:
    """The rows of each group."""
    numbers = np.asarray(groups)
    return [np.flatnonzero(numbers == group) for group in np.unique(numbers)]


def _filled(batches: list[list[int]], wanted: int) -> list[list[int]]:
    """Cut the largest batches in two until there are as many as planned; single rows are repeated."""
    while len(batches) < wanted:
        place = max(range(len(batches)), key=lambda n: len(batches[n]))
        largest = batches[place]
        if len(largest) == 1:
            break
        middle = len(largest) // 2
        batches[place : place + 1] = [largest[:middle], largest[middle:]]
    return batches + [list(batches[n % len(batches)]) for n in range(wanted - len(batches))]


def has_rules(features: datasets.Dataset) -> bool:
    """Whether a task says which rows may share a batch: see :class:`swift_core.hookspecs.Collator`."""
    names = features.column_names
    if "group" in names and len(features.unique("group")) > 1:
        return True
    rules = [name for name in ("mate", "weight") if name in names]
    return any(value is not None for name in rules for value in features.unique(name))


def is_planned(args: TrainingArguments, features: datasets.Dataset) -> bool:
    """Whether our own sampler makes the batches of a run, and not the library's."""
    core = args.core
    return core.max_tokens_per_batch is not None or core.sequence_parallel_size > 1 or has_rules(features)


def planned_loader(trainer: SwiftTrainer, features: datasets.Dataset, budget: int | None) -> DataLoader[Any]:
    """The training batches of this process: by the rules of the task, at most ``budget`` tokens each.

    Processes that share tokens get the same batches.
    """
    args, options = trainer.args, trainer.options
    sharing = options.core.sequence_parallel_size
    place = args.process_index // sharing
    rows: int | None = args.per_device_train_batch_size
    if budget is not None and not options.says("per_device_train_batch_size"):
        rows = None
    names = features.column_names
    mates = list(features["mate"]) if "mate" in names and has_rules(features) else None
    sampler = PlannedBatches(
        features["length"],
        max_tokens=budget,
        max_rows=rows,
        groups=features["group"] if "group" in names else None,
        mates=mates,
        weights=weights_of(features),
        seed=args.seed if args.data_seed is None else args.data_seed,
        # Batches of so many rows are equally many in each epoch, unless mates stay together.
        epochs=1 if budget is None and mates is None else _epochs(trainer, features, budget, rows),
        shuffle=str(args.train_sampling_strategy) != "sequential",
        rank=place,
        processes=args.world_size // sharing,
    )
    workers = args.dataloader_num_workers
    loader: DataLoader[Any] = DataLoader(
        features,
        batch_sampler=sampler,
        collate_fn=trainer.data_collator,
        num_workers=workers,
        pin_memory=args.dataloader_pin_memory,
        persistent_workers=args.dataloader_persistent_workers,
        prefetch_factor=args.dataloader_prefetch_factor,
        multiprocessing_context=args.dataloader_multiprocessing_context,
        in_order=args.dataloader_in_order,
        worker_init_fn=partial(seed_worker, num_workers=workers, rank=place),
    )
    # The sampler gives each process its own batches; accelerate only moves them to the device.
    return prepare_data_loader(  # type: ignore[no-any-return]
        loader, device=trainer.accelerator.device, num_processes=1, process_index=0, put_on_device=True
    )


def weights_of(features: datasets.Dataset) -> list[float] | None:
    """How often each row is drawn; None where a task does not say it."""
    weights: list[float | None] = list(features["weight"]) if "weight" in features.column_names else [None]
    return None if None in weights else [weight for weight in weights if weight is not None]


def _epochs(trainer: SwiftTrainer, features: datasets.Dataset, budget: int | None, rows: int | None) -> int:
    """How many epochs the training may last; a few too many do no harm."""
    args = trainer.args
    if args.max_steps <= 0:
        return math.ceil(args.num_train_epochs)
    readers = args.world_size // trainer.options.core.sequence_parallel_size
    batches: int = args.max_steps * args.gradient_accumulation_steps * readers
    tokens = int(np.sum(features["length"]))
    fewest = max(1, tokens // budget if budget else 0, len(features) // rows if rows else 0)
    return math.ceil(batches / fewest) + 1
