"""``SwiftTrainer``: transformers' Trainer with a task type's hooks as collator, loss, evaluation, export."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import transformers
from accelerate.utils import broadcast_object_list
from torch import nn
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import SaveStrategy

from swift_core.arguments import TrainingArguments
from swift_core.batching import CountingCollator, share_of_loss
from swift_core.companions import CompanionCallback
from swift_core.console import ConsoleCallback, Throughput
from swift_core.errors import SwiftError, UserError
from swift_core.exports import export_faults, write_export
from swift_core.figures import LossFigures
from swift_core.flat.data import padding_cost, settle_on_data
from swift_core.flat.sequence import share_tokens
from swift_core.hookspecs import Evaluation
from swift_core.labels.applying import findings_of, refuse_breaches
from swift_core.matmul import fastest_float32_matmul
from swift_core.models import without_progress_bars
from swift_core.modes import evaluating
from swift_core.preparation import (
    DataInput,
    Preparation,
    check_best_metric,
    early_stopping,
    prepare_data,
    prepare_task,
)
from swift_core.resuming import begin_run, checkpoint_to_resume
from swift_core.runs.atomic import TEMPORARY, swap_folder
from swift_core.runs.record import Run, keep_evaluation
from swift_core.sampling import is_planned, planned_loader
from swift_core.saving import (
    CollatorFiles,
    check_reload,
    finish_saved_folder,
    refresh_collator_files,
    refuse_to_replace,
    reload_model,
)
from swift_core.strategy import check_sharing, check_strategy, use_one_gpu_per_process
from swift_core.tracking import RunRecorder

if TYPE_CHECKING:
    from torch.utils.data import DataLoader
    from transformers import TrainerCallback
    from transformers.trainer_utils import TrainOutput


class SwiftTrainer(transformers.Trainer):
    """Trains one run of a task type.

    ``trainer.args`` is a plain ``transformers.TrainingArguments``, so callbacks, DeepSpeed, FSDP and
    ``report_to`` work as they do there; ``trainer.options`` holds all options of the run.

    Raises:
        UserError: the options, the data or the model can't be used; nothing was written.
    """

    # The loss comes back weighed for the whole global batch: see compute_loss.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        args: TrainingArguments,
        train_dataset: DataInput = None,
        eval_dataset: DataInput = None,
        *,
        callbacks: Sequence[TrainerCallback] = (),
        extensions: Sequence[object] = (),
        prepared: Preparation | None = None,
        run: Run | None = None,
    ) -> None:
        """Check options and data, then build the model.

        Args:
            args: the options of the run.
            train_dataset: training rows: a path, a list of paths, a hub id, a ``datasets.Dataset`` or a
                list of dicts; default: ``args.core.dataset``.
            eval_dataset: evaluation rows in the same forms; default: ``args.core.eval_dataset``.
            callbacks: callbacks of transformers.
            extensions: observers and wrappers of hooks.
            prepared: checked data, when :mod:`swift_core.preparation` was called before.
            run: the finished run whose model ``args`` names, to evaluate or export it.
        """
        self.options = args
        ready = prepared or prepare_task(args, train_dataset, eval_dataset, extensions=extensions)
        self.runtime, self.collator = ready.runtime, ready.collator
        self.train_data, self.eval_data = ready.train, ready.evaluation
        self.run = run
        self.throughput = Throughput()
        self.cost_of_padding: float | None = None
        self._figures = LossFigures()
        self._companion = CompanionCallback()
        if run is None and self.train_data is not None:
            check_sharing(args)
        use_one_gpu_per_process(args.trainer)
        # The library sets the seed when it starts, which is after heads and adapters got their first values.
        transformers.set_seed(args.trainer.seed)
        if run is None:
            model = self.runtime.make_model(args=args, collator=self.collator)
        else:
            model = reload_model(run.model, self.runtime, self.collator, args)
        self._start_library(model, args.in_folder(run.folder if run else args.output_folder), callbacks)
        if run is not None:
            self.state.global_step = int(run.record["metrics"].get("train_steps") or 0)

    def _start_library(
        self, model: nn.Module, args: TrainingArguments, callbacks: Sequence[TrainerCallback]
    ) -> None:
        # A task may ask for it by default, of runs that have something to evaluate.
        args.trainer.eval_on_start = args.trainer.eval_on_start and self._has_evaluation
        try:
            super().__init__(
                model=model,
                args=args.trainer,
                data_collator=CountingCollator(self.collator, args.core.sequence_parallel_size),
                train_dataset=self.train_data and self.train_data.features,
                # Only says that there is something to evaluate; evaluate() below looks at the data.
                eval_dataset=() if self._has_evaluation else None,
                processing_class=CollatorFiles(self.collator),  # type: ignore[arg-type]
                callbacks=[
                    *callbacks,
                    *early_stopping(args),
                    self._companion,
                    self.throughput,
                    ConsoleCallback(self),
                ],
            )
        except ValueError as error:
            raise UserError(" ".join(str(error).split())) from error
        check_strategy(self.args, self.accelerator.distributed_type)
        self._num_parameters = sum(p.numel() for p in model.parameters())
        # Versions before loss_is_scaled_for_ga look at this one.
        self.model_accepts_loss_kwargs = True
        self.remove_callback(ProgressCallback)
        self.remove_callback(PrinterCallback)

    @property
    def _has_evaluation(self) -> bool:
        return self.eval_data is not None or self.options.evaluates

    # -- training -----------------------------------------------------------------------------------------

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Train, and save the result in ``model/`` of the run's folder.

        Args:
            resume_from_checkpoint: a ``checkpoint-N`` folder of a run, or the run's own for its last one:
                goes on from there, in that run's folder. True: the newest unfinished run with these options.
            trial: as in transformers.
            ignore_keys_for_eval: as in transformers.
        """
        if self.train_data is None:
            raise UserError("train_dataset: expected training data (or the option dataset), found none")
        checkpoint = checkpoint_to_resume(self.options, resume_from_checkpoint)
        self._settle_batches()
        self._companion.begin(self.collator, self.network, checkpoint)
        # What happened since the trainer was built (an evaluation, another run) must not show in this one.
        transformers.set_seed(self.args.seed)
        with self.recorded(checkpoint), fastest_float32_matmul(self.args.device):
            output = super().train(str(checkpoint) if checkpoint else None, trial, ignore_keys_for_eval)
            self.save_model()
            self._note_metrics({**output.metrics, "train_steps": self.state.global_step})
        return output

    def _settle_batches(self) -> None:
        """Look on a real batch, the same on all processes, how the model can be run without padding."""
        with self.compute_loss_context_manager():
            settle_on_data(self.network, self.train_data, self.collator)
        share_tokens(self.network, self.options.core.sequence_parallel_size)
        if hasattr(self.collator, "before_training"):
            with self.compute_loss_context_manager(), fastest_float32_matmul(self.args.device):
                self.collator.before_training(self.network, self.train_data, self.eval_data)
        if self.train_data is not None and self.is_world_process_zero():
            self.cost_of_padding = padding_cost(self.train_data, self.collator, self.options)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """As the library makes it, or as our options or the task's rules want it."""
        data = self.train_data
        if data is None or data.features is None or not is_planned(self.options, data.features):
            return super().get_train_dataloader()
        return planned_loader(self, data.features, self.options.core.max_tokens_per_batch)

    def get_total_train_batch_size(self, args: transformers.TrainingArguments) -> int:
        """As the library counts the rows of a step, each once."""
        rows = super().get_total_train_batch_size(args)
        return int(rows // self.options.core.sequence_parallel_size)

    @contextmanager
    def recorded(self, checkpoint: Path | None = None) -> Iterator[None]:
        """Make the folder and record of a run (or take over that of ``checkpoint``) for what happens inside.

        ``train`` does so itself; open it around ``train`` to have evaluation and export in the same record,
        which says ``finished`` only when all is done.
        """
        # A flag and not the record: only the main process has that, and all must take the same way.
        if self._recording:
            yield
            return
        self._begin_run(checkpoint)
        self._recording = True
        try:
            if self.run is not None:
                self.runtime.run_started(self.run)
            yield
        except BaseException as error:
            state = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            # On a full disk this can't be written either, and must not hide why; the run counts as killed.
            with contextlib.suppress(UserError, OSError):
                self._end_run(state, f"{type(error).__name__}: {error}".rstrip(": "))
            raise
        finally:
            self._recording = False
        self._end_run("finished")

    _recording = False
    _recorder: RunRecorder | None = None

    def _begin_run(self, checkpoint: Path | None = None) -> None:
        """Make the run's folder, or take over that of ``checkpoint``; every process learns its path."""
        step = int(checkpoint.name.rpartition("-")[2]) if checkpoint else None
        if self.is_world_process_zero():
            self.run = self._own_run(checkpoint)
            if self._recorder is not None:
                self.runtime.remove(self._recorder)  # of the run before
            self._recorder = RunRecorder(resume_step=step)
            self.runtime.add(self._recorder)
        folder = broadcast_object_list([str(self.run.folder) if self.run else None])[0]
        self.args.output_dir = folder

    def _own_run(self, checkpoint: Path | None) -> Run:
        data = [part for part in (self.train_data, self.eval_data) if part is not None]
        refuse_breaches(self.options, findings_of(self.options, measured=self.eval_data is not None))
        return begin_run(self.options, data, checkpoint)

    def _end_run(self, state: Any, error: str | None = None) -> None:
        if self.run is not None:
            self.run.end(state, error)
            try:
                self.runtime.run_ended(self.run)
            except Exception as fault:  # an observer's; the run itself is over, and how it ended must show
                print(f"run_ended of an observer failed: {type(fault).__name__}: {fault}")

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The task's loss, weighed by this batch's share of the items of the global batch.

        The sum over micro-batches, averaged over processes, is then the mean over all items. Processes that
        share a batch count its items once each, above and below the line, and average one and the same loss.
        """
        output = self.runtime.compute_loss(
            model=model, batch=inputs["batch"], collator=self.collator, args=self.options
        )
        items = inputs["num_items"]
        self._figures.add(output.metrics, items[0] if isinstance(items, Sequence) else items)
        self.throughput.tokens += inputs["num_tokens"]
        loss = share_of_loss(output.loss, items, num_items_in_batch) * self.accelerator.num_processes
        return (loss, output) if return_outputs else loss

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        counts = torch.tensor([batch["num_items"] for batch in batch_samples], device=device)
        return self.accelerator.gather(counts.reshape(1, len(counts), -1).sum(1)).sum(0)  # [n]

    def floating_point_ops(self, inputs: Mapping[str, Any]) -> int:
        """About 6 operations a parameter and token, forward and backward (Kaplan et al. 2020)."""
        return 6 * self._num_parameters * int(inputs["num_tokens"])

    @property
    def network(self) -> nn.Module:
        """The model, which the library's type leaves open."""
        return cast(nn.Module, self.model)

    @property
    def _folder(self) -> Path:
        return Path(str(self.args.output_dir))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log ``logs`` everywhere, with the task's own figures and the speed where the loss is among them."""
        if "loss" in logs:
            logs.update(self._figures.flush(self.accelerator))
            logs.update(self.throughput.flush(self.accelerator.num_processes))
        super().log(logs, start_time)
        if self.run is not None and self.other_data is None:
            figures = {k: float(v) for k, v in logs.items() if isinstance(v, (int, float))}
            self.runtime.metrics_logged(self.run, self.state.global_step, figures)

    # -- evaluation ---------------------------------------------------------------------------------------

    def evaluate(
        self,
        eval_dataset: DataInput = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Measure the model on ``eval_dataset``, by default the run's own evaluation data.

        Returns:
            The task's metrics, each name with the prefix.

        Raises:
            UserError: there is nothing to evaluate on.
        """
        data = self.eval_data
        # The library passes the tuple back that stands for the run's own data.
        if eval_dataset is not None and not isinstance(eval_dataset, tuple):
            data = prepare_data(eval_dataset, "test", self.options, self.collator)
        if data is None and not self.options.evaluates:
            raise UserError("eval_dataset: expected evaluation data (or an option that names it), found none")
        started = time.perf_counter()
        with self.measuring() as model, fastest_float32_matmul(self.args.device):
            evaluation = self.runtime.evaluate(
                model=model, collator=self.collator, data=data, args=self.options
            )
        metrics = {f"{metric_key_prefix}_{name}": float(value) for name, value in evaluation.metrics.items()}
        metrics[f"{metric_key_prefix}_runtime"] = round(time.perf_counter() - started, 3)
        own = data is self.eval_data and self.other_data is None
        other = self.other_data or ("other" if metric_key_prefix == "eval" else metric_key_prefix)
        self._keep(evaluation, None if own else other)
        if own:
            self._choose_best_metric(metrics)
        # Figures of other data, by the names of the run's own, would be taken for these.
        clashes = not own and metric_key_prefix == "eval"
        self.log({n.replace("eval_", "other_", 1) if clashes else n: value for n, value in metrics.items()})
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        if not clashes:
            self._note_metrics(metrics)
        return metrics

    other_data: str | None = None
    """What ``eval_data`` goes by where it is not the data that the run was measured on; None: it is."""

    def _note_metrics(self, metrics: Mapping[str, float]) -> None:
        if self.run is not None:
            self.run.update(metrics=metrics)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        stops_early = self.options.core.early_stopping_patience is not None
        check_best_metric(metrics, self.args, stops_early=stops_early)
        return super()._determine_best_metric(metrics, trial)

    def _choose_best_metric(self, metrics: Mapping[str, float]) -> None:
        """Where the run's data gives metrics of another group than the first, that group's primary picks."""
        measured = [m for m in self.options.spec.metrics if m.primary and f"eval_{m.name}" in metrics]
        if measured and not self.options.says("metric_for_best_model"):
            self.args.metric_for_best_model = measured[0].name
            self.args.greater_is_better = measured[0].higher_is_better

    @contextmanager
    def measuring(self) -> Iterator[nn.Module]:
        """The model without gradients, dropout or any effect on the random numbers of training."""
        with evaluating(self.network), torch.random.fork_rng():
            yield self.network

    def _keep(self, evaluation: Evaluation, other: str | None) -> None:
        if self.run is None:
            return
        keep_evaluation(evaluation, self.run, self.state.global_step, other)
        if self._recorder is not None and other is None:
            self._recorder.show(self.run, self.state.global_step, evaluation.pictures)
        if evaluation.learned and other is None:
            has_best = self.args.load_best_model_at_end and not self.is_in_train
            step = (has_best and self.state.best_global_step) or self.state.global_step
            refresh_collator_files(self.collator, self.run.folder, step)

    def _maybe_log_save_evaluate(
        self, tr_loss: Any, grad_norm: Any, model: Any, *rest: Any, **named: Any
    ) -> None:
        """Save before evaluating, where the library does it the other way round.

        A crash in evaluation would lose the step. Only ``save_strategy="best"`` must know the figure first.
        """
        early = self.control.should_save and self.control.should_evaluate
        if not early or self.args.save_strategy == SaveStrategy.BEST:
            return super()._maybe_log_save_evaluate(tr_loss, grad_norm, model, *rest, **named)
        self._save_checkpoint(model, None)
        self.control = self.callback_handler.on_save(self.args, self.state, self.control)
        self.control.should_save = False
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, model, *rest, **named)
        self._note_evaluation_in_checkpoint()

    def _note_evaluation_in_checkpoint(self) -> None:
        folder = self._folder / f"checkpoint-{self.state.global_step}"
        if self.state.best_global_step == self.state.global_step:
            self.state.best_model_checkpoint = str(folder)
        if self.args.should_save:
            staged = folder / "trainer_state.json.new"
            self.state.save_to_json(str(staged))
            staged.replace(folder / "trainer_state.json")

    # -- saving -------------------------------------------------------------------------------------------

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if not self._verified_checkpoint:
            self._verified_checkpoint = True
            self._verify(self._folder / f"checkpoint-{self.state.global_step}")

    _verified_checkpoint = False

    def save_model(  # type: ignore[override]  # says where it wrote
        self, output_dir: str | Path | None = None, _internal_call: bool = False, *, format: str | None = None
    ) -> Path:
        """Save the model, reload it once and compare.

        Args:
            output_dir: where to; default: ``model/`` in the run's folder, or ``exports/<format>/``.
            _internal_call: set by the library when it writes a checkpoint.
            format: one of the task's export formats; default: weights (or the adapter) and what a reload
                needs.

        Returns:
            The folder that was written; it appears whole or not at all.

        Raises:
            UserError: the task has no such format, or a package that it needs is missing.
            SwiftError: what was written does not give the model's outputs.
        """
        if _internal_call:
            place = Path(output_dir) if output_dir else self._folder
            super().save_model(str(place), _internal_call=True)
            if self.args.should_save:
                self._companion.save(place)
            return place
        if output_dir is not None:
            refuse_to_replace(Path(output_dir))
        if self.args.output_dir == self.options.trainer.output_dir:
            # Nothing was trained yet: the untouched model is saved as a run of its own.
            with self.recorded():
                return self.save_model(output_dir, format=format)
        folder = self._folder
        if format is not None:
            return self._export(format, Path(output_dir) if output_dir else folder / "exports" / format)
        return self._save_final(Path(output_dir) if output_dir else folder / "model")

    def _save_final(self, target: Path) -> Path:
        # One name for all processes, each of which may write a part; a killed run may have left one.
        staged = target.with_name(f"{TEMPORARY}{target.name}")
        if self.is_world_process_zero():
            shutil.rmtree(staged, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        super().save_model(str(staged))
        self.accelerator.wait_for_everyone()
        try:
            self._verify(staged)
        except SwiftError:
            shutil.rmtree(staged, ignore_errors=True)
            raise
        if self.is_world_process_zero():
            swap_folder(staged, target)
            if self.run is not None and target == self.run.model:
                self.run.update(model=str(target))
        return target

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        with without_progress_bars():
            super()._save(output_dir, state_dict)
        if self.args.should_save and output_dir is not None:
            finish_saved_folder(Path(output_dir), self.options)

    def _verify(self, folder: Path) -> None:
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        if not self.options.core.verify_saves or sharded or not self.is_world_process_zero():
            return
        # In memory the model computes in mixed precision by itself; the copy has to be told.
        with self.measuring() as model, self.accelerator.autocast():
            check_reload(folder, model, self.runtime, self.collator, self.train_data, self.options)

    def _export(self, format: str, target: Path) -> Path:
        fault = export_faults(format, self.options.spec)
        if fault:
            raise UserError(f"format: {fault}")
        if self.is_world_process_zero():
            write_export(target, format, self)
        self.accelerator.wait_for_everyone()
        return target
