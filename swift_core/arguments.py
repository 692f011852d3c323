"""The options of a run: one flat namespace over the core, the task type and the training loop."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift_core.core_options import CORE_DEFAULTS, TRAINER_LIMITS, CoreOptions
from swift_core.errors import PluginError, UserError, did_you_mean
from swift_core.labels.applying import Applied, Resolved, resolve
from swift_core.labels.finding import find_labels
from swift_core.option_faults import WITHOUT_EFFECT, package_faults, unused_faults, value_faults
from swift_core.options import Option, find_faults, options_of
from swift_core.registry import Claim, load_object, load_spec
from swift_core.runfile import RunFile, parse_value, read_run_file
from swift_core.spec import TaskSpec

if TYPE_CHECKING:
    import transformers


class TrainingArguments:
    """The options of a run, checked.

    Takes every option of :class:`transformers.TrainingArguments` under its own name, those of the core
    (:class:`swift_core.core_options.CoreOptions`) and those of the task type. Reading works on the flat
    namespace (``args.temperature``) and on the typed parts:

    Attributes:
        spec: what the task type says about itself.
        label: what runs are filed under: a label, or the name of the task type.
        governance: the label's definition and the policy; None where there is no labels file.
        core: the core's options.
        task: the task's options (an instance of its own dataclass, or None).
        trainer: the options of the training loop, a ``transformers.TrainingArguments``.
        given: the options that were given, without defaults.
        sources: what each option was read from (``run.yaml:7``), where that is known.

    Raises:
        UserError: unknown, ill-typed or contradicting options; all of them at once.
    """

    def __init__(self, task_type: str, **options: Any) -> None:
        given = {n: os.fspath(v) if isinstance(v, os.PathLike) else v for n, v in options.items()}
        _require_name(task_type)
        self._resolve(resolve(task_type, find_labels(given.get("labels"))), given, {})

    @classmethod
    def from_file(cls, path: str | Path, overrides: Sequence[str] = ()) -> TrainingArguments:
        """Read a run file; ``overrides`` are texts ``option=value`` that win over it."""
        run_file = read_run_file(path)
        return cls._from_values(run_file, overrides, beside=Path(path).parent)

    @classmethod
    def from_record(
        cls, options: Mapping[str, Any], overrides: Sequence[str] = (), *, governance: Applied | None = None
    ) -> TrainingArguments:
        """Build the arguments again that a run was recorded with, under the label as it was then."""
        return cls._from_values(RunFile(dict(options), {}), overrides, governance=governance)

    @classmethod
    def _from_values(
        cls,
        run_file: RunFile,
        overrides: Sequence[str],
        *,
        beside: Path | None = None,
        governance: Applied | None = None,
    ) -> TrainingArguments:
        values, places = dict(run_file.values), dict(run_file.places)
        raw = parse_overrides(overrides)
        if "task_type" in raw:
            values["task_type"], places["task_type"] = parse_value(raw.pop("task_type")), "command line"
        place = f"{places['task_type']}: " if "task_type" in places else ""
        task_type = values.pop("task_type", None)
        if not isinstance(task_type, str):
            found = "none" if task_type is None else repr(task_type)
            raise UserError(
                f"{place}task_type: expected the name of a task type, found {found}; `swift tasks` lists them"
            )
        named = values.get("labels")
        if "labels" in raw:
            named = _fitting(raw["labels"], options_of(CoreOptions, "core")["labels"])
        labels = None if beside is None else find_labels(named, beside=beside)
        try:
            resolved = (
                resolve(task_type, labels) if governance is None else Resolved.again(task_type, governance)
            )
        except UserError as error:
            raise type(error)(f"{place}{error}") from error
        known = known_options(resolved.claim)
        for name, text in raw.items():
            values[name] = _fitting(text, known.get(name))
            places[name] = "command line"
        arguments = cls.__new__(cls)
        arguments._resolve(resolved, values, places)
        return arguments

    def _resolve(
        self,
        resolved: Resolved,
        given: Mapping[str, Any],
        places: Mapping[str, str],
        *,
        check_fixed: bool = True,
    ) -> None:
        self.claim, self.governance = resolved
        self.spec: TaskSpec = load_spec(self.claim)
        self.task_type = self.spec.name
        self.label = self.governance.name if self.governance is not None else self.task_type
        self.given = dict(given)
        self.sources = dict(places)
        known = known_options(self.claim)
        faults = value_faults(given, known, self.spec)
        if check_fixed:
            faults.update(unused_faults({**self._label_values, **given}, self.spec))
        if self.governance is not None:
            own = self.governance.own_values(given)
            faults.update(self.governance.in_its_name(value_faults(own, known, self.spec)))
            faults.update(self.governance.fixed_faults(given) if check_fixed else {})
            places = {**self.governance.places, **places}
        values = {**self._defaults, **given}
        parts = {
            group: {
                n: v for n, v in values.items() if n in known and known[n].group == group and n not in faults
            }
            for group in ("core", "task", "trainer")
        }
        self._known = known
        self.core = self._build(CoreOptions, parts["core"], faults)
        self.initial_model = (self.core.model_name_or_path, self.core.model_revision) if self.core else None
        self.task: Any = self._build(_task_class(self.claim, self.spec), parts["task"], faults)
        self.trainer = self._build_trainer(parts["trainer"], faults)
        faults.update(package_faults(parts["core"], self.spec))
        if faults:
            order = [*(name for name in given if name in faults), *(n for n in faults if n not in given)]
            raise UserError(*(f"{places[n]}: {faults[n]}" if n in places else faults[n] for n in order))

    @staticmethod
    def _build(options_class: type | None, values: Mapping[str, Any], faults: dict[str, str]) -> Any:
        if options_class is None:
            return None
        try:
            return options_class(**values)
        except (TypeError, ValueError) as error:
            faults[options_class.__name__] = str(error)
            return None

    def _build_trainer(
        self, values: Mapping[str, Any], faults: dict[str, str]
    ) -> transformers.TrainingArguments:
        import torch
        import transformers

        # Pinning memory for a device that is not there earns a warning each epoch.
        defaults: dict[str, Any] = {"dataloader_pin_memory": torch.accelerator.is_available()}
        if self.spec.primary_metric is not None:
            defaults["metric_for_best_model"] = self.spec.primary_metric.name
        metric = values.get("metric_for_best_model", defaults.get("metric_for_best_model"))
        # None: not declared by the task, so the library takes it for a loss or a gain by its name.
        defaults["greater_is_better"] = self.spec.higher_is_better(str(metric).removeprefix("eval_"))
        try:
            return transformers.TrainingArguments(**{**defaults, **values})
        except (ValueError, TypeError, ImportError) as error:
            faults["trainer"] = " ".join(str(error).split())
            return transformers.TrainingArguments(output_dir="output")

    def replace(self, **changes: Any) -> TrainingArguments:
        """The same arguments with some options changed."""
        return _rebuilt(Resolved(self.claim, self.governance), {**self.given, **changes})

    def with_model(self, name: str, revision: str | None = None) -> TrainingArguments:
        """The same arguments for another model; safe to call while a run is on.

        Building ``transformers.TrainingArguments`` anew would reset the state that accelerate keeps for the
        whole process.
        """
        model = {"model_name_or_path": name, "model_revision": revision}
        return self._twin(core=dataclasses.replace(self.core, **model), given={**self.given, **model})

    def with_merged_model(self, name: str, revision: str | None = None) -> TrainingArguments:
        """The same for another model as it is: without a new adapter, and one that it has merged into it."""
        twin = self.with_model(name, revision)
        return twin._twin(core=dataclasses.replace(twin.core, use_lora=False))

    def in_folder(self, folder: Path) -> TrainingArguments:
        """The same arguments with the training loop writing into ``folder``."""
        trainer = copy.copy(self.trainer)
        trainer.output_dir = str(folder)
        return self._twin(trainer=trainer)

    def _twin(self, **parts: Any) -> TrainingArguments:
        twin = TrainingArguments.__new__(TrainingArguments)
        twin.__dict__.update({**self.__dict__, **parts})
        return twin

    def says(self, name: str) -> bool:
        """Whether the run, or its label, gives this option a value."""
        return name in self.given or name in self._label_values

    @property
    def _defaults(self) -> dict[str, Any]:
        """What holds where the run says nothing, of options that core, task or label have a default for."""
        of_task = {**CORE_DEFAULTS, **self.spec.defaults}
        adapter = {**of_task, **self._label_values, **self.given}.get("use_lora", False)
        return {**of_task, **(self.spec.lora_defaults if adapter else {}), **self._label_values}

    def changed(self) -> dict[str, Any]:
        """The given options that differ from their defaults."""
        defaults = self._defaults
        return {
            name: value
            for name, value in self.given.items()
            if value != defaults.get(name, self._known[name].default_json)
        }

    def resolved(self) -> dict[str, Any]:
        """Every option with the value that holds."""
        task = dataclasses.asdict(self.task) if self.task is not None else {}
        loop = self.trainer.to_dict()  # type: ignore[no-untyped-call]
        return {**loop, **dataclasses.asdict(self.core), **task}

    @property
    def _label_values(self) -> Mapping[str, Any]:
        return self.governance.values if self.governance is not None else {}

    @property
    def shows_progress(self) -> bool:
        """Whether long work may show a bar. The library's own default turns it off with quiet logs."""
        return not self.given.get("disable_tqdm", False)

    @property
    def output_folder(self) -> Path:
        """Where the folders of all runs go."""
        return Path(str(self.trainer.output_dir))

    @property
    def evaluates(self) -> bool:
        """Whether an option of the task names evaluation data of its own."""
        return bool(self.evaluating_options)

    @property
    def evaluating_options(self) -> list[str]:
        """The options of the task that were given and name evaluation data."""
        own = [option for option in self._known.values() if option.group == "task" and option.evaluates]
        return [option.name for option in own if getattr(self.task, option.name)]

    def __getattr__(self, name: str) -> Any:
        for part in ("core", "task", "trainer"):
            options = self.__dict__.get(part)
            if options is not None and hasattr(options, name):
                return getattr(options, name)
        raise AttributeError(
            f"there is no option '{name}'.{did_you_mean(name, self.__dict__.get('_known', ()))}"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _found_again, (self.claim.qualified_name, self.governance, self.given)

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self.given.items())
        return f"TrainingArguments(task_type={self.label!r}{', ' if given else ''}{given})"


