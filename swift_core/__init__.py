"""Swift: a small core for fine-tuning. Task types are packages of their own that fill five hooks.

The names below are the public API. They are imported on first use, so that ``import swift_core`` costs
neither torch nor transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swift_core.arguments import TrainingArguments
    from swift_core.errors import PluginError, SwiftError, UserError
    from swift_core.hookspecs import Evaluation, LeftOut, LossOutput, hookimpl
    from swift_core.spec import Column, ExportFormat, ExtensionSpec, Metric, ResourceProfile, TaskSpec, option
    from swift_core.trainer import SwiftTrainer

__version__ = "0.1.0"

_HOMES = {
    "TrainingArguments": "arguments",
    "PluginError": "errors",
    "SwiftError": "errors",
    "UserError": "errors",
    "Evaluation": "hookspecs",
    "LeftOut": "hookspecs",
    "LossOutput": "hookspecs",
    "hookimpl": "hookspecs",
    "Column": "spec",
    "ExportFormat": "spec",
    "ExtensionSpec": "spec",
    "Metric": "spec",
    "ResourceProfile": "spec",
    "TaskSpec": "spec",
    "option": "spec",
    "SwiftTrainer": "trainer",
}

__all__ = [
    "Column",
    "Evaluation",
    "ExportFormat",
    "ExtensionSpec",
    "LeftOut",
    "LossOutput",
    "Metric",
    "PluginError",
    "ResourceProfile",
    "SwiftError",
    "SwiftTrainer",
    "TaskSpec",
    "TrainingArguments",
    "UserError",
    "hookimpl",
    "option",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'swift_core' has no attribute {name!r}")
    return getattr(importlib.import_module(f"swift_core.{_HOMES[name]}"), name)
