"""How a run is spread over devices is the library's business; that it is done as asked is ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import transformers
from accelerate.utils import DistributedType

from swift_core.errors import UserError

if TYPE_CHECKING:
    from swift_core.arguments import TrainingArguments


def use_one_gpu_per_process(args: transformers.TrainingArguments) -> None:
    """Keep the library from wrapping the model in DataParallel, which would scatter batches it can't read."""
    if args.n_gpu > 1:
        args._n_gpu = 1
        print(
            f"{torch.cuda.device_count()} GPUs are visible and one is used; start with "
            "`accelerate launch --multi_gpu -m swift_core train ...` to use all"
        )


def check_sharing(args: TrainingArguments) -> None:
    """Refuse to share tokens among processes that are not there, or in a way that nobody has tested.

    Raises:
        UserError: the number of processes is no multiple of ``sequence_parallel_size``, or weights are to be
            shared out as well.
    """
    size, processes = args.core.sequence_parallel_size, args.trainer.world_size
    if size == 1:
        return
    faults = [
        f"sequence_parallel_size: together with {option} it is untested and refused; leave one of them out"
        for option in ("fsdp", "deepspeed")
        if getattr(args.trainer, option)
    ]
    if processes % size:
        faults.append(
            f"sequence_parallel_size: expected a number of processes that {size} divides, found {processes}; "
            f"start with `accelerate launch --num_processes {size} -m swift_core train ...`, or set it to 1"
        )
    if faults:
        raise UserError(*faults)


def check_strategy(args: transformers.TrainingArguments, found: DistributedType) -> None:
    """Refuse to train otherwise than was asked for: on a CPU the library turns FSDP into DDP in silence.

    Raises:
        UserError: it would, or batches would be cut into rows, which they don't consist of here.
    """
    for name in ("dispatch_batches", "split_batches"):
        if getattr(getattr(args, "accelerator_config", None), name, None):
            raise UserError(
                f"accelerator_config: {name} cuts padded batches into rows, and batches here are flat rows "
                "of tokens; leave it out: each process reads its own batches"
            )
    for option, wanted in (("fsdp", DistributedType.FSDP), ("deepspeed", DistributedType.DEEPSPEED)):
        if getattr(args, option) and found != wanted:
            raise UserError(
                f"{option}: expected to train with {wanted.value}, but on this device the library would use "
                f"{found.value}; remove {option}, or train where it is supported"
            )