def _found_again(task_type: str, governance: Applied | None, given: dict[str, Any]) -> TrainingArguments:
    return _rebuilt(Resolved.again(task_type, governance), given)


def _rebuilt(resolved: Resolved, given: dict[str, Any]) -> TrainingArguments:
    arguments = TrainingArguments.__new__(TrainingArguments)
    # What is changed inside of a run, such as leaving out the training data to evaluate, changes no rule.
    arguments._resolve(resolved, given, {}, check_fixed=False)
    return arguments


def _require_name(task_type: Any) -> None:
    if not isinstance(task_type, str):
        raise UserError(f"task_type: expected the name of a task type, found {task_type!r}")


def known_options(claim: Claim) -> dict[str, Option]:
    """Every option that a run of this task type takes, by name: the core's, the task's, the training loop's.

    Raises:
        PluginError: the task's options are no dataclass, or take a name that is already in use.
    """
    import transformers

    spec = load_spec(claim)
    known = options_of(transformers.TrainingArguments, "trainer")
    for name, annotation in TRAINER_LIMITS.items():
        known[name] = dataclasses.replace(known[name], annotation=annotation)
    known.update(options_of(CoreOptions, "core"))
    own = task_options(claim, spec)
    # A task may give a meaning to what has none here.
    taken = sorted(own.keys() & known.keys() - WITHOUT_EFFECT.keys())
    if taken:
        raise PluginError(
            f"package {claim.package} {claim.version}: its options {', '.join(taken)} have the names of "
            "options of the core or of transformers.TrainingArguments; rename them"
        )
    known.update(own)
    faults = find_faults({**spec.defaults, **spec.lora_defaults}, known)
    if faults:
        who = f"package {claim.package} {claim.version}: defaults of its spec"
        raise PluginError(*(f"{who}: {fault}" for fault in faults.values()))
    return known


