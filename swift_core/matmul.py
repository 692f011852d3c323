"""Which of torch's two CPU matrix libraries multiplies float32 matrices.

torch carries MKL and oneDNN, and which one is faster depends on the processor: oneDNN can be twice as fast on
AMD. ``torch.backends.mkldnn.matmul.fp32_precision`` routes to oneDNN, but where the processor has units for
shorter numbers it may round as well. So both are measured, speed and accuracy, on this machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

_DEFAULT = "none"
_CANDIDATES = ("tf32", "bf16")
_WORST_ERROR = 1e-5
"""Relative to the largest entry; float32 gives some 1e-6 here, a rounding to bfloat16 1e-3."""
_LEAST_GAIN = 1.15
_ROWS, _INNER, _COLUMNS = 1024, 384, 1536
_TIMES = 3


@contextmanager
def fastest_float32_matmul(device: torch.device) -> Iterator[str]:
    """Multiply float32 matrices by the faster library inside, where it is as exact; afterwards as before.

    Nothing happens on another device than the CPU, or where somebody has chosen a setting already.

    Yields:
        The setting that holds, ``none`` for torch's own.
    """
    before = _setting()
    chosen = before
    if device.type == "cpu" and before == _DEFAULT and _switch() is not None:
        chosen = measured_setting(torch.get_num_threads())
    _set(chosen)
    try:
        yield chosen
    finally:
        _set(before)


@lru_cache
def measured_setting(threads: int) -> str:
    """The fastest setting with full float32 accuracy on this processor with so many ``threads``."""
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(_ROWS, _INNER, generator=generator)
    right = torch.randn(_COLUMNS, _INNER, generator=generator)
    exact = left.double() @ right.double().T
    before = _setting()
    try:
        seconds = {_DEFAULT: float("inf")}
        for setting in _CANDIDATES:
            _set(setting)
            if float((left @ right.T - exact).abs().max() / exact.abs().max()) <= _WORST_ERROR:
                seconds[setting] = float("inf")
        # In turns, so that a busy moment of the machine hits all.
        for _ in range(_TIMES):
            for setting in seconds:
                _set(setting)
                seconds[setting] = min(seconds[setting], _seconds(lambda: left @ right.T))
    finally:
        _set(before)
    best = min(seconds, key=lambda setting: seconds[setting])
    return best if seconds[_DEFAULT] >= _LEAST_GAIN * seconds[best] else _DEFAULT


def with_default_library(function: Callable[..., Tensor], tensors: Sequence[Tensor]) -> Tensor:
    """``function(*tensors)``, forward and backward, with torch's default library.

    The fused attention kernel multiplies many small matrices, for which oneDNN is the slower one.
    """
    routed = _setting()
    if routed == _DEFAULT or tensors[0].device.type != "cpu" or tensors[0].dtype != torch.float32:
        return function(*tensors)
    inside = _BackwardEnds.apply(routed, *tensors)  # type: ignore[no-untyped-call]
    _set(_DEFAULT)
    try:
        return _BackwardBegins.apply(function(*inside))  # type: ignore[no-any-return,no-untyped-call]
    finally:
        _set(routed)


class _BackwardBegins(torch.autograd.Function):
    """Passes on what it is given; its backward runs before that of all between it and `_BackwardEnds`:
    autograd takes what was made later first."""

    @staticmethod
    def forward(ctx: Any, out: Tensor) -> Tensor:
        return out.view_as(out)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        _set(_DEFAULT)
        return gradients[0]


class _BackwardEnds(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, routed: str, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.routed = routed
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        _set(ctx.routed)
        return None, *gradients


def _seconds(function: Callable[[], object]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def _setting() -> str:
    switch = _switch()
    return _DEFAULT if switch is None else str(switch.fp32_precision)


def _set(setting: str) -> None:
    switch = _switch()
    if switch is not None:
        switch.fp32_precision = setting


def _switch() -> Any:
    """torch's switch; None in torch before 2.9, which has none and always uses its default."""
    return getattr(torch.backends.mkldnn, "matmul", None)
