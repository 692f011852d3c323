"""What was asked for is what is done."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from accelerate.utils import DistributedType

from swift_core import UserError
from swift_core.strategy import check_strategy


@pytest.mark.parametrize("option", ["fsdp", "deepspeed"])
def test_a_strategy_that_silently_became_another_is_refused(option: str):
    asked = SimpleNamespace(**{"fsdp": None, "deepspeed": None, option: "full_shard"})
    with pytest.raises(UserError, match=f"{option}: expected to train with {option.upper()}.*MULTI_CPU"):
        check_strategy(asked, DistributedType.MULTI_CPU)
    check_strategy(asked, DistributedType[option.upper()])


def test_nothing_asked_nothing_refused():
    check_strategy(SimpleNamespace(fsdp=None, deepspeed=None), DistributedType.NO)