def task_options(claim: Claim, spec: TaskSpec) -> dict[str, Option]:
    """The task's own options by name.

    Raises:
        PluginError: they are no dataclass, or their types can't be resolved.
    """
    task_class = _task_class(claim, spec)
    if task_class is None:
        return {}
    try:
        return options_of(task_class, "task")
    except Exception as error:  # annotations are code of the package
        raise PluginError(
            f"package {claim.package} {claim.version}: the types of {spec.options} can't be resolved "
            f"({type(error).__name__}: {error})"
        ) from error


def _task_class(claim: Claim, spec: TaskSpec) -> type | None:
    if spec.options is None:
        return None
    found = load_object(spec.options, claim)
    if isinstance(found, type) and hasattr(found, "__dataclass_fields__"):
        return found
    raise PluginError(f"package {claim.package} {claim.version}: {spec.options} is not a dataclass")


def parse_overrides(overrides: Sequence[str]) -> dict[str, str]:
    """Split texts ``option=value``.

    Raises:
        UserError: a text has no ``=``, or an option is given twice.
    """
    raw: dict[str, str] = {}
    faults = []
    for text in overrides:
        name, sign, value = text.partition("=")
        name = name.strip().lstrip("-").replace("-", "_")
        if not sign or not name:
            faults.append(f"command line: expected option=value, found {text!r}")
        elif name in raw:
            faults.append(f"command line: '{name}' is given twice; keep one")
        else:
            raw[name] = value
    if faults:
        raise UserError(*faults)
    return raw


def _fitting(text: str, option: Option | None) -> Any:
    # The shell has eaten the quotes: query_prompt='query: ' arrives as a text that YAML reads as a mapping.
    value = parse_value(text)
    if option is not None and option.fault(value) and not option.fault(text):
        return text
    return value
