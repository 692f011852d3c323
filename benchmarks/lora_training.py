"""One training whose memory is measured, in a process of its own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import transformers

from benchmarks.lora_memory import Case
from benchmarks.measure import MemoryWatch
from swift_core import SwiftTrainer, TrainingArguments

_LABELS = 7


def watched_peak(case: Case, steps: int, folder: Path) -> int:
    """Peak of torch's allocator above the base model's weights: the adapter's own are counted."""
    watch = MemoryWatch()
    trainer = _trainer(case, steps, folder, [watch])
    adapter = sum(p.numel() * p.element_size() for n, p in trainer.network.named_parameters() if _is_added(n))
    trainer.train()
    return watch.peak_bytes + adapter


def resident_peak(case: Case, steps: int, folder: Path) -> int:
    """Peak of the resident set over all steps, above what it is before the first."""
    watch = _ResidentWatch()
    _trainer(case, steps, folder, [watch]).train()
    return watch.peak_bytes


class _ResidentWatch(transformers.TrainerCallback):
    def __init__(self) -> None:
        self.peak_bytes = 0
        self._before: int | None = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start to watch when model and first batch are there."""
        if self._before is None:
            _trim()
            self._before = _status("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is held now

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Read the peak, before the model is written."""
        assert self._before is not None
        self.peak_bytes = _status("VmHWM") - self._before


def _trainer(case: Case, steps: int, folder: Path, callbacks: list[Any]) -> SwiftTrainer:
    model = case.model
    if model is None:
        from benchmarks.lora_shapes import write_shape

        assert case.shape is not None
        model = write_shape(case.shape, case.layers, folder / "shape")
    # Given only where it is on: the library warns of its name.
    checkpointing = {"gradient_checkpointing": True} if case.checkpointing else {}
    args = TrainingArguments(
        "sequence-classification",
        **checkpointing,
        model_name_or_path=str(model),
        output_dir=str(folder / "output"),
        cache_dir=str(folder / "cache"),
        max_length=case.tokens,
        max_steps=steps,
        per_device_train_batch_size=case.rows,
        gradient_accumulation_steps=case.accumulate,
        use_lora=case.lora,
        lora_rank=case.rank,
        verify_saves=False,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    return SwiftTrainer(args, train_dataset=_rows(case, model, steps), callbacks=callbacks)


def _rows(case: Case, model: Path, steps: int) -> list[dict[str, str]]:
    """Texts that are cut to just ``case.tokens``."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(model, local_files_only=True)
    words = [tokenizer.decode([n]).strip() for n in range(len(tokenizer) // 2, len(tokenizer))]
    words = [word for word in words if re.fullmatch("[a-z]+", word)] or ["a"]
    count = max(case.rows * case.accumulate * steps, _LABELS)
    return [
        {
            "text": " ".join(words[(row + n) % len(words)] for n in range(case.tokens)),
            "label": f"label {row % _LABELS}",
        }
        for row in range(count)
    ]


def _is_added(name: str) -> bool:
    return "lora_" in name or "modules_to_save" in name


def _status(field: str) -> int:
    text = Path("/proc/self/status").read_text()
    found = re.search(rf"{field}:\s+(\d+) kB", text)
    assert found is not None, field
    return int(found[1]) * 1024


def _trim() -> None:
    """Give freed memory back to the system, or it would be used again and not be seen."""
    import ctypes
    import gc

    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
