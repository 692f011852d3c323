"""Saved folders: whole or absent, and reloaded once to see that they hold the model."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import send_to_device
from safetensors.torch import load_file
from torch import nn

from swift_core.errors import SwiftError, UserError
from swift_core.flat.check import run_alike
from swift_core.model_folders import is_adapter, resolve_model
from swift_core.models import without_progress_bars
from swift_core.runs.atomic import TEMPORARY, write_text

if TYPE_CHECKING:
    import datasets

    from swift_core.arguments import TrainingArguments
    from swift_core.data.dataset import TaskData
    from swift_core.hookspecs import Collator
    from swift_core.runtime import Runtime

_PROBE_ROWS, _PROBE_TOKENS = 4, 8_192
_TOLERANCE = 1e-4


def refresh_collator_files(collator: Collator, run_folder: Path, step: int) -> None:
    """Write again what ``collator`` saves beside the weights of ``step``: the checkpoint's and the model's.

    Only files that changed are replaced, each as a whole. Where no weights were saved yet nothing happens.
    """
    for folder in (run_folder / f"checkpoint-{step}", run_folder / "model"):
        if folder.is_dir():
            _refresh(collator, folder)


def _refresh(collator: Collator, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=TEMPORARY) as staged:
        CollatorFiles(collator).save_pretrained(staged)
        for new in sorted(path for path in Path(staged).rglob("*") if path.is_file()):
            old = folder / new.relative_to(staged)
            if not old.exists() or old.read_bytes() != new.read_bytes():
                new.replace(old)


class CollatorFiles:
    """A collator where the library expects a tokenizer: it is asked to save itself, and little else."""

    model_input_names = ("input_ids",)

    def __init__(self, collator: Collator) -> None:
        self._collator = collator

    def save_pretrained(self, folder: str) -> None:
        """Write what a reload needs, where the collator has something to write."""
        if hasattr(self._collator, "save_pretrained"):
            self._collator.save_pretrained(folder)


def refuse_to_replace(folder: Path) -> None:
    """Refuse a folder that the caller names and that holds something: it would be replaced as a whole.

    Raises:
        UserError: it is not empty.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"output_dir: {folder} is not empty and would be replaced; name a folder that is new")


def finish_saved_folder(folder: Path, args: TrainingArguments) -> None:
    """Tidy what the library's ``save`` wrote."""
    # A pickle that nobody here reads and nobody should: run.json holds the options.
    (folder / "training_args.bin").unlink(missing_ok=True)
    config, card = folder / "adapter_config.json", folder / "README.md"
    if config.exists() and card.exists() and "[More Information Needed]" in card.read_text(encoding="utf-8"):
        card.unlink()  # peft's: a form to fill in, with the path of the base model on this machine
    name = args.core.model_name_or_path
    from_hub = name and not Path(name).expanduser().exists()
    if config.exists() and from_hub and not is_adapter(resolve_model(args)):
        # Where the hub's copy lies in this machine's cache is of no use on another one.
        text = json.loads(config.read_text())
        text["base_model_name_or_path"] = name
        text["revision"] = args.core.model_revision
        write_text(config, json.dumps(text, indent=2, sort_keys=True))


def args_for(folder: Path, args: TrainingArguments) -> TrainingArguments:
    """The arguments that build a model from the saved ``folder``.

    A model that is none of transformers' has no configuration in it: it is built as it was at first.
    """
    configured = (folder / "config.json").exists() or (folder / "adapter_config.json").exists()
    return args.with_model(str(folder)) if configured else args


def reload_model(folder: Path, runtime: Runtime, collator: Collator, args: TrainingArguments) -> nn.Module:
    """Build the model that was saved in ``folder``, by ``args`` or by those of :func:`args_for`.

    Raises:
        SwiftError: weights are missing from the folder, or the folder holds others.
    """
    own = args_for(folder, args)
    model = runtime.make_model(args=own, collator=collator)
    if own is not args:
        return model
    try:
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except (OSError, RuntimeError) as error:
        raise SwiftError(f"{folder}: the weights can't be loaded back: {error}") from error
    return model


def check_reload(
    folder: Path,
    model: nn.Module,
    runtime: Runtime,
    collator: Collator,
    data: TaskData | None,
    args: TrainingArguments,
) -> None:
    """Reload ``folder`` and compare weights, and the loss of a few rows, with ``model`` in memory.

    Raises:
        SwiftError: they differ.
    """
    with without_progress_bars():
        copy = reload_model(folder, runtime, collator, args).eval()
    run_alike(copy, model)
    _compare_weights(folder, model, copy)
    if data is None or data.features is None:
        return
    rows = _probe_rows(data.features)
    device = next(model.parameters()).device
    batch = send_to_device(collator(rows), device)
    losses = [
        runtime.compute_loss(model=m.to(device), batch=batch, collator=collator, args=args).loss.sum().item()
        for m in (model, copy)
    ]
    if not abs(losses[0] - losses[1]) <= _TOLERANCE * max(1.0, abs(losses[0])):
        raise SwiftError(
            f"{folder}: reloaded, it gives the loss {losses[1]:.6f} where the model in memory gives "
            f"{losses[0]:.6f}; the folder must not be used"
        )


def _probe_rows(features: datasets.Dataset) -> list[Mapping[str, Any]]:
    """The first few rows that a batch may have: of one group, and of long documents one alone."""
    rows: list[Mapping[str, Any]] = [features[row] for row in range(min(_PROBE_ROWS, len(features)))]
    tokens = accumulate(row.get("length", 0) for row in rows)
    few = [row for row, so_far in zip(rows, tokens, strict=True) if so_far <= _PROBE_TOKENS] or rows[:1]
    # Rows of different groups never share a batch.
    return [row for row in few if row.get("group") == few[0].get("group")]


def _compare_weights(folder: Path, model: nn.Module, copy: nn.Module) -> None:
    before, after = _weights(model), _weights(copy)
    broken = sorted(name for name, weight in before.items() if not weight.isfinite().all())
    if broken:
        raise SwiftError(
            f"{folder}: {len(broken)} weights are not finite (NaN or infinite; {', '.join(broken[:3])}): "
            "training diverged. Lower learning_rate, or set warmup_steps or max_grad_norm"
        )
    lost = sorted(before.keys() ^ after.keys())
    changed = [name for name in before.keys() & after.keys() if not torch.equal(before[name], after[name])]
    if lost or changed:
        names = [*lost, *sorted(changed)]
        raise SwiftError(
            f"{folder}: reloaded, it is not the model in memory: {len(names)} weights differ or are missing "
            f"({', '.join(names[:3])}); the folder must not be used. Checkpoints before it are untouched"
        )


def _weights(model: nn.Module) -> dict[str, torch.Tensor]:
    # peft keeps what a head was before it trained a copy of it; nobody reads that, and it is not saved.
    return {
        name: parameter.detach().cpu()
        for name, parameter in model.named_parameters()
        if ".original_module." not in name
    }
