"""What was asked for is what is done."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from accelerate.utils import DistributedType

from swift_core import UserError
from swift_core.strategy import check_sharing, check_strategy


@pytest.mark.parametrize("option", ["fsdp", "deepspeed"])
def test_a_strategy_that_silently_became_another_is_refused(option: str):
    asked = SimpleNamespace(**{"fsdp": None, "deepspeed": None, option: "full_shard"})
    with pytest.raises(UserError, match=f"{option}: expected to train with {option.upper()}.*MULTI_CPU"):
        check_strategy(asked, DistributedType.MULTI_CPU)
    check_strategy(asked, DistributedType[option.upper()])


def test_nothing_asked_nothing_refused():
    check_strategy(SimpleNamespace(fsdp=None, deepspeed=None), DistributedType.NO)


def test_tokens_are_not_shared_among_processes_that_share_weights() -> None:
    trainer = SimpleNamespace(fsdp=["full_shard"], deepspeed=None, world_size=3)
    with pytest.raises(UserError) as told:
        check_sharing(SimpleNamespace(core=SimpleNamespace(sequence_parallel_size=2), trainer=trainer))
    assert [fault.split(";")[0] for fault in told.value.faults] == [
        "sequence_parallel_size: together with fsdp it is untested and refused",
        "sequence_parallel_size: expected a number of processes that 2 divides, found 3",
    ]
