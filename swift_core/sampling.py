"""Batches filled up to a number of tokens instead of a number of rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader, Sampler
from transformers.trainer_utils import seed_worker

from swift_core.batching import pack

if TYPE_CHECKING:
    import datasets

    from swift_core.trainer import SwiftTrainer

_BATCHES_IN_WINDOW = 32


class TokenBudgetBatches(Sampler[list[int]]):
    """Batches of at most ``max_tokens`` tokens, different in each epoch, the same with the same seed.

    Rows are shuffled; within a window of some 32 batches they are sorted by length and cut into batches, and
    these are shuffled again. So rows of a batch are of similar length, and which rows meet is still a matter
    of chance. All epochs and all processes have the same number of batches, and the batches of one step are
    alike in tokens, so that processes wait little for each other.

    Attributes:
        epoch: set by the training loop through :meth:`set_epoch`.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        max_tokens: int,
        max_rows: int | None = None,
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
            seed: of the order.
            epochs: how many will be asked for.
            shuffle: False to keep the order of the rows.
            rank: this process.
            processes: how many there are; each gets its own share of the batches.
        """
        self._lengths = [int(length) for length in lengths]
        self._max_tokens, self._max_rows = max_tokens, max_rows or len(lengths)
        self._seed, self._shuffle = seed, shuffle
        self._rank, self._processes = rank, processes
        self.epoch = 0
        most = max(len(self._cut(epoch)) for epoch in range(epochs if shuffle else 1))
        self._steps = math.ceil(most / processes)

    def __len__(self) -> int:
        """Batches of this process in an epoch."""
        return self._steps

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next iteration is."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the rows of each batch of this process."""
        batches = self._filled(self._cut(self.epoch))
        steps = np.arange(self._steps)
        if self._shuffle:
            # Those of one step lie side by side, alike in tokens, and stay together.
            batches.sort(key=self._tokens)
            np.random.default_rng([self._seed, self.epoch, 1]).shuffle(steps)
        for step in steps:
            yield batches[int(step) * self._processes + self._rank]

    def _cut(self, epoch: int) -> list[list[int]]:
        rows = np.arange(len(self._lengths))
        if not self._shuffle:
            return self._packed(rows)
        np.random.default_rng([self._seed, epoch]).shuffle(rows)
        lengths = np.asarray(self._lengths)
        rows_in_batch = min(self._max_tokens / lengths.mean(), self._max_rows)
        window = max(1, int(rows_in_batch * _BATCHES_IN_WINDOW))
        batches: list[list[int]] = []
        for start in range(0, len(rows), window):
            part = rows[start : start + window]
            batches += self._packed(part[np.argsort(lengths[part], kind="stable")])
        return batches

    def _packed(self, rows: np.ndarray) -> list[list[int]]:
        batches = pack(rows.tolist(), self._lengths, self._max_tokens, self._max_rows)
        self._accompany(batches)
        return batches

    def _accompany(self, batches: list[list[int]]) -> None:
        """Give a row that was left over alone its neighbour: in-batch losses need two."""
        if len(batches) < 2 or len(batches[-1]) > 1 or len(batches[-2]) < 3:
            return
        if self._tokens([batches[-2][-1], batches[-1][0]]) <= self._max_tokens:
            batches[-1].insert(0, batches[-2].pop())

    def _filled(self, batches: list[list[int]]) -> list[list[int]]:
        """Cut the largest batches in two until there are as many as planned; single rows are repeated."""
        wanted = self._steps * self._processes
        while len(batches) < wanted:
            place = max(range(len(batches)), key=lambda n: len(batches[n]))
            largest = batches[place]
            if len(largest) == 1:
                break
            middle = len(largest) // 2
            batches[place : place + 1] = [largest[:middle], largest[middle:]]
        return batches + [list(batches[n % len(batches)]) for n in range(wanted - len(batches))]

    def _tokens(self, batch: list[int]) -> int:
        return sum(self._lengths[row] for row in batch)


def token_budget_loader(trainer: SwiftTrainer, features: datasets.Dataset, budget: int) -> DataLoader[Any]:
    """The training batches of this process, at most ``budget`` tokens each."""
    args, options = trainer.args, trainer.options
    rows = options.given.get("per_device_train_batch_size")
    sampler = TokenBudgetBatches(
        features["length"],
        max_tokens=budget,
        max_rows=rows,
        seed=args.seed if args.data_seed is None else args.data_seed,
        epochs=_epochs(trainer, features, budget, rows),
        shuffle=str(args.train_sampling_strategy) != "sequential",
        rank=args.process_index,
        processes=args.world_size,
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
        worker_init_fn=partial(seed_worker, num_workers=workers, rank=args.process_index),
    )
    # The sampler gives each process its own batches; accelerate only moves them to the device.
    return prepare_data_loader(  # type: ignore[no-any-return]
        loader, device=trainer.accelerator.device, num_processes=1, process_index=0, put_on_device=True
    )


def _epochs(trainer: SwiftTrainer, features: datasets.Dataset, budget: int, rows: int | None) -> int:
    """How many epochs the training may last; a few too many do no harm."""
    args = trainer.args
    if args.max_steps <= 0:
        return math.ceil(args.num_train_epochs)
    batches: int = args.max_steps * args.gradient_accumulation_steps * args.world_size
    tokens = int(np.sum(features["length"]))
    fewest = max(1, tokens // budget, len(features) // rows if rows else 0)
    return math.ceil(batches / fewest) + 1
