"""The commands that work on runs."""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift_core.errors import SwiftError, UserError
from swift_core.runs.plain import plain

if TYPE_CHECKING:
    from swift_core.arguments import TrainingArguments


def train(parsed: argparse.Namespace) -> int:
    """``swift train``."""
    overrides, resume = list(parsed.options), parsed.resume
    if resume and "=" in resume and not Path(resume).exists():
        # `--resume option=value`: the option was meant, and the newest run.
        overrides, resume = [resume, *overrides], ""
    with quiet_libraries(parsed.json), _named_failures():
        from swift_core import runner
        from swift_core.arguments import TrainingArguments

        args = TrainingArguments.from_file(parsed.run_file, overrides)
        try:
            run = runner.train_run(args, resume=resume)
        except KeyboardInterrupt:
            _say_how_to_go_on(["swift", "train", parsed.run_file, *overrides], args)
            raise
    if run is None:  # one of several processes tells the result
        return 0
    _finish(parsed, runner.describe_result(run), lambda: print(f"finished  {run.folder}"))
    verdict = run.record.get("gates")
    if verdict is None or verdict["passed"]:
        return 0
    print(f"swift: the run failed the gates of its label '{run.record['label']}'", file=sys.stderr)
    return 1


def _say_how_to_go_on(command: list[str], args: TrainingArguments) -> None:
    from swift_core.runs.environment import is_this_process
    from swift_core.runs.record import list_runs

    mine = [run for run in list_runs(args.output_folder) if is_this_process(run.record["sessions"][-1])]
    if not mine or mine[0].state != "interrupted":
        return
    checkpoints = mine[0].checkpoints()
    if checkpoints:
        again = shlex.join([*command, "--resume", str(mine[0].folder)])
        what = f"go on from {checkpoints[-1].name} with: {again}"
    else:
        what = f"no checkpoint was written yet (save_steps={args.save_steps}), so it can't be gone on with"
    print(f"swift: {mine[0].folder} was interrupted; {what}", file=sys.stderr)


def check(parsed: argparse.Namespace) -> int:
    """``swift check``."""
    with quiet_libraries(parsed.json), _named_failures():
        from swift_core import runner
        from swift_core.arguments import TrainingArguments
        from swift_core.console import data_lines, padding_told
        from swift_core.flat.data import padding_cost
        from swift_core.labels.applying import findings_of, label_lines

        args = TrainingArguments.from_file(parsed.run_file, parsed.options)
        ready = runner.check_run(args)
        cost = None if ready.train is None else padding_cost(ready.train, ready.collator, args)
    data = {d.name: d for d in (ready.train, ready.evaluation) if d is not None}

    def say() -> None:
        for line in [*label_lines(args), *data_lines(data)]:
            print(line)
        if cost is not None:
            print(f"padding   {padding_told(cost)}")
        print(f"{parsed.run_file}: no fault found")

    summaries = [part.summary for part in data.values()]
    told = {
        "task_type": args.task_type,
        "label": args.label,
        "warnings": [f.message for f in findings_of(args)],
    }
    _finish(parsed, {**told, "data": summaries, "padding_cost": cost}, say)
    return 0


def evaluate(parsed: argparse.Namespace) -> int:
    """``swift evaluate``."""
    with quiet_libraries(parsed.json), _named_failures():
        from swift_core import runner

        metrics = runner.evaluate_run(Path(parsed.run), parsed.options)
    width = max(map(len, metrics), default=0)
    _finish(parsed, metrics, lambda: print("\n".join(f"{k:<{width}} {v:.4f}" for k, v in metrics.items())))
    return 0


def export(parsed: argparse.Namespace) -> int:
    """``swift export``."""
    with quiet_libraries(parsed.json), _named_failures():
        from swift_core import runner

        despite = ["despite_gates=true"] if parsed.despite_gates else []
        formats = list(dict.fromkeys(parsed.format))
        folders = runner.export_run(Path(parsed.run), formats, [*parsed.options, *despite])
    done = [{"format": name, "folder": str(folder)} for name, folder in zip(formats, folders, strict=True)]
    told = done[0] if len(done) == 1 else {"exports": done}
    _finish(parsed, told, lambda: print("\n".join(f"exported  {folder}" for folder in folders)))
    return 0


def _finish(parsed: argparse.Namespace, result: Any, say: Callable[[], None]) -> None:
    if parsed.json:
        # NaN is no JSON; it is null here as in the run's record.
        print(json.dumps(plain(result), ensure_ascii=False, allow_nan=False))
    else:
        say()


@contextlib.contextmanager
def quiet_libraries(json_wanted: bool) -> Iterator[None]:
    """Keep stdout for the result where a program reads it, and the libraries' own chatter off the screen.

    For commands of packages too.
    """
    with contextlib.redirect_stdout(sys.stderr) if json_wanted else contextlib.nullcontext():
        import datasets
        import transformers

        transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        datasets.disable_progress_bars()
        yield


@contextlib.contextmanager
def _named_failures() -> Iterator[None]:
    """Turn what an environment can do to a run into a sentence; show the rest as it is."""
    try:
        yield
    except (SwiftError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise _of_a_full_disk(error) or _of_the_system(error) or _unexpected(error) from error


_SIGNS_OF_A_FULL_DISK = ("No space left on device", "PytorchStreamWriter failed", "unexpected pos")


def _of_a_full_disk(error: BaseException | None) -> SwiftError | None:
    while error is not None:
        no_space = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        # safetensors says so in words only, and torch's writer only that a file could not be written whole.
        if no_space or any(sign in str(error) for sign in _SIGNS_OF_A_FULL_DISK):
            place = getattr(error, "filename", None) or "while writing"
            return SwiftError(f"the disk is full ({place}); free some space, then go on with --resume")
        error = error.__context__
    return None


def _of_the_system(error: Exception) -> SwiftError | None:
    if not isinstance(error, OSError):
        return _of_a_library(error)
    if error.errno in (errno.EACCES, errno.EROFS):
        return UserError(f"{error.filename}: no permission; choose another output_dir or cache_dir")
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return UserError(f"{error.filename}: expected a folder, found a file in its way; move it")
    return _of_a_library(error)


def _of_a_library(error: Exception) -> SwiftError | None:
    reason = " ".join(str(error).split())
    if type(error).__name__ == "OutOfMemoryError":
        return SwiftError(
            "the device's memory is full; lower per_device_train_batch_size (and raise "
            "gradient_accumulation_steps), max_length, or use use_lora=true"
        )
    if isinstance(error, ModuleNotFoundError) or "pip install" in reason:
        return UserError(f"a package that an option needs is not installed: {reason}")
    if type(error).__name__ == "SafetensorError":
        return SwiftError(
            f"a weights file is damaged ({reason}); if it is in the last checkpoint-N folder of the run, "
            "remove that folder and go on from the one before with --resume"
        )
    if type(error).__module__.startswith(("httpx", "huggingface_hub", "requests.")):
        return SwiftError(f"the hub can't be used: {reason}; an option such as push_to_hub asked for it")
    return None


def _unexpected(error: BaseException) -> SwiftError:
    traceback.print_exception(error)
    return SwiftError(f"the run failed: {type(error).__name__}: {error}")
