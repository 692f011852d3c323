"""The choice of the matrix library: as exact as float32, put back afterwards, never inside of attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from swift_core import matmul
from swift_core.matmul import fastest_float32_matmul, measured_setting, with_default_library

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def untouched() -> Any:
    yield
    torch.backends.mkldnn.matmul.fp32_precision = "none"
    measured_setting.cache_clear()


def setting() -> str:
    return str(torch.backends.mkldnn.matmul.fp32_precision)


def pretend(monkeypatch: pytest.MonkeyPatch, seconds: dict[str, float]) -> None:
    """Clocks that depend on the setting alone."""
    measured_setting.cache_clear()
    monkeypatch.setattr(matmul, "_seconds", lambda function: (function(), seconds[setting()])[1])


def test_what_is_chosen_is_as_exact_as_float32() -> None:
    left, right = (torch.randn(300, 300, generator=torch.Generator().manual_seed(n)) for n in (0, 1))
    exact = left.double() @ right.double()
    with fastest_float32_matmul(CPU):
        error = float((left @ right - exact).abs().max() / exact.abs().max())
    assert error < 1e-5


def test_the_faster_library_holds_inside_and_the_old_setting_afterwards(monkeypatch: Any) -> None:
    pretend(monkeypatch, {"none": 2.0, "tf32": 1.9, "bf16": 1.0})
    monkeypatch.setattr(matmul, "_WORST_ERROR", 1.0)  # exactness is another test's matter
    with fastest_float32_matmul(CPU) as chosen:
        assert (chosen, setting()) == ("bf16", "bf16")
        with fastest_float32_matmul(CPU):
            assert setting() == "bf16"
    assert setting() == "none"
    with pytest.raises(RuntimeError, match="inside"), fastest_float32_matmul(CPU):
        raise RuntimeError("inside")
    assert setting() == "none"


def test_a_setting_that_rounds_is_not_chosen_however_fast(monkeypatch: Any) -> None:
    pretend(monkeypatch, {"none": 2.0, "tf32": 0.1, "bf16": 0.1})
    monkeypatch.setattr(matmul, "_WORST_ERROR", 0.0)
    assert measured_setting(1) == "none"


def test_a_small_gain_changes_nothing(monkeypatch: Any) -> None:
    pretend(monkeypatch, {"none": 1.1, "tf32": 1.0, "bf16": 1.0})
    assert measured_setting(1) == "none"


def test_a_setting_of_the_user_s_stays() -> None:
    torch.backends.mkldnn.matmul.fp32_precision = "tf32"
    with fastest_float32_matmul(CPU) as chosen:
        assert (chosen, setting()) == ("tf32", "tf32")
    assert setting() == "tf32"


def test_a_torch_without_the_switch_keeps_its_default(monkeypatch: Any) -> None:
    monkeypatch.setattr(matmul, "_switch", lambda: None)
    with fastest_float32_matmul(CPU) as chosen:
        assert chosen == "none"
    tensor = torch.ones(2)
    assert with_default_library(lambda x: x + 1, [tensor]).tolist() == [2.0, 2.0]


def test_other_devices_are_left_alone(monkeypatch: Any) -> None:
    pretend(monkeypatch, {"none": 2.0, "tf32": 1.0, "bf16": 1.0})
    with fastest_float32_matmul(torch.device("cuda")) as chosen:
        assert chosen == "none"


def test_attention_meets_the_default_library_forward_and_backward() -> None:
    seen: list[tuple[str, str]] = []

    class Watched(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, name: str, tensor: Tensor) -> Tensor:
            ctx.name = name
            seen.append((f"{name} forward", setting()))
            return tensor.clone()

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Any:
            seen.append((f"{ctx.name} backward", setting()))
            return None, gradients[0]

    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    start = torch.ones(3, requires_grad=True)
    tensor = start
    for number in range(2):  # two layers
        tensor = Watched.apply(f"linear {number}", tensor)
        tensor = with_default_library(lambda x, n=number: Watched.apply(f"attention {n}", x), [tensor])
    Watched.apply("head", tensor).sum().backward()
    assert all(where == ("none" if "attention" in name else "bf16") for name, where in seen), seen
    assert len(seen) == 10
    assert setting() == "bf16"
    torch.testing.assert_close(start.grad, torch.ones(3))
